"""Every mistake in params.yaml is reported before anything runs; a valid file passes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.preflight import problems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], list[str]]:
    """Looks at params.yaml of that content, in a project of the sample's sources and base."""
    for name in ("sources", "models"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)

    def check(sections: dict[str, Any]) -> list[str]:
        Path("params.yaml").write_text(yaml.safe_dump(sections))
        return problems()

    return check


def sample() -> dict[str, Any]:
    """The sample's profile."""
    return dict(yaml.safe_load((ROOT / "profiles" / "sample.yaml").read_text()))


@pytest.mark.parametrize("name", ["sample", "sample-base"])
def test_nothing_is_said_of_a_profile_that_runs(
    check: Callable[[dict[str, Any]], list[str]], name: str
) -> None:
    assert check(yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_a_profile_lacks_nothing_but_files_that_the_user_brings(
    check: Callable[[dict[str, Any]], list[str]], name: str
) -> None:
    found = check(yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text()))
    assert [line for line in found if "no such file or folder" not in line] == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("packed_shard", {}, "params.yaml: packed_shard: no stage of dvc.yaml reads it"),
        (
            "raw_corpus.domains.book.source",
            "sources/nowhere",
            "raw_corpus.domains.book.source = sources/nowhere: no such",
        ),
        (
            "needle_report.haystack",
            "data/raw_corpus/bok",
            "needle_report.haystack = data/raw_corpus/bok: raw_corpus makes",
        ),
        ("book_qa_report.questions", "data/raw_corps/book", "no stage of dvc.yaml makes it"),
        (
            "checkpoint.models.per_source.source",
            "data/packed_shards/x",
            "packed_shards makes no 'x', only cut_at_base",
        ),
        (
            "checkpoint.models.per_source_131k.at",
            1,
            "checkpoint.models.per_source_131k.at = 1: per_source has the snaps",
        ),
        (
            "comparison.untrained",
            "bse",
            "comparison.untrained = 'bse': checkpoint.models has only base, ",
        ),
        (
            "comparison.baseline",
            "orignal",
            "comparison.baseline = 'orignal': checkpoint.models has only base, ",
        ),
        (
            "short_context_report.tasks.choice.file",
            "data/raw_corpus/x",
            "tasks.choice.file = data/raw_corpus/x: ",
        ),
        ("short_context_report.against", "bas", "short_context_report.against = 'bas'"),
        ("mixed_dataset.weights", {"book": 1}, "no share for arxiv, c4, commoncrawl"),
        (
            "tokenizer.source",
            "models/nowhere",
            "tokenizer.source = models/nowhere: no such file or folder",
        ),
        ("loss_report.bands", [5, 3], "loss_report"),
        ("needle_report.tials", 3, "needle_report.tials: unknown key"),
    ],
)
def test_a_wrong_setting_is_named_by_its_key(
    check: Callable[[dict[str, Any]], list[str]], key: str, value: object, said: str
) -> None:
    sections = sample()
    *path, last = key.split(".")
    node = sections
    for part in path:
        node = node[part]
    node[last] = value
    found = check(sections)
    assert len(found) == 1 and said in found[0]


def test_every_use_of_a_renamed_domains_old_name_is_reported(
    check: Callable[[dict[str, Any]], list[str]],
) -> None:
    sections = sample()
    sections["mixed_dataset"]["weights"] = "natural"
    sections["raw_corpus"]["domains"]["novels"] = sections["raw_corpus"]["domains"].pop("book")
    found = check(sections)
    assert [line.split(" = ")[0] for line in found] == [
        "params.yaml: needle_report.haystack",
        "params.yaml: book_qa_report.questions",
    ]


def test_report_sections_are_checked_only_with_a_model(
    check: Callable[[dict[str, Any]], list[str]],
) -> None:
    sections = sample()
    sections["needle_report"]["haystack"] = "data/raw_corpus/nowhere"
    assert len(check(sections)) == 1
    sections["checkpoint"]["models"] = {}
    assert check(sections) == []


def test_a_source_that_dvc_cannot_hash_is_reported_first(
    check: Callable[[dict[str, Any]], list[str]],
) -> None:
    sections = sample()
    sections["raw_corpus"]["domains"]["book"]["source"] = "books"
    Path("books").mkdir()
    os.mkfifo("books/pipe.jsonl")
    (problem,) = check(sections)
    assert problem.startswith(
        "params.yaml: raw_corpus.domains.book.source: books/pipe.jsonl: a named pipe"
    )


def test_a_base_with_another_tokenizer_is_reported_first(
    check: Callable[[dict[str, Any]], list[str]],
) -> None:
    sections = sample()
    shutil.copytree("models/sample-base", "models/other")
    sections["tokenizer"]["source"] = "models/other"
    assert check(sections) == []
    described = json.loads(Path("models/other/tokenizer.json").read_text())
    described["pre_tokenizer"]["add_prefix_space"] = False
    Path("models/other/tokenizer.json").write_text(json.dumps(described))
    (problem,) = check(sections)
    assert problem.startswith("params.yaml: base_checkpoint.source = models/sample-base: ")
    assert "not the tokenizer that made" in problem and "the text 'a' has the ids" in problem
    Path("models/other/tokenizer.json").unlink()
    assert check(sections) == [], "it is to be trained, or is missing, which is said elsewhere"
