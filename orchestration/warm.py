"""Run an item's command in a fork that has already imported slow packages.

torch and transformers take nine seconds of CPU to import. A short evaluation takes as long to run,
and a graph has four evaluations for each model. So a stage may name packages in dvc.yaml (`meta:
{imports: [torch]}`). The first command of a run that needs them starts in a new Python and requests
them. Then the server of forks.py imports them, and later commands are forks of it.

The cost: a server of several hundred megabytes, shared with its forks, and packages as they were
when the run began. The project's own modules are never imported there, so each command runs the
current code. A command is forked only if that makes no difference: one line `python -m MODULE ...`
by this Python, in the project's folder. All others start as DVC starts them.
"""

import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import dvc.stage.run
from dvc.stage import Stage
from dvc.stage.exceptions import StageCmdFailedError
from tqdm import tqdm

IMPORTS = "imports"
"""Key of a stage's `meta`: the modules of installed packages that its command imports."""
MOST_BYTES = 4096
"""The length of one request. Linux writes so many bytes to a pipe in one piece (PIPE_BUF)."""
AT_IMPORT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""torch then counts GPUs without a CUDA context, which a fork could not use."""


class Wanted:
    """A pipe of module names, from the commands to the server that forks them."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        # The server reads between two forks and must not wait for a request.
        os.set_blocking(self._read, False)

    def ask(self, names: Sequence[str]) -> None:
        """In a fork: request these modules. A request that is too long is dropped."""
        line = json.dumps(list(names)).encode() + b"\n"
        if len(line) <= MOST_BYTES:
            os.write(self._write, line)

    def bring(self) -> None:
        """In the server: import the requested modules."""
        with suppress(BlockingIOError):
            while requests := os.read(self._read, MOST_BYTES):
                for line in requests.splitlines():
                    _import(line)


def _import(request: bytes) -> None:
    """Import the modules of one request."""
    # The command imports them too, and reports an import that fails.
    with _environment(AT_IMPORT), suppress(Exception):
        for name in json.loads(request):
            import_module(name)


def fork_commands(wanted: Wanted, alone: bool = False) -> None:
    """Have DVC run commands as forks of this process, where that makes no difference.

    alone: there is no server, so this process imports the requested modules for the next command.
    """
    # DVC's progress bars start a monitor thread, and only a process of one thread may fork.
    tqdm.monitor_interval = 0
    dvc.stage.run.cmd_run = _in_forks(dvc.stage.run.cmd_run, wanted, alone)


def _in_forks(cmd_run: Callable[..., None], wanted: Wanted, alone: bool) -> Callable[..., None]:
    """DVC's `cmd_run`, which runs an item's command, with forks."""

    def run(stage: Stage, dry: bool = False, run_env: Mapping[str, str] | None = None) -> None:
        names = (stage.meta or {}).get(IMPORTS) or ()
        # A fork of a process with several threads may deadlock.
        if dry or not names or threading.active_count() > 1:
            cmd_run(stage, dry=dry, run_env=run_env)
            return

        if alone:
            wanted.bring()
        if any(name not in sys.modules for name in names):
            wanted.ask(names)
            cmd_run(stage, dry=dry, run_env=run_env)
        else:
            with _run_by(_forked(dvc.stage.run._run)):
                cmd_run(stage, dry=dry, run_env=run_env)

    return run


@contextmanager
def _run_by(run: Callable[..., None]) -> Iterator[None]:
    """Replace DVC's `_run`, which runs a single command line."""
    before = dvc.stage.run._run
    dvc.stage.run._run = run
    try:
        yield
    finally:
        dvc.stage.run._run = before


def _forked(original: Callable[..., None]) -> Callable[..., None]:
    """DVC's `_run`, which runs a single command line, with a fork if that makes no difference."""

    def run(executable: str | None, line: str, **options: Any) -> None:
        words = module_and_arguments(line, options["cwd"], options["env"])
        if words is None:
            original(executable, line, **options)
            return

        fork = multiprocessing.get_context("fork").Process(
            target=_become, args=(words, options["env"])
        )
        fork.start()
        # As in DVC: Ctrl-C is for the command, and DVC waits until it has ended.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            fork.join()
        finally:
            signal.signal(signal.SIGINT, before)

        if fork.exitcode:
            raise StageCmdFailedError(line, fork.exitcode)

    return run


def module_and_arguments(
    line: str, folder: str, environment: Mapping[str, str]
) -> list[str] | None:
    """The words after `python -m`, if a fork of this process does the same as the command.

    None if the line contains shell syntax, or needs another Python, folder or module path.
    """
    # All characters that a shell may interpret, `=` too: VARIABLE=value before a command.
    if any(letter in line for letter in "$`\\\"'*?[]{}()<>|&;#~=!\n"):
        return None
    words = shlex.split(line)
    if words[:2] != ["python", "-m"] or len(words) < 3:
        return None

    # Not resolved: in a virtual environment `python` is a link to the system's.
    python = shutil.which("python", path=environment.get("PATH"))
    if python is None:
        return None
    if Path(python).absolute().parent != Path(sys.executable).absolute().parent:
        return None
    if Path(folder).resolve() != Path.cwd():
        return None
    if environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
        return None
    return words[2:]


def _become(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """In the fork: do what `python -m` does with these words."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(words)
    sys.path[0] = str(Path.cwd())  # where `python -m` searches first
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables inside the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
