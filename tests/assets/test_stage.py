"""The frame of a stage: whole outputs or none, records that tell the truth, messages that can be
acted on.
"""

import json
import signal
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field

from assets.stage import (
    Check,
    Config,
    UserError,
    missing,
    names_of,
    number_of_environment,
    output,
    plain_errors,
    read_params,
    validated,
)

ROOT = Path(__file__).parents[2]


class Part(Config):
    """What stands deeper."""

    length: int = 0
    depth: int = 0


class Toy(Config):
    """A section with one bounded key, and others below it."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    one: Part | None = None
    named: dict[str, Part] = {}
    listed: tuple[Part, ...] = ()


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_record_holds_the_hash_of_every_file() -> None:
    with output("toy", "a") as out:
        (out.folder / "deep").mkdir()
        (out.folder / "deep" / "x.txt").write_text("hello")
        out.facts = out.metrics = {"n": 1}
    record = json.loads(Path("data/toy/a/record.json").read_text())
    assert record["files"] == {"deep/x.txt": {"bytes": 5, "sha256": sha256(b"hello").hexdigest()}}
    assert json.loads(Path("metrics/toy/a.json").read_text()) == {"n": 1}


def test_a_failed_check_is_a_line_and_an_entry_and_leaves_the_artefact(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with output("toy", "a") as out:
        (out.folder / "x").write_text("bad")
        out.checks = [
            Check(name="good", passed=False, expected="good", found="bad", advice="Mend it."),
            Check(name="long", passed=False, expected="9", found="3", blocking=False),
            Check(name="there", passed=True, expected="x", found="x"),
            Check(name="sold", passed=None, expected="a price", found="it is not for sale"),
        ]
    assert capsys.readouterr().err.splitlines() == [
        "toy a: blocking check good failed: expected good; found bad. Mend it.",
        "toy a: check long failed: expected 9; found 3.",
    ]
    written = json.loads(Path("data/toy/a/checks.json").read_text())
    assert [(check["name"], check["passed"]) for check in written] == [
        ("good", False),
        ("long", False),
        ("there", True),
        ("sold", None),
    ]
    assert set(json.loads(Path("data/toy/a/record.json").read_text())["files"]) == {
        "checks.json",
        "x",
    }


def test_another_version_of_a_package_changes_the_metrics_and_no_byte_that_others_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> tuple[bytes, str]:
        with output("tokenized_corpus", "web") as out:
            (out.folder / "ids").write_text("1 2 3")
            out.metrics = {"tokens": 3}
            out.unused.add("gigatoken")
        record = Path("data/tokenized_corpus/web/record.json").read_bytes()
        named = Path(json.loads(record)["made_with"])
        assert named == Path("metrics/tokenized_corpus/web.json")
        return record, json.loads(named.read_text())["made_with"]

    record, made_with = make()
    used = ("numpy", "pyarrow", "tokenizers")
    assert made_with == ", ".join(f"{name} {version(name)}" for name in used)
    monkeypatch.setattr("assets.stage.version", lambda name: "99")
    assert make() == (record, "numpy 99, pyarrow 99, tokenizers 99")


def test_a_run_that_fails_leaves_the_old_output_and_nothing_aside() -> None:
    with output("toy", "a") as out:
        (out.folder / "x").write_text("old")
    with pytest.raises(RuntimeError), output("toy", "a") as out:
        (out.folder / "x").write_text("new")
        raise RuntimeError
    assert Path("data/toy/a/x").read_text() == "old"
    assert [path.name for path in Path("data/toy").iterdir()] == ["a"]


def test_a_killed_run_leaves_no_output_and_the_next_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from assets.stage import output\n"
        "with output('toy', 'a') as out:\n"
        "    (out.folder / 'x').write_text('half')\n"
        "    if sys.argv[1] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    (out.folder / 'x').write_text('whole')\n"
    )

    def run(how: str) -> int:
        command = [sys.executable, "-c", program, how]
        return subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}).returncode

    assert run("kill") == -signal.SIGKILL
    assert not Path("data/toy/a").exists()
    assert run("finish") == 0
    assert Path("data/toy/a/x").read_text() == "whole"
    assert [path.name for path in Path("data/toy").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy: {share: 2}", "toy.share = 2: Input should be less than or equal to 1"),
        ("toy: {sahre: 1}", "toy.sahre: unknown key. Known here: share, one, named, listed."),
        ("toy: {one: {lenght: 1}}", "toy.one.lenght: unknown key. Known here: length, depth."),
        (
            "toy: {named: {share: {lenght: 1}}}",
            "toy.named.share.lenght: unknown key. Known here: length, depth.",
        ),
        (
            "toy: {listed: [{}, {lenght: 1}]}",
            "toy.listed.1.lenght: unknown key. Known here: length, depth.",
        ),
        ("other: {}", "no section 'toy'"),
        ("toy: [", "not valid YAML"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_is_allowed(
    text: str, message: str
) -> None:
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        read_params("toy", Toy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b", "'a b' cannot be a name"),
        ("my.domain", "'my.domain' cannot be a name"),
        ("a/b", "'a/b' cannot be a name"),
        ("é", "'é' cannot be a name"),
        ("2024", "as 2024, not as text. Write it in quotes"),
        ("no", "as False, not as text. Write it in quotes"),
    ],
)
@pytest.mark.parametrize(
    "where", ["raw_corpus.domains", "mixed_dataset.recipes", "checkpoint.models"]
)
def test_a_name_that_is_no_folder_and_no_word_is_refused_by_whatever_reads_params(
    where: str, name: str, said: str
) -> None:
    section, key = where.split(".")
    Path("params.yaml").write_text(
        f"toy: {{}}\n{section}: {{{key}: {{good: {{}}, {name}: {{}}}}}}\n"
    )
    with pytest.raises(UserError, match=f"params.yaml: {where}: .*{said}"):
        read_params("toy", Toy)


@pytest.mark.parametrize("name", ["all", "record"])
def test_a_domain_can_not_have_a_name_that_the_tables_and_files_need(name: str) -> None:
    Path("params.yaml").write_text(
        f"mixed_dataset: {{recipes: {{{name}: {{}}}}}}\nraw_corpus: {{domains: {{}}}}\n"
    )
    assert names_of("recipe") == [name]
    Path("params.yaml").write_text(f"raw_corpus: {{domains: {{good: {{}}, {name}: {{}}}}}}\n")
    with pytest.raises(
        UserError, match=f"raw_corpus.domains: '{name}' cannot be a domain's name: .* Take another"
    ):
        names_of("domain")


def test_a_number_in_quotes_and_a_name_of_every_kind_of_sign_are_names() -> None:
    Path("params.yaml").write_text('raw_corpus: {domains: {"2024": {}, "no": {}, A-b_9: {}}}\n')
    assert names_of("domain") == ["2024", "no", "A-b_9"]


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
def test_a_missing_artefact_is_named_with_the_command_that_makes_it(
    path: str, address: str
) -> None:
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


def test_a_missing_file_that_params_name_is_told_by_its_key_and_any_other_stays_an_error() -> None:
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


def test_a_stage_asked_for_an_item_that_is_not_there_says_which_are() -> None:
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


@pytest.mark.parametrize("text", ["15m", "8GB", "-1", "nan", "inf"])
def test_a_number_of_the_environment_that_is_none_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert number_of_environment("TOY_SECONDS", 2.5) == 2.5
    monkeypatch.setenv("TOY_SECONDS", "0")
    assert number_of_environment("TOY_SECONDS", 2.5) == 0
    monkeypatch.setenv("TOY_SECONDS", text)
    with pytest.raises(UserError, match=f"TOY_SECONDS = {text}: not a plain number"):
        number_of_environment("TOY_SECONDS", 2.5)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_a_parameter_that_is_no_number_is_refused_whatever_its_limits(number: str) -> None:
    values = yaml.safe_load(f"{{base: {number}}}")
    with pytest.raises(UserError, match=r"x.base = .*: Input should be a finite number"):
        validated(Unlimited, values, "x")


class Unlimited(Config):
    """A section with a number of any size."""

    base: float
