"""Needle in a haystack for one model: exact match, retrieval gain and choice, by context length and depth.

- exact_match: share of trials in which greedy decoding gives the whole value.
- gain: mean log-probability of the value's tokens with the needle in the context less without it, in nats per token.
  It misleads on a broken model (large gains at 0 % exact match were seen), so it never stands without exact match.
- choice: share of trials in which the value's first token beats the first token of every other value in the context.
  A model that only narrows the answer to "something I saw" scores low here.

Depth 100 % touches the question: it can be answered by looking at the last words, so it is shown and never averaged.
Cost: one forward pass a trial, length and depth, and one more a length for the context without the needle.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from assets.progress import Progress
from assets.randomness import generator
from assets.sample_corpus import NAMES
from assets.stage import Config, UserError, command, output, read_json, read_params, write_json
from assets.token_store import TokenStore, open_tokens
from assets.tokenizer import load_tokenizer
from evaluation.needle import Ids, Needle, prompt
from evaluation.plots import heatmaps, save
from evaluation.scoring import answer_log_probs
from training.model import load_model, make_reproducible

TOUCHING = 100


class NeedleReportConfig(Config):
    """The grid and the words of the test."""

    seed: int = 0
    haystack: str
    """Held-out documents of this domain are the haystack."""
    words: Literal["sample"] | Annotated[tuple[str, ...], Field(min_length=8)]
    """Keys and values are drawn from these: the sample's names, or words of your own."""
    statement: str
    """What is hidden, with {key} and {value}."""
    question: str
    """What is asked, with {key}; the value must be what follows."""
    value_words: Annotated[int, Field(ge=1, le=8)] = 2
    """Words in a value."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    """Context lengths in tokens, question and answer included."""
    depths: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], Field(min_length=1)]
    """Where the statement stands, in percent of the haystack."""
    trials: Annotated[int, Field(ge=1)]
    """Trials in every cell."""
    batch_tokens: Annotated[int, Field(ge=1)]
    """Most tokens in one forward pass."""

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        if "{key}" not in self.statement or "{value}" not in self.statement or "{key}" not in self.question:
            raise ValueError("statement needs {key} and {value}, question needs {key}")
        if all(depth == TOUCHING for depth in self.depths):
            raise ValueError("depths needs one below 100: depth 100 is never averaged")
        return self


def run(name: str) -> None:
    """Make data/needle_report/NAME."""
    config = read_params("needle_report", NeedleReportConfig)
    folder = Path("data/checkpoint") / name
    make_reproducible(config.seed)
    model = load_model(folder).eval()
    facts = read_json(folder / "record.json")
    tokenizer = load_tokenizer(folder)
    store = open_tokens(Path("data/tokenized_corpus") / config.haystack)
    needles = [make_needle(config, store, tokenizer, trial) for trial in range(config.trials)]
    with output("needle_report", name) as out:
        trials = pd.DataFrame(measure(model, needles, sentence_ends(tokenizer), config, name))
        cells = trials.groupby(["length", "depth"], as_index=False)[["exact_match", "gain", "choice"]].mean()
        trials.round(5).to_csv(out.folder / "trials.csv", index=False, lineterminator="\n")
        cells.round(5).to_csv(out.folder / "cells.csv", index=False, lineterminator="\n")
        context = int(model.config.max_position_embeddings)
        save(heatmaps({name: cells}, context, facts["base_context"]), out.folder / "heatmap.png")
        summary = summarise(cells)
        write_json(out.folder / "needle.json", summary)
        within = [exact for length, exact in zip(summary["lengths"], summary["exact_match"], strict=True)
                  if length <= facts["base_context"]]
        out.metrics = {"mean_exact_match": round(float(np.mean(summary["exact_match"])), 5),
                       "within_base_context": round(float(np.mean(within)), 5) if within else None,
                       "mean_gain": round(float(np.mean(summary["gain"])), 5),
                       "mean_choice": round(float(np.mean(summary["choice"])), 5), "trials": config.trials}
        out.facts = {key: facts[key] for key in ("base_context", "rope_base", "tokens_trained")}


def make_needle(config: NeedleReportConfig, store: TokenStore, tokenizer: Tokenizer, trial: int) -> Needle:
    """Trial number `trial`: a span of a held-out document, and a key and a value that do not occur in it."""
    longest = max(config.lengths)
    draw = generator(config.seed, "needle", trial)
    roomy = [int(row) for row in np.flatnonzero(store.heldout & (store.lengths >= longest))]
    if not roomy:
        raise UserError(f"needle_report.haystack = {config.haystack!r}: no held-out document of {longest:,} tokens "
                        f"(longest of {len(store.ids):,}: {int(store.lengths.max(initial=0)):,}). Choose a domain "
                        "with longer documents, lower needle_report.lengths or raise raw_corpus.heldout_fraction.")
    row = int(roomy[int(draw.integers(len(roomy)))])
    document = store.document(row).astype(np.int64)
    start = int(draw.integers(1, max(len(document) - longest, 1) + 1))
    haystack = np.concatenate([document[:1], document[start:start + longest - 1]])
    words = list(NAMES) if config.words == "sample" else list(config.words)
    first_tokens = np.array([_encode(tokenizer, " " + word)[0] for word in words])
    present = np.isin(first_tokens, haystack)
    absent = [word for word, is_there in zip(words, present, strict=True) if not is_there]
    if len(absent) <= config.value_words:
        raise UserError(f"needle_report.words: {len(absent)} of {len(words)} words are not in the haystack, "
                        f"{config.value_words + 1} are needed. Give more words, or rarer ones.")
    key, *value = (absent[i] for i in draw.choice(len(absent), config.value_words + 1, replace=False))
    said = {"key": key, "value": " ".join(value)}
    return Needle(haystack=haystack, statement=_encode(tokenizer, " " + config.statement.format(**said)),
                  question=_encode(tokenizer, " " + config.question.format(**said)),
                  answer=_encode(tokenizer, " " + said["value"]), rivals=np.unique(first_tokens[present]))


def sentence_ends(tokenizer: Tokenizer) -> Ids:
    """Ids of the tokens that end a sentence: their text ends with a full stop, a ? or !, or the end of a line."""
    vocabulary = tokenizer.get_vocab()
    return np.array(sorted(token for text, token in vocabulary.items() if text.endswith((".", "?", "!", "Ċ", "\n"))))


def measure(model: PreTrainedModel, needles: list[Needle], ends: Ids, config: NeedleReportConfig, what: str
            ) -> list[dict[str, Any]]:
    """A record for each trial, length and depth: exact_match and choice (0 or 1), gain (nats per token)."""
    progress = Progress(what, len(needles) * sum(config.lengths) * (len(config.depths) + 1), "tok")
    records = []
    for length in config.lengths:
        for trial, needle in enumerate(needles):
            rows = np.stack([prompt(needle, length, depth, ends) for depth in (None, *config.depths)])
            scores = [answer_log_probs(model, part, len(needle.answer))
                      for part in np.array_split(rows, -(-rows.size // config.batch_tokens)) if len(part)]
            without, *with_needle = np.concatenate(scores)
            rivals = needle.rivals[np.isin(needle.rivals, rows[0])]
            for depth, log_probs in zip(config.depths, with_needle, strict=True):
                records.append({"length": length, "depth": depth, "trial": trial,
                                **judge(log_probs, without, needle.answer, rivals)})
            progress.add(rows.size)
    progress.close()
    return records


def judge(log_probs: NDArray[np.float32], without: NDArray[np.float32], answer: Ids, rivals: Ids) -> dict[str, float]:
    """The three scores of one prompt. log_probs, without: float32[answer, vocabulary]."""
    at = np.arange(len(answer))
    exact = bool((log_probs.argmax(-1) == answer).all())
    others = rivals[rivals != answer[0]]
    beats_all = bool((log_probs[0, answer[0]] > log_probs[0, others]).all())
    gain = float((log_probs[at, answer] - without[at, answer]).mean())
    return {"exact_match": float(exact), "gain": gain, "choice": float(beats_all)}


def summarise(cells: pd.DataFrame) -> dict[str, Any]:
    """Means over the depths below 100 %, a value for each length."""
    means = cells[cells["depth"] < TOUCHING].groupby("length")[["exact_match", "gain", "choice"]].mean().round(5)
    columns = ("exact_match", "gain", "choice")
    return {"lengths": means.index.tolist(), **{column: means[column].tolist() for column in columns}}


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    """Token ids of text that continues a text; where the tokenizer adds the leading space itself, it gets none."""
    ids = tokenizer.encode(text.removeprefix(" ") if _adds_space(tokenizer) else text, add_special_tokens=False).ids
    return np.array(ids, np.int64)


def _adds_space(tokenizer: Tokenizer) -> bool:
    plain, spaced = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", " a"))
    return plain == spaced or len(plain) < len(spaced)


if __name__ == "__main__":
    command(run, "model")
