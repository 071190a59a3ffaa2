"""Repair DVC's own files after a kill: dvc.lock, and the list of path locks, `.dvc/tmp/rwlock`.

DVC rewrites both in place. A process killed meanwhile leaves an empty or cut file, and every later
command fails until someone deletes it by hand. So the last whole dvc.lock is kept in DVC's
temporary folder and put back when the file is broken. Entries newer than that copy are not lost:
DVC's run cache restores them without running anything. The cost: a second dvc.lock of some 100 kB,
and one comparison of the two before each command.

This module does not import DVC, because DVC cannot start before its files are whole.
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
"""Git's conflict markers. Only the user can resolve a conflict, so such a file stays as it is."""
PROC = Path("/proc")
# DVC holds these locks for milliseconds to seconds, so this adds little.
SECONDS_BETWEEN_TRIES = 0.02


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold one of DVC's locks, as long as it takes to get it.

    DVC's own class works in one thread only and gives up after 3 s.
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
    """A context that holds the repository's lock. Inside it no DVC process rewrites dvc.lock."""
    return held(root / TEMPORARY / "lock")


def repair(root: Path) -> list[str]:
    """Drop the path locks of dead processes and put back a dvc.lock that a kill left broken.

    Returns one line for each repair that a user should know. Waits while a DVC process holds the
    repository.
    """
    if not (root / ".dvc").is_dir():
        return []

    drop_dead_locks(root)
    with repository_held(root):
        return repair_lock_file(root)


def lock_is_broken(root: Path) -> bool:
    """Whether dvc.lock seems broken. A DVC process may still be writing it; `repair` waits then."""
    try:
        content = (root / LOCK_FILE).read_bytes()
    except OSError:
        return False

    # The comparison first: parsing 100 kB of YAML takes longer.
    copy = root / WHOLE
    if copy.is_file() and copy.read_bytes() == content:
        return False
    return not is_whole(content)


def repair_lock_file(root: Path) -> list[str]:
    """Keep a copy of dvc.lock if it is whole; otherwise put the last copy in its place.

    The caller must hold the repository.
    """
    path, copy = root / LOCK_FILE, root / WHOLE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        # DVC never deletes it: the user did, or nothing was made yet.
        return []

    kept = copy.read_bytes() if copy.is_file() else None
    if content == kept:
        return []
    if is_whole(content):
        write_whole(copy, content)
        return []
    if CONFLICT.search(content):
        return []

    # The broken file is kept: it may be a user's edit after all.
    write_whole(root / BROKEN, content)
    if kept is not None and is_whole(kept):
        write_whole(path, kept)
        return [
            f"{path}: a killed process left it broken. The last whole copy is back in its place, "
            f"the broken one is {BROKEN}; what was made since comes back from DVC's cache."
        ]
    path.unlink()
    return [
        f"{path}: a killed process left it broken, and no whole copy was kept. It is now {BROKEN}; "
        "what was made comes back from DVC's cache. If it was in git: git checkout dvc.lock"
    ]


def is_whole(content: bytes) -> bool:
    """Whether this is a complete dvc.lock: its last line ends, and each entry has its parts."""
    if not content.endswith(b"\n"):
        return False
    try:
        value = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    stages = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(stages, dict) or "schema" not in value:
        return False
    return all(_is_entry(entry) for entry in stages.values())


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str | list):
        return False
    if not isinstance(entry.get("params", {}), dict):
        return False

    files = _listed(entry.get("deps", [])) + _listed(entry.get("outs", []))
    return all(isinstance(file, dict) and "path" in file for file in files)


def _listed(value: Any) -> list[Any]:
    """The list; for any other value, a list that is not of files."""
    return value if isinstance(value, list) else [None]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at once; each has a name of its own.
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        # Without it a power cut can leave the new name with no content.
        os.fsync(file.fileno())
    aside.replace(path)


def drop_dead_locks(root: Path) -> None:
    """Remove the path locks of killed processes from DVC's list.

    DVC drops those whose process number is not in use. But numbers are reused, and then DVC waits
    for ever for an unrelated process. A process killed while it wrote the list leaves one that DVC
    refuses to read.
    """
    path = root / PATH_LOCKS
    if not path.exists():
        return

    # The lock under which DVC itself reads and writes the list.
    with held(path.with_name("rwlock.lock")):
        try:
            locks = loads(path.read_text())
            alive = _locks_alive(locks)
        except FileNotFoundError:
            return
        except (ValueError, AttributeError, TypeError, KeyError):
            # DVC refuses such a list, and no command could run. Living owners lose their locks too.
            path.unlink()
            return

        if alive != {"write": locks.get("write", {}), "read": locks.get("read", {})}:
            write_whole(path, dumps(alive).encode())


def _locks_alive(locks: Mapping[str, Any]) -> dict[str, Any]:
    """DVC's list of path locks without those of dead processes. Each path has one writer, or
    several readers.
    """
    write = {name: owner for name, owner in locks.get("write", {}).items() if _is_running(owner)}
    read = {}
    for name, owners in locks.get("read", {}).items():
        if running := [owner for owner in owners if _is_running(owner)]:
            read[name] = running
    return {"write": write, "read": read}


def _is_running(owner: Mapping[str, Any]) -> bool:
    """Whether the owner of a path lock is running: a process with its number and its arguments."""
    pid, words = int(owner["pid"]), str(owner["cmd"]).split(" ")[1:]
    # Without /proc the arguments are unknown, and DVC's own check of the number must do.
    if pid == os.getpid() or not PROC.is_dir():
        return True

    try:
        content = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False

    called = content.decode(errors="replace").replace("\0", " ").split()
    # DVC notes its script's name first, the kernel the interpreter's; only the rest is comparable.
    return bool(called) and called[len(called) - len(words) :] == " ".join(words).split()
