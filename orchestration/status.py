"""Read the state of the project (graph, dvc.lock, what is out of date) only if a file has changed.

Reading it costs more than a second of CPU and takes DVC's lock, and a sensor asks twice a minute.
So the state is kept with a stamp: inode, size and times of every file that it was read from, and of
the folders of DVC's cache. A stamp costs one `stat` for each file, some milliseconds for the
sample, and no lock.

A state is kept only if the stamp is the same before and after reading it, so the second reading
after a change is kept. The stamp has the change time of the inode, so it notices a copy that resets
the modification time. It does not notice a change of a dependency that is not a local file.
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
    """Items that are themselves out of date -> DVC's reasons."""
    digest: str
    """`Graph.digest` of the graph."""
    findings: Sequence[str]
    """The findings of `make check`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """The last reading."""

    state: State
    busy: frozenset[str]
    """Items that another DVC process held. Their status was left out."""
    stamp: str
    """The stamp of the files. "" if they changed while the state was read."""


_kept: dict[Path, _Kept] = {}
"""Project -> its last reading."""


def read_state(root: Path, busy: set[str] | None = None) -> State:
    """The state now. Only one thread at a time may call it. Raises GraphError and GraphBusy.

    busy: gets the items that another DVC process holds; None to raise GraphBusy for them.
    """
    known = _kept.get(root)
    # Otherwise an item of a killed process would stay held.
    if known and known.busy:
        drop_dead_locks(root)

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

    # The new graph may watch other files. Then the stamps differ, and the next call reads again.
    after = stamp(graph, held)
    _kept[root] = _Kept(state=state, busy=frozenset(held), stamp=after if after == before else "")
    return state


def stamp(graph: Graph, busy: AbstractSet[str] = frozenset()) -> str:
    """A text that changes with every file that the state was read from, and is never "".

    busy: items that were left out. If there are any, the stamp changes with DVC's list of path
    locks too, so that their status is read once they are free.
    """
    hasher = blake2b(digest_size=16)
    if busy:
        with suppress(OSError):
            # The content and not the times: DVC writes the list even for a status.
            hasher.update((graph.root / PATH_LOCKS).read_bytes())

    for path in sorted(graph.watched):
        for line in _tree(Path(path), frozenset()):
            hasher.update(line)
    for folder in sorted(graph.watched_folders):
        for line in _folders(Path(folder)):
            hasher.update(line)
    return hasher.hexdigest()


def _tree(path: Path, inside: frozenset[tuple[int, int]]) -> Iterator[bytes]:
    """A line for a file, or for a folder and each path in it. inside: the folders around it."""
    try:
        found = path.stat()
        names = sorted(path.iterdir()) if stat.S_ISDIR(found.st_mode) else []
    except OSError as error:
        yield f"{path} error {error.errno}\n".encode(errors="surrogateescape")
        return

    yield _line(path, found)
    # A link may lead to a folder around it, and the walk would never end.
    here = (found.st_dev, found.st_ino)
    if here not in inside:
        for name in names:
            yield from _tree(name, inside | {here})


def _folders(path: Path) -> Iterator[bytes]:
    """A line for a folder and each folder in it.

    DVC adds and removes files of its cache only there, which changes the folder's times.
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
    # ctime: no program can set it back.
    facts = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{path} {facts}\n".encode(errors="surrogateescape")
