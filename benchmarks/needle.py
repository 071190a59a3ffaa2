"""The needle grid three ways: every prompt in full, exact depths with a prefix cache, and places
that lengths share.

    python -m benchmarks.needle         the sample's base model, 40 lengths to 3,072 and 10 depths,
                                        one thread
    python -m benchmarks.needle --gpu   a LLaMA-2-7B of random weights at 128K: some cells,
                                        projected to the full grid

Prints cells, tokens read, FLOP, seconds, and the cost of a cell as a ratio to the naive way, all in
one run. It also prints how far the answers with a prefix cache are from the naive ones.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from evaluation.needle import Cell, Needle, cells, prompt
from evaluation.needle_report_config import Given, Grid
from evaluation.prefix_cache import PrefixCache
from training.flops import Shape, shape_of
from training.model import load_model, make_reproducible

ROOT = Path(__file__).parents[1]
A100_HOURS = 96
"""The reference: 4 A100s for "less than 24 hours", by the released code's page."""
ANSWER = 3
"""Tokens of the answer."""
ENDS = np.array([1])
"""The ids that end a sentence: a needle is put behind one."""


def needle_for(vocabulary: int, longest: int) -> Needle:
    """A needle in random tokens, with a sentence end every twenty or so.

    vocabulary: the number of ids. longest: tokens of the haystack.
    """
    draw = np.random.default_rng(0)
    haystack = draw.integers(2, vocabulary, longest)
    haystack[draw.random(longest) < 0.05] = ENDS[0]
    statement, question, answer = (draw.integers(2, vocabulary, size) for size in (10, 8, ANSWER))
    # The benchmark asks for no choice, so there are no rivals and no guesses.
    return Needle(
        before=np.zeros(1, np.int64),
        haystack=haystack,
        statement=statement,
        question=question,
        answer=answer,
        rivals=haystack[:0],
        guesses=haystack[:0],
        said=Given(
            statement="s",
            question="q",
            answer="a",
        ),
    )


def flops(shape: Shape, known: int, read: int) -> float:
    """Forward FLOP of reading `read` tokens after `known` ones."""
    # Two for each weight and token: a product and a sum.
    linear = 2.0 * shape.matrix_weights * read
    # A token attends to all known ones, and to half of the new ones on average.
    pairs = known * read + read**2 / 2
    # Four for each pair and channel: the score and the weighted value, two each.
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * pairs
    return linear + attention


