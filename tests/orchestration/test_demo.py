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
from dvc_world import make_checked_world, make_world

from orchestration.demo import results

pytestmark = pytest.mark.slow


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
        ("NEEDLEWORK_JOBS", "all", "not a whole number, above 0"),
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
    assert "Not tried, because they read what failed: mixed@both, report" in said


def test_the_demo_shows_a_failed_check_and_what_to_do(
    tmp_path: Path,
) -> None:
    world = make_checked_world(tmp_path / "world")
    (world / "sources/book/documents").write_text("bad\n")
    said = demo(world).stderr
    assert "Check no_bad_word failed: expected no bad word; found one. Take it out." in said


def test_the_results_are_a_line_for_each_model() -> None:
    needle = {"lengths": [128, 256], "exact_match": [1.0, None]}
    loss = {"book": {"0-128": 2.0, "128-256": None}, "c4": {"0-128": 3.0}}
    model = {"tokens_trained": 1000000, "needle": needle, "loss": loss}
    shown = results({"base_context": 256, "models": {"per_source": model}})
    heading, row = (line.split("  ") for line in shown.splitlines()[:2])
    assert list(filter(None, map(str.strip, heading))) == [
        "model", "tokens trained", "128", "256", "loss 0-128"
    ]  # fmt: skip
    assert list(filter(None, map(str.strip, row))) == [
        "per_source", "1,000,000", "100", "-", "2.500"
    ]  # fmt: skip
    assert "Base context C = 256." in shown
