"""Build an output from DVC's cache in a separate folder, then swap it with the old one in one step.

DVC removes the old output first and then links or copies the new one, file by file: a kill leaves
neither. The cost: both are on the disk at the same time. Each process has a folder of its own,
named by its identity, so a later process knows whether the owner is gone.
"""

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, unquote

from orchestration.locks import OURS
from orchestration.processes import gone, identity

ASIDE = OURS / "aside"
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Linux: <fcntl.h>, <linux/fs.h>."""
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV)
"""Errors of a file system, or a kernel, that cannot exchange two paths."""


def place_aside(root: Path, path: str) -> Path | None:
    """Where this process builds an output. None if the output is on another file system."""
    # An identity contains slashes, and so may a path.
    folder = root / ASIDE / quote(_owner(os.getpid()), safe="")
    folder.mkdir(parents=True, exist_ok=True)

    # A rename works within one file system only.
    parent = _nearest(root / path)
    if parent.stat().st_dev != folder.stat().st_dev:
        return None

    place = folder / quote(path, safe="")
    remove(place)
    return place


def remove_abandoned(root: Path) -> None:
    """Remove the folders of processes that are gone."""
    for folder in (root / ASIDE).glob("*/"):
        if _is_gone(unquote(folder.name)):
            # Errors are ignored: another process may be removing it too.
            shutil.rmtree(folder, ignore_errors=True)


def put_in_place(new: Path, target: Path) -> None:
    """Make `new` the `target`. On Linux there is a whole output at `target` at every moment."""
    target.parent.mkdir(parents=True, exist_ok=True)

    if not os.path.lexists(target):
        new.rename(target)
    elif _exchange(new, target):
        # `new` is now the old output.
        remove(new)
    elif target.is_dir() and not target.is_symlink():
        # No exchange here, and a folder cannot be renamed onto a full one: two renames.
        old = new.with_name(f"{new.name}.replaced")
        remove(old)
        target.rename(old)
        new.rename(target)
        remove(old)
    else:
        new.replace(target)


def identity_of(path: Path) -> tuple[int, int, int] | None:
    """Device, inode and time of change of a file or folder; None if absent. They differ after a
    replacement.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    # A folder that is removed and made again often gets the same inode, but never the same time.
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. False if the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    # Python has no renameat2, and old C libraries lack it too (glibc has it since 2.28).
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False

    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _owner(pid: int) -> str:
    """The name of a process, by which `_is_gone` recognises it."""
    # Without /proc (macOS) there is no identity, only a number.
    return identity(pid) or f"pid {pid}"


def _is_gone(owner: str) -> bool:
    if not owner.startswith("pid "):
        return gone(owner)
    try:
        os.kill(int(owner.removeprefix("pid ")), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # It belongs to another user, so it is there.
        return False
    return False


def _nearest(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    return parent


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