class Counting(PrefixCache):
    """A prefix cache that counts its FLOP."""

    flops = 0.0

    def score(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """As in PrefixCache."""
        before = self.read
        found = super().score(prompts, answers)

        # The last token of an answer is only predicted, never read.
        total = prompts.shape[1] + answers.shape[1] - 1
        read = self.read - before
        self.flops += flops(shape_of(self.model.config), total - read, read)
        return found


def naive(
    model: PreTrainedModel, needle: Needle, wanted: Iterable[Cell], room: int
) -> tuple[dict, int, float]:
    """Read every prompt from its beginning. Returns answers by cell, tokens read and FLOP."""
    answers, read, work = {}, 0, 0.0
    for cell in wanted:
        # A new cache for each cell, so nothing is reused.
        cache = Counting(model, 1, room, 4096)
        answers[cell] = score(cache, needle, cell)
        read += cache.read
        work += cache.flops
    return answers, read, work


def shared(
    model: PreTrainedModel, needle: Needle, wanted: Iterable[Cell], room: int
) -> tuple[dict, int, float]:
    """Read with one prefix cache, in the order of the report. Returns what `naive` does."""
    cache = Counting(model, 1, room, 512)
    wanted = list(wanted)

    # First the haystack without a needle, at every length: the answers that the gain is against.
    for length in sorted({cell.length for cell in wanted}):
        score(cache, needle, Cell(length=length, depth=0, place=None))

    # The last place first: each prompt then shares all tokens before its needle with the last one.
    answers = {}
    for cell in sorted(wanted, key=lambda cell: (-(cell.place or 0), cell.length)):
        answers[cell] = score(cache, needle, cell)
    return answers, cache.read, cache.flops


def score(cache: PrefixCache, needle: Needle, cell: Cell) -> np.ndarray:
    """Log-probabilities of the answer's tokens in one cell."""
    ids = prompt(needle, cell, ANSWER, ENDS)
    return cache.score(ids[None], needle.answer[None])


def grids(
    lengths: tuple[int, ...], depths: int, places: int, needle: Needle
) -> dict[str, list[Cell]]:
    """The cells of both kinds of grid."""
    rooms = [needle.room(length, ANSWER) for length in lengths]
    shares = np.linspace(0, 100, depths).round(2).tolist()
    percent = Grid(lengths=lengths, depths=tuple(shares))
    apart = Grid(
        kind="shared",
        lengths=lengths,
        places=places,
    )
    return {"percent": cells(percent, rooms), "shared": cells(apart, rooms)}


def compare(
    model: PreTrainedModel, lengths: tuple[int, ...], depths: int, places: int
) -> pd.DataFrame:
    """One row for each way. Prints whether their answers agree."""
    room = max(lengths)
    needle = needle_for(model.config.vocab_size, room)
    both = grids(lengths, depths, places, needle)
    rows, answers = [], {}
    ways: dict[str, tuple[Callable, list[Cell]]] = {
        "every prompt in full": (naive, both["percent"]),
        "exact depths, prefix cache": (shared, both["percent"]),
        "shared places, prefix cache": (shared, both["shared"]),
    }

    for name, (way, wanted) in ways.items():
        start = time.monotonic()
        answers[name], read, work = way(model, needle, wanted, room)
        spent = time.monotonic() - start
        rows.append(
            {
                "way": name,
                "cells": len(wanted),
                "tokens read": read,
                "GFLOP": work / 1e9,
                "seconds": spent,
                "s a cell": spent / len(wanted),
            }
        )

    # By cell, because the shared grid has more of them.
    table = pd.DataFrame(rows)
    for name, column in (("time", "seconds"), ("tokens read", "tokens read"), ("GFLOP", "GFLOP")):
        each = table[column] / table["cells"]
        table[f"{name}, times cheaper a cell"] = each.iloc[0] / each

    full = answers["every prompt in full"]
    cached = answers["exact depths, prefix cache"]
    apart = max(np.abs(full[cell] - cached[cell]).max() for cell in full)
    same = all((full[cell].argmax(-1) == cached[cell].argmax(-1)).all() for cell in full)
    words = "the same" if same else "NOT the same"
    print(f"log-probabilities differ by at most {apart:.1e}, first choices: {words}")
    return table


def on_gpu() -> None:
    """Measure the reading speed of a 7B to 128K on one GPU, and project both grids from it."""
    config = LlamaConfig.from_json_file(ROOT / "models/llama-2-7b.json")
    lengths = tuple(np.linspace(1000, 128_000, 40).round().astype(int).tolist())
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    # Some lengths, each read on from the one before: every depth of context is in the mean.
    needle = needle_for(config.vocab_size, max(lengths))
    cache = Counting(model, 1, max(lengths), 4096)
    start = time.monotonic()
    for length in lengths[::8]:
        score(cache, needle, Cell(length=length, depth=0, place=None))
    torch.cuda.synchronize()
    speed = cache.flops / (time.monotonic() - start)
    card = torch.cuda.get_device_name()
    print(f"{card}: {speed / 1e12:.0f} TFLOP/s reading to 128K in pieces of 4,096")

    shape = shape_of(config)
    for name, wanted in grids(lengths, 10, 40, needle).items():
        full = sum(flops(shape, 0, cell.length) for cell in wanted) / speed / 3600
        cached = projected(shape, wanted, max(lengths)) / speed / 3600
        print(
            f"{name}: {len(wanted)} cells, in full {full:.1f} GPU-hours, with a prefix cache "
            f"{cached:.1f}; the reference {A100_HOURS} A100-hours for 400"
        )


def projected(shape: Shape, wanted: list[Cell], longest: int) -> float:
    """FLOP of reading these cells with one prefix cache."""
    # From each place on, the haystack is read once, to the longest cell with a needle there.
    by_place = {}
    for cell in wanted:
        by_place[cell.place] = max(by_place.get(cell.place, 0), cell.length)

    work = flops(shape, 0, longest)
    for place, length in by_place.items():
        work += flops(shape, place, length - place)
    return work


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true")
    if parser.parse_args().gpu:
        on_gpu()
        return

    make_reproducible(0)
    model = load_model(ROOT / "models/sample-base").eval()
    lengths = tuple(np.linspace(128, 3072, 40).round().astype(int).tolist())
    table = compare(model, lengths, 10, 40)
    with pd.option_context("display.width", 250, "display.max_columns", 20):
        print(table.to_string(index=False, float_format=lambda value: f"{value:,.3g}"))


if __name__ == "__main__":
    main()
