"""Every artefact of a tiny world has the bytes that tests/golden.json says.

`core/` is no dependency of any stage, so DVC re-makes nothing when it changes. This test is the
guard in its place: all stages run here, in one process, and a change that alters an artefact fails.

What is compared:

- Data half: the SHA-256 of each file. Of a page, without its pictures.
- Model half: floating-point sums differ between processors. So its numbers are compared to one
  part in a thousand, and of tables the columns, the number of rows and the mean of each column.
- Pictures (PNG): that they are there. Their bytes depend on the version of matplotlib.
- Left out: the versions of packages. But another version of Arrow or tokenizers may give other
  bytes, so when this fails, first install what constraints.txt names (`make setup`).

After a change that is meant to alter artefacts, `python tests/test_golden.py` writes the file
again. Read its diff before you commit it.
"""

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).with_name("golden.json")
REWRITE = "python tests/test_golden.py"

DATA_HALF = (
    "token_demand",
    "raw_corpus",
    "tokenizer",
    "tokenized_corpus",
    "length_histograms",
    "mixed_dataset",
    "packed_shards",
    "data_report",
)
VERSIONS = ("made_with", "transformers_version")
RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far a number of the model half may be off. Gains are differences of larger numbers."""
COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of a model that hold no sums: compared by their hash too."""
MODELS = ("base", "per_source")
OPTIMIZER = {"learning_rate": 1e-3, "batch_tokens": 512, "micro_batch_tokens": 512}


def params() -> dict[str, Any]:
    """Three domains, two recipes, a base of a few thousand parameters, trained for two steps."""
    return {
        "token_demand": {"margin": None},
        "raw_corpus": {
            "seed": 0,
            "text_field": "text",
            "domain_field": None,
            "heldout_fraction": 0.3,
            "longest": 10_000,
            "limits": {"duplicates": 0.1, "contaminated": 0.1, "oversize": 0.1, "empty": 0.1},
            "decontamination": {"against": "sources/evaluation.jsonl", "run": 18},
            "domains": {
                "book": {"source": "sources/book.yaml"},
                "c4": {"source": "sources/c4.yaml"},
                "mine": {"source": "sources/mine.jsonl"},
            },
        },
        "tokenizer": {"source": "data/raw_corpus", "vocab_size": 600},
        "tokenized_corpus": {"bos": True, "eos": False},
        "length_histograms": {"thresholds": [32, 128]},
        "mixed_dataset": {
            "seed": 0,
            "weights": {"book": 0.4, "c4": 0.5, "mine": 0.1},
            "token_budget": 4000,
            "long_over": 64,
            "recipes": {"original": {"cut": 128}, "per_source": {"cut": 128, "long_share": 0.9}},
        },
        "packed_shards": {"chunk_length": 128},
        "data_report": {"title": "A tiny world"},
        "base_checkpoint": {
            "source": "data/tokenized_corpus",
            "architecture": {"hidden_size": 16, "heads": 2, "feed_forward": 32, "context": 64},
            "acts": [
                {"row_length": 64, "tokens": 1024, "repeated_share": 0.5, "optimizer": OPTIMIZER}
            ],
        },
        "checkpoint": {
            "seed": 0,
            "tokens": 1024,
            "context": 128,
            "document_mask": False,
            "precision": "fp32",
            "saved_as": "float32",
            "optimizer": OPTIMIZER,
            "models": {
                "base": {"source": "data/base_checkpoint"},
                "per_source": {"source": "data/packed_shards/per_source", "rope": {"base": 50_000}},
            },
        },
        "needle_report": {
            "seed": 0,
            "haystack": "data/raw_corpus/book",
            "frame": "{context} {question}",
            "drawn": {
                "words": "sample",
                "value_words": 2,
                "statement": "the answer is the name {key} {value} .",
                "question": "the answer is the name {key}",
            },
            "grid": {"kind": "percent", "lengths": [64, 128], "depths": [0, 50, 100]},
            "trials": 2,
            "new_tokens": 4,
            "tokens_at_once": 1024,
        },
        "loss_report": {"bands": [32, 128], "points": [64], "tokens_per_domain": 500},
        "book_qa_report": {
            "questions": "data/raw_corpus/book",
            "count": 2,
            "context": 128,
            "frame": "{context} {question}",
            "new_tokens": 2,
        },
        "short_context_report": {"tasks": {"choice": {"file": "data/raw_corpus/book"}}},
        "comparison": {"baseline": "base", "title": "A tiny world"},
    }


def write_world(root: Path) -> None:
    """params.yaml and its sources: two generated domains and one of JSON Lines.

    `mine` holds an empty text, a duplicate, a text of the evaluation and one that is too long.
    """
    sources = root / "sources"
    sources.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(params()))
    for name, median in (("book", 400), ("c4", 30)):
        statistics = {
            "set_name": name,
            "words": 4000,
            "median_length": median,
            "spread": 0.6,
            "largest_cast": 8,
        }
        (sources / f"{name}.yaml").write_text(yaml.safe_dump(statistics))

    texts = [" ".join(f"é{i * step % 97}" for i in range(3 + step)) for step in range(1, 60)]
    of_evaluation = "nothing of this text stands anywhere else"
    texts += ["", texts[7], f"first words, then {of_evaluation}", "long " * 2_500]
    lines = [json.dumps({"text": text}) for text in texts]
    (sources / "mine.jsonl").write_text("\n".join(lines) + "\n")
    (sources / "evaluation.jsonl").write_text(json.dumps({"text": of_evaluation}) + "\n")


