"""Outputs are whole or not there, and their records tell the truth."""

import json
import signal
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from core.checks import Check
from core.sealed import output

ROOT = Path(__file__).parents[2]


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


def test_a_failed_check_is_a_line_and_keeps_the_artefact(
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


def test_another_package_version_changes_only_the_metrics(
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
    monkeypatch.setattr("core.versions.version", lambda name: "99")
    assert make() == (record, "numpy 99, pyarrow 99, tokenizers 99")


def test_a_failed_run_leaves_the_old_output_alone() -> None:
    with output("toy", "a") as out:
        (out.folder / "x").write_text("old")
    with pytest.raises(RuntimeError), output("toy", "a") as out:
        (out.folder / "x").write_text("new")
        raise RuntimeError
    assert Path("data/toy/a/x").read_text() == "old"
    assert [path.name for path in Path("data/toy").iterdir()] == ["a"]


def test_the_run_after_a_kill_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from core.sealed import output\n"
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
