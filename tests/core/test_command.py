"""A mistake ends a stage in one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.command import plain_errors
from core.missing import missing

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("data/mixed_dataset/x/index.parquet", "mixed_dataset@x"),
        ("data/raw_corpus/c4", "raw_corpus@c4"),
        ("metrics/packed_shards/x.json", "packed_shards@x"),
        ("data/tokenizer/tokenizer.json", "tokenizer"),
        ("data/token_demand/c4.json", "token_demand"),
        ("metrics/tokenizer.json", "tokenizer"),
    ],
)
def test_a_missing_artefact_is_named_with_its_command(path: str, address: str) -> None:
    assert (
        str(missing(Path(path)))
        == f"{path}: not there. Make it first: python -m orchestration.repro {address}"
    )


@pytest.mark.parametrize(
    "path", ["data/raw_corpus/c4/documents.arrow", "{here}/data/raw_corpus/c4/documents.arrow"]
)
def test_a_file_that_a_stage_makes_ends_the_command_in_one_line(path: str, tmp_path: Path) -> None:
    with (
        pytest.raises(
            SystemExit, match=r"^toy: data/raw_corpus/c4/documents.arrow: .*\.repro raw_corpus@c4$"
        ),
        plain_errors("toy"),
    ):
        Path(path.format(here=tmp_path)).read_bytes()


def test_a_missing_file_of_params_is_named_by_its_key() -> None:
    Path("params.yaml").write_text("raw_corpus: {domains: {c4: {source: sources/mine}}}\n")
    with (
        pytest.raises(
            SystemExit,
            match=r"^toy: params.yaml: raw_corpus.domains.c4.source = sources/mine: no such",
        ),
        plain_errors("toy"),
    ):
        Path("sources/mine/part.jsonl").read_bytes()
    with pytest.raises(FileNotFoundError), plain_errors("toy"):
        Path("sources/mine2").read_bytes()


def act(*arguments: str) -> str:
    """What a stage that must fail says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    return done.stderr.strip()


def test_an_unknown_item_is_answered_with_the_known_ones() -> None:
    Path("params.yaml").write_text(
        "mixed_dataset: {recipes: {one: {}, two: {}}}\npacked_shards: {chunk_length: 8}\n"
    )
    assert act("assets.packed_shards", "three") == (
        "packed_shards: params.yaml: mixed_dataset.recipes has no 'three', only one, two. Add it, "
        "or use one of those."
    )
    assert act("assets.packed_shards", "one") == (
        "packed_shards: data/mixed_dataset/one/index.parquet: not there. Make it first: "
        "python -m orchestration.repro mixed_dataset@one"
    )
    assert act("assets.packed_shards") == "usage: python -m assets.packed_shards RECIPE"
