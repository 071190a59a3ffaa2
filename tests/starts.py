"""`python -m MODULE ...` in a fork of a Python that has imported what takes long to import.

A start of DVC costs a second of CPU, one of torch nine, and the tests make hundreds. The fork
server is the standard library's. It imports packages only, none of ours, so a command has the code
of its moment. Tests of what a command imports, and of services, start a Python of their own.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

ROOT = Path(__file__).parents[1]
SECONDS_BETWEEN_CHECKS = 0.005
"""A step of the small trainings takes more."""
_forks = multiprocessing.get_context("forkserver")
_dvc = ["dvc.api", "dvc.cli.parser", "dvc.repo.reproduce"]
_torch = ["accelerate", "pandas", "torch", "transformers.models.llama.modeling_llama"]
_imported = list[str]()
"""By the fork server at work."""
_of_torch = ("training.", "evaluation.", "orchestration.dvc_repro")


def _import(names: list[str]) -> None:
    """Have the fork server import these. torch costs nine seconds, so one begins without."""
    if not set(names) <= set(_imported):
        _imported.extend(names)
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # the next begins by itself
        _forks.set_forkserver_preload(_imported)


class Started:
    """A command at work, or ended; what subprocess.Popen has, as far as tests ask for it."""

    def __init__(
        self, words: tuple[str, ...], cwd: Path, env: Mapping[str, str], new_session: bool
    ) -> None:
        _import(_torch if words[0].startswith(_of_torch) else _dvc)
        self._folder = TemporaryDirectory(prefix="said-")  # gone with this object
        self._said = Path(self._folder.name)
        self._process = _forks.Process(
            target=_become, args=(words, str(cwd), dict(env), str(self._said), new_session)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As subprocess has it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its code, None while it is at work."""
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """To it alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """What it wrote, to standard output and error, once it has ended."""
        self._process.join()
        stdout, stderr = ((self._said / name).read_text() for name in ("1", "2"))
        return stdout, stderr

    def wait_for(self, seen: Callable[[], object]) -> None:
        """Until that is true, or the command has ended."""
        while self.poll() is None and not seen():
            Event().wait(SECONDS_BETWEEN_CHECKS)


def start(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
) -> Started:
    """`python -m` with these words; where no environment is given, it is this process's."""
    return Started(words, cwd or Path.cwd(), os.environ if env is None else env, new_session)


def run(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """The same, ended."""
    process = start(*words, cwd=cwd, env=env)
    stdout, stderr = process.communicate()
    assert process.returncode is not None
    done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    assert not check or done.returncode == 0, stdout[-3000:] + stderr[-3000:]
    return done


def _become(
    words: tuple[str, ...], cwd: str, env: Mapping[str, str], said: str, new_session: bool
) -> None:
    if new_session:
        os.setsid()
    for number in (1, 2):
        file = os.open(f"{said}/{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(words)
    first = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*first, *(path for path in sys.path if path and path not in first)]
    sys.modules.pop("starts", None)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
