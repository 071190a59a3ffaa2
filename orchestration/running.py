"""Make an item: a child process, `dvc repro --single-item`, that can be stopped with all it started.

DVC decides and records. A process each rather than DVC's Python API in this one: a child can be
stopped, several can work at once, and a user can type the same command. dvc_repro.py runs it
without losing a change or an old output; forks.py has it start in a tenth of a second.

Each child leads a process session, so stopping it stops the trainer inside it too: killing DVC
alone would orphan the trainer, which would go on writing while a second one starts. And each has a
guard, which stops it the same way when this process is killed.
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
from typing import IO

from core.environment import JOBS, PROGRESS, SECONDS_TO_STOP, number_of, text_of
from orchestration import guard
from orchestration.forks import Fork, Forks
from orchestration.guard import guarded

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BETWEEN_TRIES, MOST_SECONDS_BETWEEN_TRIES = 0.1, 5.0
"""The first, doubled from try to try up to the second: each try costs 0.15 s of CPU."""
PROGRESS_AS_JSON = {PROGRESS.name: "json", "TQDM_DISABLE": "1"}
"""Of a command: its progress as JSON (progress.py), and no bars of the libraries that it uses."""
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


Child = subprocess.Popen[str] | Fork


class Outcome(StrEnum):
    """What became of an item."""

    RAN = "ran"
    RESTORED = "restored"
    """Made before from the same inputs: taken from DVC's cache."""
    UNCHANGED = "unchanged"


class Stopped(Exception):
    """The children were told to end."""


class ItemFailed(Exception):
    """The item's command, or DVC, ended badly. Its lines say why."""


def jobs() -> int:
    """How many items to make at once: NEEDLEWORK_JOBS, or one for each processor. Never decides
    what comes out.
    """
    return int(number_of(JOBS)) if text_of(JOBS) else os.cpu_count() or 1


def make_item(children: "Children", address: str, tell: Callable[[str], None]) -> Outcome:
    """Make one item, and pass every line that DVC or its command writes to `tell`. Raises
    ItemFailed and Stopped.

    DVC's global flag waits for the repository's lock. The locks of single paths have no such flag
    and fail at once, so here the item is tried again.
    """
    pause, told = SECONDS_BETWEEN_TRIES, False
    while True:
        outcome, busy = Outcome.UNCHANGED, False
        try:
            for line in children.repro(address):
                outcome = outcome_of(line, address) or outcome
                busy = busy or any(words in line for words in BUSY)
                if not busy:
                    tell(line)
                elif not told:
                    tell(f"Waiting for another DVC process. {line}")
                    told = True
        except ChildProcessError as error:
            raise ItemFailed(str(error)) from None
        except subprocess.CalledProcessError as error:
            if children.stopped:
                raise Stopped from None
            if not busy or outcome is not Outcome.UNCHANGED:
                raise ItemFailed(f"exit code {error.returncode}") from None
            children.pause(pause)
            pause = min(2 * pause, MOST_SECONDS_BETWEEN_TRIES)
        else:
            return outcome


class Children:
    """The processes at work, so that all of them can be stopped at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = Lock()
        self._stopped = Event()
        self._patience = number_of(SECONDS_TO_STOP)
        self._forks = Forks(root)
        self._at_work = set[Child]()

    def repro(self, address: str) -> Iterator[str]:
        """Yield the lines of one `dvc repro --single-item`; raises CalledProcessError when it
        fails.
        """
        arguments = ["--single-item", address]
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            fork = self._forks.repro(arguments, environment())
            self._at_work.add(fork)
        return self._said(fork, fork.lines, ["dvc", "repro", *arguments])

    def lines(self, command: Sequence[str]) -> Iterator[str]:
        """Yield what a command writes, line by line; raises CalledProcessError when it fails."""
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            process = subprocess.Popen(
                guarded(command),
                cwd=self.root,
                env=environment(),
                start_new_session=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self._at_work.add(process)
        assert process.stdout is not None
        return self._said(process, process.stdout, command)

    def _said(self, child: Child, lines: IO[str], command: Sequence[str]) -> Iterator[str]:
        with lines:
            yield from (line.rstrip() for line in lines)
        code = child.wait()
        with self._lock:
            self._at_work.discard(child)
        if code:
            raise subprocess.CalledProcessError(code, command)

    @property
    def stopped(self) -> bool:
        """Whether the children were told to end."""
        return self._stopped.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, or until stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End every child and all they started: SIGTERM, and SIGKILL for what takes longer than it
        may.
        """
        with self._lock:
            self._stopped.set()
            at_work = list(self._at_work)
        deadline = time.monotonic() + self._patience
        alive = _signal(at_work, signal.SIGTERM)
        while alive and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            alive = _signal(alive, 0)
        _signal(alive, signal.SIGKILL)
        with self._lock:
            self._forks.close()


def _signal(children: Sequence[Child], number: int) -> list[Child]:
    """Send a signal (0: none) to each session; return those that still had a process."""
    alive = []
    for child in children:
        if isinstance(child, subprocess.Popen):
            child.poll()  # reap the leader, or its group would never look empty
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
            alive.append(child)
    return alive


def environment() -> dict[str, str]:
    """That of an item's command: its lines come as they are written, and items share the cores."""
    threads = {"RAYON_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs(), 1))}  # of tokenizers
    return {**threads, **guard.environment(), **PROGRESS_AS_JSON, "PYTHONUNBUFFERED": "1"}


def outcome_of(line: str, address: str) -> Outcome | None:
    """What a line of DVC's says about the outcome, None for all other lines."""
    if line == f"Running stage '{address}':":
        return Outcome.RAN
    if line.startswith(f"Stage '{address}' is cached - skipping run"):
        return Outcome.RESTORED
    if line == f"Stage '{address}' didn't change, skipping":
        return Outcome.UNCHANGED
    return None
