"""What `make demo` says when something is not as it should be: what, and what to do, in the
terminal itself.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zc.lockfile  # type: ignore[import-untyped]
from dagster_server import until
from dvc_world import make_world

pytestmark = pytest.mark.slow

CHECKED = """
stages:
  raw_corpus:
    cmd: python corpus.py
    deps: [corpus.py]
    outs: [data/raw_corpus]
    metrics: [metrics/raw_corpus.json]
  report:
    cmd: python corpus.py
    deps: [data/raw_corpus, corpus.py]
    outs: [data/report]
"""
CORPUS = """import pathlib
for place in ("metrics/raw_corpus.json", "data/raw_corpus/documents", "data/report/page"):
    pathlib.Path(place).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(place).write_text('{"records": 10, "contaminated": 5}')
"""


def variables(world: Path) -> dict[str, str]:
    """Its environment."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DAGSTER_HOME": str(world / ".dagster"),
    }


def demo(world: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make demo` on that project, which must fail and show no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.demo"],
        cwd=world,
        env={**variables(world), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, (
        done.stdout + done.stderr
    )
    return done


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NEEDLEWORK_JOBS", "all", "a whole number above 0"),
        ("NEEDLEWORK_POOLS", "gpu", "write POOL=PLACES"),
    ],
)
def test_a_setting_that_is_wrong_is_said_before_anything_runs(
    tmp_path: Path, variable: str, value: str, words: str
) -> None:
    world = make_world(tmp_path / "world")
    done = demo(world, **{variable: value})
    assert variable in done.stderr and words in done.stderr and not (world / "data").exists()


def test_a_dvc_at_work_elsewhere_is_named_and_waited_for(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    lock = zc.lockfile.LockFile(str(world / ".dvc" / "tmp" / "lock"))
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "orchestration.demo"],
        cwd=world,
        env=variables(world),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            until(lambda: "DVC is busy" in running.stdout.readline())
        finally:
            lock.close()
        assert running.wait() == 0 and (world / "data/report/all/text").exists()


def test_a_failed_item_and_what_was_not_tried_are_named(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    (world / "sources" / "book" / "documents").write_text("poison")
    said = demo(world).stderr
    assert (
        "raw@book failed" in said
        and "raw: poison in book" in said
        and "what is done stays done" in said
    )
    assert "Not tried, for they read what failed: mixed@both, report" in said


def test_the_demo_shows_a_failed_check_and_what_to_do(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path / "world")
    (world / "dvc.yaml").write_text(CHECKED)
    (world / "corpus.py").write_text(CORPUS)
    (world / "params.yaml").write_text("raw_corpus: {}\n")
    said = demo(world).stderr
    assert "little_contamination" in said and "at most 1.0% of records" in said and "50.00%" in said
    assert "Look at skipped.csv" in said
