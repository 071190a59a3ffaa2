"""Make items of the graph: each one a `dvc repro --single-item` of its own, several at a time, in
the graph's order.

DVC decides and records; this module only orders. The command line rather than DVC's Python API: a
child can be stopped with everything it started, several can work at once, and a user can type the
same command. dvc_repro.py runs it without losing a change or an old output. The cost is half a
second of start per item, paid beside the work of others. DVC is asked once what is out of date; an
item is started only if it was named then, or if something it reads came out different in this run
(an early cut-off further up therefore costs nothing).

Each child leads a process session, so stopping it stops the trainer inside it too: killing DVC
alone would orphan the trainer, which would go on writing while a second one starts. And each has a
guard, which stops it the same way when this process is killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from types import MappingProxyType

from orchestration import guard
from orchestration.graph import Graph, Locked, order_lock, read_lock
from orchestration.guard import guarded, seconds_to_stop

TAIL_LINES = 20
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BETWEEN_TRIES = 0.5
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")
CPU = "cpu"
"""The pool of items that name none."""
GPU = Path("/dev/nvidiactl")
"""There where there is an NVIDIA GPU."""


class Outcome(StrEnum):
    """What became of an item."""

    RAN = "ran"
    RESTORED = "restored"
    """Made before from the same inputs: taken from DVC's cache."""
    UNCHANGED = "unchanged"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not tried, for something it reads failed."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that an item's command, or DVC about it, has just written."""

    address: str
    """"": about the run as a whole."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of one item."""

    address: str
    outcome: Outcome
    seconds: float = 0.0
    locked: Locked | None = None
    """What dvc.lock says of it now."""
    tail: Sequence[str] = ()
    """The last lines it wrote."""


def jobs() -> int:
    """How many items to make at once: NEEDLEWORK_JOBS, or one for each processor. Never decides
    what comes out.
    """
    value = os.environ.get("NEEDLEWORK_JOBS", "")
    if value and not (value.isdigit() and int(value) > 0):
        raise ValueError(
            f"NEEDLEWORK_JOBS is {value!r}: a whole number above 0 says how many items to make at "
            "once."
        )
    return int(value) if value else os.cpu_count() or 1


