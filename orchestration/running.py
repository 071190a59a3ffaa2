"""Make an item: a child process, `dvc repro --single-item`, that can be stopped with all it started.

DVC decides and records. Each item has a process of its own, rather than DVC's Python API in this
one: a child can be stopped, several can run at once, and a user can type the same command.
dvc_repro.py loses neither a change nor an old output; forks.py starts it in a tenth of a second.

Each child leads a process session, so stopping it stops the trainer inside it too. Killing DVC
alone would orphan the trainer, which would go on writing while a second one starts. And each is
guarded (guard.py): it is stopped the same way when this process is killed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from threading import Event, Lock

from core.environment import JOBS, PROGRESS, SECONDS_TO_STOP, number_of, text_of
from orchestration import guard
from orchestration.forks import Fork, Forks

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BETWEEN_TRIES, MOST_SECONDS_BETWEEN_TRIES = 0.1, 5.0
"""The first, doubled from try to try up to the second: each try costs 0.15 s of CPU."""
PROGRESS_AS_JSON = {PROGRESS.name: "json", "TQDM_DISABLE": "1"}
"""For a command: its progress as JSON (progress.py), without the progress bars of libraries."""
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


class Outcome(StrEnum):
    """What became of an item."""

    RAN = "ran"
    RESTORED = "restored"
    """Made before from the same inputs: taken from DVC's cache."""
    UNCHANGED = "unchanged"


class Stopped(Exception):
    """The children were asked to end."""


class ItemFailed(Exception):
    """The item's command, or DVC, failed. Its output says why."""


def jobs() -> int:
    """How many items to make at once: NEEDLEWORK_JOBS, or one for each processor. It never changes
    the results. Raises ValueError.
    """
    return int(number_of(JOBS)) if text_of(JOBS) else os.cpu_count() or 1


def make_item(children: "Children", address: str, tell: Callable[[str], None]) -> Outcome:
    """Make one item, and pass each line that DVC or its command writes to `tell`. Raises
    ItemFailed and Stopped.

    DVC's global flag waits for the repository's lock. The locks of single paths have no such flag
    and fail at once, so the item is tried again here.
    """
    pause, announced = SECONDS_BETWEEN_TRIES, False
    while True:
        outcome, busy = Outcome.UNCHANGED, False
        try:
            for line in children.repro(address):
                outcome = outcome_of(line, address) or outcome
                busy = busy or any(words in line for words in BUSY)
                if not busy:
                    tell(line)
                elif not announced:
                    tell(f"Waiting for another DVC process. {line}")
                    announced = True
            return outcome
        except ChildProcessError as error:
            raise ItemFailed(str(error)) from None
        except subprocess.CalledProcessError as error:
            if children.stopped:
                raise Stopped from None
            if not busy or outcome is not Outcome.UNCHANGED:
                raise ItemFailed(f"exit code {error.returncode}") from None

        children.pause(pause)
        pause = min(2 * pause, MOST_SECONDS_BETWEEN_TRIES)


class Children:
    """The running children, so that all of them can be stopped at once."""

    def __init__(self, root: Path) -> None:
        self._lock = Lock()
        self._stopped = Event()
        self._patience = number_of(SECONDS_TO_STOP)
        self._forks = Forks(root)
        self._running = set[Fork]()

    def repro(self, address: str) -> Iterator[str]:
        """Yield the output of one `dvc repro --single-item`, line by line. Raises Stopped,
        ChildProcessError, and CalledProcessError when it fails.
        """
        return self.lines("orchestration.dvc_repro", ["--single-item", address])

    def lines(self, module: str, arguments: Sequence[str]) -> Iterator[str]:
        """The same for the function `main` of any module."""
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            child = self._forks.start(module, arguments, environment())
            self._running.add(child)
        return self._output(child, [module, *arguments])

    def _output(self, child: Fork, command: Sequence[str]) -> Iterator[str]:
        with child.lines:
            yield from (line.rstrip() for line in child.lines)
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        if code:
            raise subprocess.CalledProcessError(code, command)

    @property
    def stopped(self) -> bool:
        """Whether the children were asked to end."""
        return self._stopped.is_set()

    def pause(self, seconds: float) -> None:
        """Sleep, at most until stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End each child and all that it started: SIGTERM, then SIGKILL if it takes too long."""
        with self._lock:
            self._stopped.set()
            alive = list(self._running)

        deadline = time.monotonic() + self._patience
        alive = _signal(alive, signal.SIGTERM)
        while alive and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            alive = _signal(alive, 0)

        _signal(alive, signal.SIGKILL)
        with self._lock:
            self._forks.close()


def _signal(children: Sequence[Fork], number: int) -> list[Fork]:
    """Send a signal (0: none) to each session; return those that still had a process."""
    alive = []
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
            alive.append(child)
    return alive


def environment() -> dict[str, str]:
    """The environment of an item's command: its output is not buffered, and items share the cores."""
    # RAYON_NUM_THREADS bounds the tokenizers' threads
    threads = {"RAYON_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs(), 1))}
    return {**threads, **guard.environment(), **PROGRESS_AS_JSON, "PYTHONUNBUFFERED": "1"}


def outcome_of(line: str, address: str) -> Outcome | None:
    """The outcome that a line of DVC's reports; None for all other lines."""
    if line == f"Running stage '{address}':":
        return Outcome.RAN
    if line.startswith(f"Stage '{address}' is cached - skipping run"):
        return Outcome.RESTORED
    if line == f"Stage '{address}' didn't change, skipping":
        return Outcome.UNCHANGED
    return None
