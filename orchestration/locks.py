"""Repair DVC's own files after a kill: dvc.lock, and the list of path locks, `.dvc/tmp/rwlock`.

DVC rewrites both in place. A process killed meanwhile leaves an empty or cut file, and every later
command fails until someone deletes it by hand. So the last whole dvc.lock is kept beside DVC's
temporary files and put back when the file is broken. Entries newer than that copy are not lost:
DVC's run cache restores them without running anything. The cost: a second dvc.lock of some 100 kB,
and one comparison of the two before each command.

Nothing here imports DVC, because DVC cannot start before its files are whole.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any

import yaml
import zc.lockfile  # type: ignore[import-untyped]

LOCK_FILE = "dvc.lock"
TEMPORARY = Path(".dvc") / "tmp"
PATH_LOCKS = TEMPORARY / "rwlock"
OURS = TEMPORARY / "needlework"
"""Our part of the folder that DVC keeps out of git."""
WHOLE, BROKEN = OURS / "dvc.lock.whole", OURS / "dvc.lock.broken"
CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)
"""What git writes into a file that it could not merge. Only the user can resolve that."""
PROC = Path("/proc")
SECONDS_BETWEEN_TRIES = 0.02


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold one of DVC's locks. DVC's own class may be used by one thread only, and gives up after 3
    s.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            lock = zc.lockfile.LockFile(str(path))
            break
        except zc.lockfile.LockError:
            time.sleep(SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.close()


def repository_held(root: Path) -> Any:
    """A context that holds the repository's lock: no DVC process rewrites dvc.lock meanwhile."""
    return held(root / TEMPORARY / "lock")


def repair(root: Path) -> list[str]:
    """Drop the path locks of dead processes and put back a dvc.lock that a kill left broken.

    Returns one line for each thing it did that a user should know. Waits while a DVC process holds
    the repository.
    """
    if not (root / ".dvc").is_dir():
        return []
    drop_dead_locks(root)
    with repository_held(root):
        return repair_lock_file(root)


def lock_is_broken(root: Path) -> bool:
    """Whether dvc.lock looks broken. A DVC process may also be writing it; `repair` waits for that."""
    try:
        content = (root / LOCK_FILE).read_bytes()
    except OSError:
        return False
    copy = root / WHOLE
    return not (copy.is_file() and copy.read_bytes() == content) and not is_whole(content)


def repair_lock_file(root: Path) -> list[str]:
    """Keep a copy of dvc.lock if it is whole; else put the last copy in its place. The repository
    must be held.
    """
    path, copy = root / LOCK_FILE, root / WHOLE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []  # DVC never deletes it: it is the user's wish, or nothing was made yet
    kept = copy.read_bytes() if copy.is_file() else None
    if content == kept:
        return []
    if is_whole(content):
        write_whole(copy, content)
        return []
    if CONFLICT.search(content):
        return []

    write_whole(root / BROKEN, content)
    if kept is not None and is_whole(kept):
        write_whole(path, kept)
        return [
            f"{path}: a killed process left it broken. The last whole copy is back in its place, "
            "the broken one is "
            f"{BROKEN}; what was made since comes back from DVC's cache."
        ]
    path.unlink()
    return [
        f"{path}: a killed process left it broken, and no whole copy was kept. It is now {BROKEN}; "
        "what was made "
        "comes back from DVC's cache. If it was in git: git checkout dvc.lock"
    ]


def is_whole(content: bytes) -> bool:
    """Whether this is a complete dvc.lock: its last line has an end, and each entry has its parts."""
    if not content.endswith(b"\n"):
        return False
    try:
        value = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    stages = value.get("stages") if isinstance(value, dict) else None
    return isinstance(stages, dict) and "schema" in value and all(map(_is_entry, stages.values()))


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str | list):
        return False
    files = [file for kind in ("deps", "outs") for file in _listed(entry.get(kind, []))]
    params = entry.get("params", {})
    return isinstance(params, dict) and all(
        isinstance(file, dict) and "path" in file for file in files
    )


def _listed(value: Any) -> list[Any]:
    """The list; for any other value, a list that is not of files."""
    return value if isinstance(value, list) else [None]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def drop_dead_locks(root: Path) -> None:
    """Take the path locks of processes that were killed out of DVC's list of them.

    DVC drops those whose process number is not in use. But numbers come back, and then it waits for
    ever for a process that has nothing to do with it; and a process killed while it wrote the list
    leaves one that DVC refuses to read.
    """
    path = root / PATH_LOCKS
    if not path.exists():
        return
    with held(path.with_name("rwlock.lock")):
        try:
            locks = loads(path.read_text())
            write = {
                name: owner for name, owner in locks.get("write", {}).items() if _dvc_at_work(owner)
            }
            read = {
                name: alive
                for name, owners in locks.get("read", {}).items()
                if (alive := [owner for owner in owners if _dvc_at_work(owner)])
            }
        except FileNotFoundError:
            return
        except (ValueError, AttributeError, TypeError, KeyError):
            path.unlink()
            return
        if (write, read) != (locks.get("write", {}), locks.get("read", {})):
            write_whole(path, dumps({"write": write, "read": read}).encode())


def _dvc_at_work(owner: Mapping[str, Any]) -> bool:
    """Whether the process that DVC noted as the owner of a path lock is there: its number, and what
    it was called.
    """
    pid, words = int(owner["pid"]), str(owner["cmd"]).split(" ")[1:]
    if pid == os.getpid() or not PROC.is_dir():
        return True
    try:
        called = (
            (PROC / str(pid) / "cmdline")
            .read_bytes()
            .decode(errors="replace")
            .replace("\0", " ")
            .split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(called) and called[len(called) - len(words) :] == " ".join(words).split()