def pools(graph: Graph) -> dict[str, int]:
    """Places in each pool: NEEDLEWORK_POOLS, as in "gpu=1,memory=2". A pool it does not name has no
    bound, but that of GPUs has one place where there is a GPU: one training takes all that it is
    given, and two would share them.

    Raises ValueError.
    """
    text = os.environ.get("NEEDLEWORK_POOLS", "")
    known = {CPU, "memory", "gpu", *(item.pool for item in graph.items.values() if item.pool)}
    found = {"gpu": 1} if GPU.exists() else {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, places = map(str.strip, part.partition("="))
        if not (places.isdigit() and int(places) > 0):
            raise ValueError(
                f"NEEDLEWORK_POOLS is {text!r}: write POOL=PLACES, as in gpu=1,memory=2."
            )
        if name not in known:
            raise ValueError(
                f"NEEDLEWORK_POOLS is {text!r}: no item is in a pool {name!r}. "
                f"There are {', '.join(sorted(known))}."
            )
        found[name] = int(places)
    return found


def make(
    graph: Graph,
    wanted: AbstractSet[str],
    stale: Mapping[str, Sequence[str]],
    workers: int,
    places: Mapping[str, int],
    barred: AbstractSet[str] = frozenset(),
    accept: Callable[[Finished], bool] = lambda finished: True,
    refused: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[Line | Finished]:
    """Make the `wanted` addresses, yielding lines as they are written and one Finished for each,
    upstream first.

    stale: `read_status` of now. workers, places: `jobs` and `pools`. A failure takes along only
    what reads the failed item; everything else goes on. accept: asked about each item that is
    there; what reads one that is not accepted, or one that is barred, is not tried. refused:
    address -> why it may not be made, though it is out of date; it counts as failed. Closing the
    generator, or an exception in its consumer, stops every child.
    """
    before = read_lock(graph.root)
    waiting = {
        address: set(item.upstream & wanted)
        for address, item in graph.items.items()
        if address in wanted
    }
    changed, broken, started = set[str](), set(barred), set[str]()
    children, events = Children(graph.root), SimpleQueue[Line | Finished]()
    running, taken = 0, Counter[str]()

    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                for address in [address for address, upstream in waiting.items() if not upstream]:
                    item = graph.items[address]
                    to_do = not item.upstream & broken and (
                        address in stale or item.upstream & changed
                    )
                    if to_do and taken[item.pool or CPU] >= places.get(
                        item.pool or CPU, sys.maxsize
                    ):
                        continue
                    del waiting[address]
                    running += 1
                    if item.upstream & broken:
                        events.put(Finished(address=address, outcome=Outcome.SKIPPED))
                    elif to_do and address in refused:
                        events.put(
                            Finished(address=address, outcome=Outcome.FAILED, tail=refused[address])
                        )
                    elif to_do:
                        taken[item.pool or CPU] += 1
                        started.add(address)
                        pool.submit(_make_one, children, address, events)
                    else:
                        events.put(
                            Finished(
                                address=address,
                                outcome=Outcome.UNCHANGED,
                                locked=before.get(address),
                            )
                        )
                event = events.get()
                if isinstance(event, Finished):
                    running -= 1
                    if event.address in started:
                        taken[graph.items[event.address].pool or CPU] -= 1
                    for upstream in waiting.values():
                        upstream.discard(event.address)
                    if event.outcome in (Outcome.FAILED, Outcome.SKIPPED) or not accept(event):
                        broken.add(event.address)
                    elif _outputs(event.locked) != _outputs(before.get(event.address)):
                        changed.add(event.address)
                yield event
        finally:
            children.stop()
            pool.shutdown(cancel_futures=True)
    order_lock(graph)


def _outputs(locked: Locked | None) -> Mapping[str, str] | None:
    return locked.outputs if locked else None


class Children:
    """The processes at work, so that all of them can be stopped at once."""

    def __init__(self, root: Path) -> None:
        self.root, self._lock, self._stopped, self._patience = (
            root,
            Lock(),
            Event(),
            seconds_to_stop(),
        )
        self._processes: set[subprocess.Popen[str]] = set()

    def repro(self, address: str) -> Iterator[str]:
        """Yield the lines of one `dvc repro --single-item`; raises CalledProcessError when it
        fails.
        """
        return self.lines(
            [sys.executable, "-m", "orchestration.dvc_repro", "--single-item", address]
        )

    def lines(self, command: Sequence[str]) -> Iterator[str]:
        """Yield what a command writes, line by line; raises CalledProcessError when it fails."""
        with self._lock:
            if self._stopped.is_set():
                raise InterruptedError("stopped")
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
            self._processes.add(process)
        assert process.stdout is not None
        with process.stdout:
            yield from (line.rstrip() for line in process.stdout)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        if code:
            raise subprocess.CalledProcessError(code, command)

    def pause(self) -> None:
        """Wait a moment, or until stopped."""
        self._stopped.wait(SECONDS_BETWEEN_TRIES)

    def stop(self) -> None:
        """End every child and all they started: SIGTERM, and SIGKILL for what takes longer than it
        may.
        """
        with self._lock:
            self._stopped.set()
            processes = list(self._processes)
        deadline = time.monotonic() + self._patience
        alive = _signal(processes, signal.SIGTERM)
        while alive and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            alive = _signal(alive, 0)
        _signal(alive, signal.SIGKILL)


def _signal(processes: Sequence[subprocess.Popen[str]], number: int) -> list[subprocess.Popen[str]]:
    """Send a signal (0: none) to each session; return those that still had a process."""
    alive = []
    for process in processes:
        process.poll()  # reap the leader, or its group would never look empty
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            alive.append(process)
    return alive


def environment() -> dict[str, str]:
    """That of an item's command: its lines come as they are written, and items share the cores."""
    threads = {"RAYON_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs(), 1))}  # of tokenizers
    return {**threads, **guard.environment(), "PYTHONUNBUFFERED": "1"}


def _make_one(children: Children, address: str, events: "SimpleQueue[Line | Finished]") -> None:
    """Make one item in a worker thread; whatever happens, one Finished comes out."""
    start, outcome, locked, tail = (
        time.monotonic(),
        Outcome.FAILED,
        None,
        deque[str](maxlen=TAIL_LINES),
    )
    try:
        while (done := _attempt(children, address, events, tail)) is None:
            children.pause()
        locked, outcome = read_lock(children.root).get(address), done
    except Exception as error:
        tail.append(f"{type(error).__name__}: {error}")
    finally:
        events.put(
            Finished(
                address=address,
                outcome=outcome,
                seconds=time.monotonic() - start,
                locked=locked,
                tail=tuple(tail),
            )
        )


def _attempt(
    children: Children, address: str, events: "SimpleQueue[Line | Finished]", tail: "deque[str]"
) -> Outcome | None:
    """One try. None: DVC found a path in use by another process and did nothing, so try again.

    DVC's global flag waits for the repository's lock; the locks of single paths have no such flag
    and fail at once.
    """
    outcome, busy = Outcome.UNCHANGED, False
    tail.clear()
    try:
        for line in children.repro(address):
            outcome = outcome_of(line, address) or outcome
            busy = busy or any(words in line for words in BUSY)
            tail.append(line)
            events.put(Line(address, line))
    except subprocess.CalledProcessError:
        return None if busy and outcome is Outcome.UNCHANGED else Outcome.FAILED
    return outcome


def outcome_of(line: str, address: str) -> Outcome | None:
    """What a line of DVC's says about the outcome, None for all other lines."""
    if line == f"Running stage '{address}':":
        return Outcome.RAN
    if line.startswith(f"Stage '{address}' is cached - skipping run"):
        return Outcome.RESTORED
    if line == f"Stage '{address}' didn't change, skipping":
        return Outcome.UNCHANGED
    return None
