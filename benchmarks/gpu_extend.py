"""The convincing run: a real pretrained model from its own context to four times that, in minutes.

    python -m benchmarks.gpu_extend pack PROJECT PARTS   what the run needs, in files of 55 MiB
    python -m benchmarks.gpu_extend unpack PARTS FOLDER  put together again, on the GPU's machine
    python -m benchmarks.gpu --extend FOLDER             the run itself

PROJECT is a folder in which the data half has run: data/base_checkpoint, data/packed_shards,
data/tokenized_corpus, a haystack of .txt files, and params.yaml with `checkpoint` and
`needle_report`. Models are trained and tested one after the other by the code of the stages, the
recommended recipe first. Each result is a line of JSON, so a run that is cut short keeps its
results.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from assets.token_store import open_tokens
from benchmarks.gpu import say
from core.environment import SWITCHES
from core.params import read_params
from core.sealed import read_json
from evaluation.model_under_test import ModelUnderTest, of_graph
from evaluation.needle_report import measure
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.scoring import token_losses
from training import checkpoint
from training.checkpoint_config import CheckpointConfig
from training.extension import extend as train_model
from training.hardware import LIGER
from training.parallel import LAUNCHED, join_world

PART = 55 << 20
"""Bytes of each file that travels."""
HELDOUT = "heldout.npz"
"""By domain, the held-out rows: an array of (rows, tokens) each."""
ROWS_PER_DOMAIN = 4
TRAVELS = ("params.yaml", HELDOUT, "haystack", "data/base_checkpoint", "data/packed_shards")


def extend(folder: Path, seconds: float) -> None:
    """Train and test every model of params.yaml, in order. No model begins after `seconds`."""
    deadline = time.monotonic() + seconds
    os.chdir(folder)
    # As if under an accelerate file with FSDP. On one device there is nothing to shard again.
    os.environ |= {LAUNCHED: "true", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    if torch.cuda.is_available():
        os.environ.setdefault(SWITCHES.name, LIGER)
    world = join_world()

    needle = read_params("needle_report", NeedleReportConfig)
    models = read_params("checkpoint", CheckpointConfig).models
    for name, model in models.items():
        if time.monotonic() > deadline:
            say(name, {"stopped": "--seconds is over"}, time.monotonic())
            continue

        begun = time.monotonic()
        # Others are copied by the stage; only a folder of rows is trained on.
        if model.source.is_relative_to("data/packed_shards"):
            train_model(name, world)
        checkpoint.run(name)

        record = read_json(Path("data/checkpoint") / name / "record.json")
        facts = {"tokens": record["tokens_trained"], "rope base": record["rope_base"]}
        say(name, facts, begun)
        for what, result in examine(of_graph(name), needle):
            say(name, {"what": what, **result}, begun)


def examine(
    tested: ModelUnderTest, config: NeedleReportConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The needle by length and depth, and the held-out loss by position."""
    with tempfile.TemporaryDirectory() as place:
        means = measure(tested, config, Path(place))
        cells = pd.read_csv(Path(place) / "cells.csv")
        trials = pd.read_csv(Path(place) / "trials.csv")

    measured = {key: value for key, value in means.items() if value is not None}
    yield "needle", measured
    for score in ("exact_match", "word_overlap", "gain"):
        table = cells.pivot(
            index="length",
            columns="depth",
            values=score,
        ).round(3)
        rows = {}
        for length, row in zip(table.index, table.values.tolist(), strict=True):
            rows[str(length)] = row
        yield score, {"depths": list(table.columns), **rows}

    # The longest prompts are where a model fails first.
    longest = trials[trials["length"] == trials["length"].max()]
    said = [str(text)[:80] for text in longest["said"].head(4)]
    yield "said", {"said": said}
    yield "loss", _loss_by_position(tested)


def _loss_by_position(tested: ModelUnderTest) -> dict[str, Any]:
    """Mean loss of held-out documents in nats, by range of positions."""
    assert tested.model is not None
    losses = []
    with np.load(HELDOUT) as kept:
        for domain in sorted(kept.files):
            losses += [token_losses(tested.model, row.astype(np.int64)) for row in kept[domain]]
    stacked = np.stack(losses)

    # Ranges of doubling width: the first sixteenth, the second, then an eighth, a quarter, a half.
    result: dict[str, Any] = {"rows": len(losses)}
    low = 0
    for share in (1, 2, 4, 8, 16):
        high = stacked.shape[1] * share // 16
        mean = float(stacked[:, low:high].mean())
        result[f"{low}-{high}"] = round(mean, 4)
        low = high
    return result


def pack(project: Path, parts: Path) -> None:
    """Write what the run needs from a project into files of at most PART bytes."""
    length = _row_length(project)

    rows = {}
    for folder in sorted((project / "data/tokenized_corpus").iterdir()):
        store = open_tokens(folder)
        documents = [store.document(int(number)) for number in np.flatnonzero(store.heldout)]
        # Whole rows only: the loss is compared by position.
        long = [ids[:length] for ids in documents if len(ids) >= length]
        if long:
            rows[folder.name] = np.stack(long[:ROWS_PER_DOMAIN]).astype(np.uint32)
    np.savez_compressed(project / HELDOUT, **rows)

    # Weights hardly compress, so the fastest preset.
    memory = io.BytesIO()
    with tarfile.open(
        fileobj=memory,
        mode="w:xz",
        preset=1,
    ) as archive:
        for name in TRAVELS:
            archive.add((project / name).resolve(), name)

    whole = memory.getvalue()
    parts.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(whole), PART)):
        (parts / f"part-{number:02d}").write_bytes(whole[start : start + PART])


def unpack(parts: Path, folder: Path) -> None:
    """Put the parts together and open them in `folder`."""
    whole = b"".join(path.read_bytes() for path in sorted(parts.glob("part-*")))
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        # "data" refuses paths that lead out of the folder.
        archive.extractall(folder, filter="data")


def _row_length(project: Path) -> int:
    """Tokens in a packed row."""
    from training.batches import open_rows

    # All recipes have rows of one length.
    recipes = sorted((project / "data/packed_shards").iterdir())
    return open_rows(recipes[0]).length


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    {"pack": pack, "unpack": unpack}[given.what](given.source, given.target)


if __name__ == "__main__":
    main()