def make_all() -> None:
    """Every stage, in the order of the graph, in this process and the current folder.

    The report of short tasks stays empty, because lm-eval alone takes as long as all the rest.
    """
    from data_world import make_data_half

    from core.sealed import output, write_json
    from evaluation import (
        book_qa_report,
        comparison,
        loss_report,
        needle_report,
    )
    from evaluation.report import report
    from training import base_checkpoint, checkpoint

    make_data_half()
    base_checkpoint.run()
    for model in MODELS:
        checkpoint.run(model)
        sys.argv = ["report", model]
        report("needle_report", needle_report.NeedleReportConfig, needle_report.measure)
        report("loss_report", loss_report.LossReportConfig, loss_report.measure)
        report("book_qa_report", book_qa_report.BookQaReportConfig, book_qa_report.measure)
        with output("short_context_report", model) as out:
            write_json(out.folder / "short_context.json", {})
    comparison.run()


def described(root: Path) -> dict[str, Any]:
    """By path, what is compared of each file in data/ and metrics/."""
    found = {}
    for path in sorted([*(root / "data").rglob("*"), *(root / "metrics").rglob("*")]):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        exact = name.split("/")[1].removesuffix(".json") in DATA_HALF
        kind = path.suffix if path.suffix in LOOSE else ""
        if path.name in COPIED:
            found[name] = _hash_of_facts(path)
        else:
            found[name] = EXACT.get(path.suffix, _hash)(path) if exact else LOOSE[kind](path)
    return found


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _there(path: Path) -> str:
    return "there"


def _facts(path: Path) -> Any:
    """A JSON file without versions; of the hashes in a record, only the names of the files."""
    value = json.loads(path.read_text())
    if isinstance(value, dict):
        value = {key: value[key] for key in value if key not in VERSIONS}
        if path.name == "record.json":
            value["files"] = sorted(value["files"])
    return value


def _hash_of_facts(path: Path) -> str:
    return sha256(json.dumps(_facts(path)).encode()).hexdigest()


def _hash_of_page(path: Path) -> str:
    text = re.sub(r"base64,[\w+/=]+", "base64,", path.read_text())
    return sha256(text.encode()).hexdigest()


def _words_of_page(path: Path) -> str:
    """The hash of a page in which every picture and number is left out, versions among them."""
    text = re.sub(r"base64,[\w+/=]+", "base64,", path.read_text())
    return sha256(re.sub(r"[-–+]?\d[\w.,+]*", "#", text).encode()).hexdigest()


def _table(path: Path) -> dict[str, Any]:
    """A CSV file: its rows, and of each column the mean of its numbers, or the number of texts."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = mean(float(row[name]) for row in rows)
        except ValueError:
            columns[name] = f"{len({row[name] for row in rows})} texts"
    return {"rows": len(rows), "columns": columns}


def _tensors(path: Path) -> dict[str, Any]:
    """A hash of the names, types and shapes of the weights, and the mean of their sizes."""
    from safetensors.numpy import load_file

    weights = load_file(path)
    shapes = [(name, str(weights[name].dtype), weights[name].shape) for name in sorted(weights)]
    means = [float(abs(values).mean()) for values in weights.values()]
    return {"shapes": sha256(repr(shapes).encode()).hexdigest(), "mean size": mean(means)}


EXACT: dict[str, Callable[[Path], Any]] = {
    ".json": _hash_of_facts,
    ".html": _hash_of_page,
    ".png": _there,
}
LOOSE: dict[str, Callable[[Path], Any]] = {
    ".json": _facts,
    ".csv": _table,
    ".html": _words_of_page,
    ".safetensors": _tensors,
    "": _there,
}


def differences(expected: Any, found: Any, where: str) -> list[str]:
    """One line for each value that differs. Sums of floats may be a little off."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted(expected.keys() | found.keys())
        missing = object()
        return [
            line
            for name in names
            for line in differences(
                expected.get(name, missing), found.get(name, missing), f"{where} {name}"
            )
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for number, (one, other) in enumerate(zip(expected, found, strict=True))
            for line in differences(one, other, f"{where} {number}")
        ]
    if type(expected) is type(found) is float and found == pytest.approx(
        expected, rel=RELATIVE, abs=ABSOLUTE
    ):
        return []
    return [] if expected == found else [f"{where}: {expected!r} is now {found!r}"]


def _made(root: Path) -> dict[str, Any]:
    write_world(root)
    before = Path.cwd(), sys.argv
    os.chdir(root)
    try:
        make_all()
    finally:
        os.chdir(before[0])
        sys.argv = before[1]
    return described(root)


def test_each_artefact_has_the_bytes_it_had(tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text())
    changed = differences(expected, _made(tmp_path), "")
    assert not changed, "\n".join([*changed, f"If this is meant: {REWRITE}"])


def test_a_golden_value_that_changes_is_named() -> None:
    one = {"a": {"loss": 2.5, "rows": 3}, "b": "hash"}
    assert differences(one, {"a": {"loss": 2.5001, "rows": 3}, "b": "hash"}, "") == []
    assert differences(one, {"a": {"loss": 2.6, "rows": 4}, "b": "other"}, "") == [
        " a loss: 2.5 is now 2.6",
        " a rows: 3 is now 4",
        " b: 'hash' is now 'other'",
    ]


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        lines = [
            f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in _made(Path(folder)).items()
        ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{GOLDEN} is written. Read its diff.")
