"""The state of the project (graph, dvc.lock, what is out of date), read only when a file has
changed.

Reading it costs more than a second of CPU and takes DVC's lock, and a sensor asks twice a minute.
So the state is kept with a stamp: inode, size and times of every file that it was read from; of
DVC's cache, those of the folders. A stamp costs one `stat` for each file, some milliseconds for the
sample, and no lock.

A state is kept only if the stamp is the same before and after reading it, so the second reading
after a change is kept. The stamp has the change time of the inode, so it notices a copy that sets
back the modification time. It does not notice a change of a dependency that is not a local file.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from orchestration.findings import read_findings
from orchestration.graph import Graph, Locked, read_graph, read_lock, read_status
from orchestration.locks import PATH_LOCKS, drop_dead_locks


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What DVC and `make check` report about the project."""

    graph: Graph
    lock: Mapping[str, Locked]
    stale: Mapping[str, Sequence[str]]
    """Address -> reasons, of the items that are themselves out of date."""
    digest: str
    """`Graph.digest` of the graph."""
    findings: Sequence[str]
    """What `make check` finds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What was read last, and from what."""

    state: State
    busy: frozenset[str]
    """Items that another DVC process held, so that their status was left out."""
    stamp: str
    """Of the files, while they did not change; else ""."""


_kept: dict[Path, _Kept] = {}
"""By project."""


def read_state(root: Path, busy: set[str] | None = None) -> State:
    """The state now. busy: as read_status has it. Raises GraphError and GraphBusy, as what it reads
    does. To be called by one thread at a time.
    """
    known = _kept.get(root)
    if known and known.busy:
        drop_dead_locks(root)  # or an item of a killed process would stay held
    before = stamp(known.state.graph, known.busy) if known else ""
    if known and before == known.stamp and (busy is not None or not known.busy):
        if busy is not None:
            busy |= known.busy
        return known.state

    graph, held = read_graph(root), set[str]()
    state = State(
        graph=graph,
        lock=read_lock(root),
        stale=read_status(root, None if busy is None else held),
        digest=graph.digest(),
        findings=read_findings(graph),
    )
    if busy is not None:
        busy |= held
    after = stamp(graph, held)
    _kept[root] = _Kept(state=state, busy=frozenset(held), stamp=after if after == before else "")
    return state


def stamp(graph: Graph, busy: AbstractSet[str] = frozenset()) -> str:
    """Changes with every file that the state was read from; "" is the stamp of no state.

    busy: items that were left out. If there are any, the stamp changes with DVC's list of path
    locks too, so that they are looked at once they are free.
    """
    hasher = blake2b(digest_size=16)
    if busy:
        with suppress(OSError):
            # its content, for DVC writes the list even to ask for a status
            hasher.update((graph.root / PATH_LOCKS).read_bytes())
    for path in sorted(graph.watched):
        for line in _tree(Path(path), frozenset()):
            hasher.update(line)
    for folder in sorted(graph.watched_folders):
        for line in _folders(Path(folder)):
            hasher.update(line)
    return hasher.hexdigest()


def _tree(path: Path, inside: frozenset[tuple[int, int]]) -> Iterator[bytes]:
    """A line for a file, or for a folder and all that is in it. inside: the folders around it,
    where links may lead.
    """
    try:
        found = path.stat()
        names = sorted(path.iterdir()) if stat.S_ISDIR(found.st_mode) else []
    except OSError as error:
        yield f"{path} error {error.errno}\n".encode(errors="surrogateescape")
        return
    yield _line(path, found)
    here = (found.st_dev, found.st_ino)
    if here not in inside:
        for name in names:
            yield from _tree(name, inside | {here})


def _folders(path: Path) -> Iterator[bytes]:
    """A line for a folder and each of the folders in it: DVC adds and removes files of its cache in
    those.
    """
    for folder in [path, *sorted(_inside(path))]:
        try:
            yield _line(folder, folder.stat())
        except OSError as error:
            yield f"{folder} error {error.errno}\n".encode(errors="surrogateescape")


def _inside(path: Path) -> Iterable[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir()]
    except OSError:
        return []


def _line(path: Path, found: os.stat_result) -> bytes:
    facts = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{path} {facts}\n".encode(errors="surrogateescape")
