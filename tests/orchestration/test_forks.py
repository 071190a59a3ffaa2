"""A fork of a DVC that has started does what a DVC does that starts by itself, and outlives nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dagster_server import executions, hold_back, stages_at_work, until
from dvc_world import make_world

from orchestration.forks import Fork, Forks
from orchestration.running import DVC, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The small project, nothing made; what runs is written down."""
    world = make_world(tmp_path / "world")
    hold_back(world)
    return world


def end(fork: Fork) -> tuple[str, int]:
    """All that it wrote, and its code."""
    with fork.lines:
        return fork.lines.read(), fork.wait()


def single(address: str) -> list[str]:
    """What an item is made with."""
    return ["--single-item", address]


def test_each_fork_sees_the_project_of_its_own_moment(world: Path) -> None:
    forks = Forks(world)
    assert end(forks.start(DVC, single("raw@c4"), environment()))[1] == 0
    (world / "sources/c4/documents").write_text("another document\n")
    code = (world / "stage.py").read_text()
    (world / "stage.py").write_text(f"{code}import os; print(os.environ['SAID'])\n")
    said, ended = end(forks.start(DVC, single("raw@c4"), {**environment(), "SAID": "as asked"}))
    assert ended == 0 and "as asked" in said
    assert "another document" in (world / "data/raw/c4/text").read_text()
    said, ended = end(forks.start(DVC, single("raw@c4"), environment()))
    assert ended == 0 and "didn't change" in said
    forks.close()


def test_a_failure_and_an_unreadable_project_end_with_a_code(world: Path) -> None:
    (world / "sources/book/documents").write_text("poison\n")
    forks = Forks(world)
    said, ended = end(forks.start(DVC, single("raw@book"), environment()))
    assert ended and "raw: poison in book" in said
    (world / "dvc.yaml").write_text("stages: [")
    said, ended = end(forks.start(DVC, single("raw@book"), environment()))
    assert ended and "dvc.yaml" in said and "Traceback" not in said
    forks.close()


def test_a_killed_server_ends_its_forks_and_another_follows(world: Path) -> None:
    (world / "hold/raw-c4").touch()
    forks = Forks(world)
    fork = forks.start(DVC, single("raw@c4"), environment())
    until(lambda: executions(world) and stages_at_work(world))
    assert forks._server is not None
    os.kill(forks._server.pid, signal.SIGKILL)
    end(fork)
    until(lambda: not stages_at_work(world))
    (world / "hold/raw-c4").unlink()
    assert end(forks.start(DVC, single("raw@c4"), environment()))[1] == 0
    assert executions(world) == ["raw c4", "raw c4"]
    forks.close()


ASKS = """
import sys, time
from pathlib import Path
from orchestration.forks import Forks
from orchestration.running import DVC, environment
forks = Forks(Path.cwd())  # kept: its socket closes when nobody holds it, and that ends the forks
fork = forks.start(DVC, ["--single-item", "raw@c4"], environment())
print(fork.pid, flush=True)
fork.lines.read()
"""


def test_forks_end_with_the_process_that_asked_for_them(world: Path) -> None:
    (world / "hold/raw-c4").touch()
    asks = subprocess.Popen(
        [sys.executable, "-c", ASKS], cwd=world, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until(lambda: stages_at_work(world))
    asks.kill()
    asks.wait()
    until(lambda: not stages_at_work(world))
