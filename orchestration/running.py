"""Make an item in a child process, `dvc repro --single-item`, that stops with its children.

DVC decides and records. Each item has a process of its own instead of a call of DVC's Python API: a
child can be stopped, several can run at once, and a user can type the same command. The cost is a
tenth of a second for each start (forks.py). dvc_repro.py loses neither a change nor an old output.

Each child leads a process session, so stopping it stops the trainer inside it too. Killing DVC
alone would orphan the trainer, which would continue to write while a second one starts. Each child
is also guarded (guard.py): it is stopped the same way when this process is killed.
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

# How often `stop` checks whether the children have ended. A user waits for it.
SECONDS_BETWEEN_CHECKS = 0.05
SECONDS_BETWEEN_TRIES, MOST_SECONDS_BETWEEN_TRIES = 0.1, 5.0
"""The pause doubles from the first to the second: each try costs 0.15 s of CPU."""
PROGRESS_AS_JSON = {PROGRESS.name: "json", "TQDM_DISABLE": "1"}
"""For a command: progress as JSON (progress.py), without the progress bars of libraries."""
DVC = "orchestration.dvc_repro"
"""The module that is started in place of `dvc repro`."""
# DVC has no exit code for a taken lock, so its words are searched.
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


class Outcome(StrEnum):
    """How DVC brought an item up to date."""

    RAN = "ran"
    RESTORED = "restored"
    """Taken from DVC's cache: it was made before from the same inputs."""
    UNCHANGED = "unchanged"


class Stopped(Exception):
    """The children were asked to end."""


class ItemFailed(Exception):
    """The item's command, or DVC, failed. Its output says why."""


def jobs() -> int:
    """How many items to make at once: NEEDLEWORK_JOBS, or one for each processor.

    It never changes the results. Raises ValueError.
    """
    return int(number_of(JOBS)) if text_of(JOBS) else os.cpu_count() or 1


def make_item(children: "Children", address: str, show: Callable[[str], None]) -> Outcome:
    """Make one item, and pass each line of DVC or its command to `show`.

    Waits while another DVC process holds the item. Raises ItemFailed and Stopped.
    """
    # DVC's flag to wait is for the repository's lock. The locks of single paths fail at once.
    pause, announced = SECONDS_BETWEEN_TRIES, False
    while True:
        outcome, busy = Outcome.UNCHANGED, False
        try:
            for line in children.repro(address):
                outcome = outcome_of(line, address) or outcome
                busy = busy or any(words in line for words in BUSY)
                if not busy:
                    show(line)
                elif not announced:
                    show(f"Waiting for another DVC process. {line}")
                    announced = True
            return outcome
        except ChildProcessError as error:
            raise ItemFailed(str(error)) from None
        except subprocess.CalledProcessError as error:
            if children.stopped:
                raise Stopped from None
            # A command that began and then failed is not tried again, whatever it printed.
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
        """Yield the output of one `dvc repro --single-item`, line by line.

        Raises Stopped, ChildProcessError if it does not start, and CalledProcessError if it fails.
        """
        return self.lines(DVC, ["--single-item", address])

    def lines(self, module: str, arguments: Sequence[str]) -> Iterator[str]:
        """Yield the output of the function `main` of a module; see `repro`."""
        # Check and start under one lock: no child may start after `stop` has listed them.
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
        """Sleep, but not after `stop`."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End each child and its descendants: SIGTERM, then SIGKILL after SECONDS_TO_STOP."""
        with self._lock:
            self._stopped.set()
            alive = list(self._running)

        deadline = time.monotonic() + self._patience
        alive = _signal(alive, signal.SIGTERM)
        while alive and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_CHECKS)
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
    """The environment of an item's command: items share the cores, and lines arrive at once."""
    # RAYON_NUM_THREADS limits the tokenizers' threads. A user's own value comes later and wins.
    threads = {"RAYON_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs(), 1))}
    return {**threads, **guard.environment(), **PROGRESS_AS_JSON, "PYTHONUNBUFFERED": "1"}


def outcome_of(line: str, address: str) -> Outcome | None:
    """The outcome that a line of DVC reports. None for all other lines."""
    if line == f"Running stage '{address}':":
        return Outcome.RAN
    if line.startswith(f"Stage '{address}' is cached - skipping run"):
        return Outcome.RESTORED
    if line == f"Stage '{address}' didn't change, skipping":
        return Outcome.UNCHANGED
    return None
