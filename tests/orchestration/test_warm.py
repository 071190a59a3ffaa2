"""A command is forked from what it imports once another has asked for that, and can't tell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.forks import Forks
from orchestration.running import DVC, environment
from orchestration.warm import module_and_arguments

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAGE = """import os, sys, threading
import helper
brought = "colorsys" in sys.modules
import colorsys
print(f"said {sys.argv[1]} {brought} {helper.VALUE} {sys.flags.optimize} {os.environ['DVC_STAGE']}")
print(f"spec {sys.modules['__main__'].__spec__.name} {sys.path[0] == os.getcwd()}")
if sys.argv[1] == "wrong":
    sys.exit("a plain line")
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
threading.Thread(target=open("made/" + sys.argv[1], "w").write, args=["x"]).start()
"""
GRAPH = """
stages:
  made:
    foreach: [first, second, third, wrong, killed]
    do:
      meta: {imports: [colorsys]}
      cmd: python -m package.stage ${item}
      deps: [package/stage.py]
      outs: ["made/${item}"]
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A project whose command says whether its import was there already."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/stage.py").write_text(STAGE)
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "made").mkdir()
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True
    )
    return tmp_path


def made(forks: Forks, item: str) -> tuple[str, int]:
    """What DVC and the command say, and the code."""
    fork = forks.start(DVC, ["--single-item", f"made@{item}"], environment())
    with fork.lines:
        return fork.lines.read(), fork.wait()


def test_later_commands_find_their_imports_and_nothing_else(world: Path) -> None:
    forks = Forks(world)
    said, code = made(forks, "first")
    assert code == 0 and "said first False 1 0 made@first\n" in said
    said, code = made(forks, "second")
    assert code == 0 and "said second True 1 0 made@second\n" in said
    assert "spec package.stage True\n" in said and "Running stage 'made@second':\n" in said
    (world / "helper.py").write_text("VALUE = 22\n")  # the project's own code is of its moment
    said, code = made(forks, "third")
    assert code == 0 and "said third True 22 0 made@third\n" in said
    said, code = made(forks, "wrong")
    assert code and "a plain line\n" in said and "Traceback" not in said
    said, code = made(forks, "killed")
    assert code and "failed to run: python -m package.stage killed, exited with -9" in said
    forks.close()


def test_a_single_dvc_imports_what_was_asked_for_itself(world: Path) -> None:
    targets = [f"made@{item}" for item in ("first", "second", "third")]
    command = [sys.executable, "-m", "orchestration.dvc_repro", *targets]
    variables = {**environment(), "PYTHONPATH": str(ROOT)}
    variables.pop("TQDM_DISABLE")  # bars, as in a terminal
    done = subprocess.run(command, cwd=world, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    brought = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("said ")]
    assert brought == ["False", "True", "True"]


@pytest.mark.parametrize(
    "line",
    [
        "python stage.py raw",
        "python -m package.stage a > file",
        "python -m package.stage a; rm b",
        "python -m package.stage $HOME",
        "python3.11 -m package.stage a",
        "OMP_NUM_THREADS=1 python -m package.stage",
        "python -m",
    ],
)
def test_what_a_shell_would_read_otherwise_is_not_forked(line: str) -> None:
    here = str(Path.cwd())
    assert module_and_arguments("python -m package.stage a", here, environment()) is not None
    assert module_and_arguments(line, here, environment()) is None


def test_a_command_of_another_place_is_not_forked(tmp_path: Path) -> None:
    line, here = "python -m package.stage a", str(Path.cwd())
    assert module_and_arguments(line, here, environment()) == ["package.stage", "a"]
    assert module_and_arguments(line, str(tmp_path), environment()) is None
    assert module_and_arguments(line, here, {**environment(), "PYTHONPATH": "x"}) is None
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert module_and_arguments(line, here, {**environment(), "PATH": path}) is None
