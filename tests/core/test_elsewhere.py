"""A stage behind a launcher is the same stage: its words, its code, its end."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launchers import launcher_in, srun_in

GRAPH = """
stages:
  slow: {cmd: python -m slow, meta: {pool: gpu}}
  deep:
    foreach: ${mixed_dataset.recipes}
    do: {cmd: "python -m deep ${key}", meta: {pool: two-gpus}}
  near: {cmd: python -m near}
"""
PARAMS = "mixed_dataset: {recipes: {both: {}}}"
SAYS_WHERE = """
import os, sys
from core.command import command
def run(*words):
    print(os.getcwd(), *words, os.environ.get("NEEDLEWORK_ELSEWHERE"), os.environ.get("NEEDLEWORK_X"))
    print("loss", file=sys.stderr)
    sys.exit(7)
command(run, *KINDS)
"""
WAITS_FOR_ITS_END = """
import fcntl, signal, time
from pathlib import Path
from core.command import command
lock = open("at work", "w")
def end(number, frame):
    time.sleep(0.5)  # as long as a snapshot takes
    with Path("asked").open("a") as file:
        file.write("asked once\\n")
    raise SystemExit(143)
def run():
    fcntl.flock(lock, fcntl.LOCK_EX)
    signal.signal(signal.SIGTERM, end)
    print("begun", flush=True)
    while True:
        signal.pause()
command(run)
"""


@pytest.fixture(params=["srun", "ssh"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with launcher_in(request.param, tmp_path) as words:
        yield words


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(PARAMS)
    (root / "slow.py").write_text(SAYS_WHERE.replace("*KINDS", ""))
    (root / "near.py").write_text(SAYS_WHERE.replace("*KINDS", ""))
    (root / "deep.py").write_text(SAYS_WHERE.replace("*KINDS", "'recipe'"))
    return root


def start(root: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """A stage as DVC starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_words_output_and_exit_code_are_those_of_the_stage(project: Path, prefix: str) -> None:
    odd = "a b; 'c' \"$HOME\" é"
    variables = {"NEEDLEWORK_RUN_gpu": prefix, "NEEDLEWORK_X": odd, "NEEDLEWORK_X_TOKEN": "hidden"}
    stage = start(project, "slow", **variables)
    out, err = stage.communicate()
    assert (out, err, stage.returncode) == (f"{project} gpu {odd}\n", "loss\n", 7)


def test_a_pool_gives_a_variable_and_the_item_goes_along(project: Path, tmp_path: Path) -> None:
    prefix = srun_in(tmp_path / "bin")
    out, _ = start(project, "deep", "both", NEEDLEWORK_RUN_two_gpus=prefix).communicate()
    assert out == f"{project} both two-gpus None\n"
    out, _ = start(project, "near", NEEDLEWORK_RUN_two_gpus=prefix).communicate()
    assert out == f"{project} None None\n"


def test_a_stage_is_asked_once_to_end_and_awaited(project: Path, prefix: str) -> None:
    (project / "slow.py").write_text(WAITS_FOR_ITS_END)
    stage = start(project, "slow", NEEDLEWORK_RUN_gpu=prefix)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "begun\n"
    os.killpg(stage.pid, signal.SIGTERM)  # as orchestration/guard.py does
    assert stage.wait() == 143
    assert (project / "asked").read_text() == "asked once\n"
    stage.communicate()


def test_a_stage_ends_when_the_machine_that_asked_for_it_is_lost(
    project: Path, prefix: str
) -> None:
    (project / "slow.py").write_text(WAITS_FOR_ITS_END)
    stage = start(project, "slow", NEEDLEWORK_RUN_gpu=prefix)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "begun\n"
    stage.kill()
    stage.communicate()
    with (project / "at work").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the stage over there has ended
    assert (project / "asked").read_text() == "asked once\n"


def test_a_stage_that_does_not_end_is_killed_in_time(project: Path, tmp_path: Path) -> None:
    deaf = WAITS_FOR_ITS_END.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    (project / "slow.py").write_text(deaf)
    variables = {
        "NEEDLEWORK_RUN_gpu": srun_in(tmp_path / "bin"),
        "NEEDLEWORK_SECONDS_TO_STOP": "0.1",
    }
    stage = start(project, "slow", **variables)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "begun\n"
    stage.send_signal(signal.SIGTERM)
    stage.communicate()
    assert stage.returncode == 128 + signal.SIGKILL


def test_a_launcher_without_input_is_named_and_the_stage_runs(
    project: Path, tmp_path: Path
) -> None:
    program = tmp_path / "submit"
    program.write_text('#!/bin/sh\n"$@" </dev/null\n')
    program.chmod(0o755)
    stage = start(project, "slow", NEEDLEWORK_RUN_gpu=str(program))
    out, err = stage.communicate()
    assert (out, stage.returncode) == (f"{project} gpu None\n", 7)
    assert "loss\n" in err


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NEEDLEWORK_RUN_GPU", "srun", "no stage of dvc.yaml is in a pool 'GPU'"),
        ("NEEDLEWORK_RUN_gpu", "no-such-program --x", "no program 'no-such-program'"),
        ("NEEDLEWORK_RUN_gpu", "srun 'x", "No closing quotation"),
    ],
)
def test_a_wrong_prefix_is_one_line(project: Path, variable: str, value: str, words: str) -> None:
    stage = start(project, "slow", **{variable: value})
    _, err = stage.communicate()
    assert words in err and variable in err and err.count("\n") == 1 and stage.returncode == 1


def test_a_folder_that_a_shell_would_read_otherwise_is_refused(
    project: Path, tmp_path: Path
) -> None:
    odd = project.rename(tmp_path / "my project")
    stage = start(odd, "slow", NEEDLEWORK_RUN_gpu=srun_in(tmp_path / "bin"))
    _, err = stage.communicate()
    assert "my project" in err and err.count("\n") == 1 and stage.returncode == 1
