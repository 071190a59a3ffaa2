"""An output from DVC's cache is gathered aside, then exchanged with the old one in one step.

DVC removes the old output first and then links or copies the new one, file by file: a kill leaves
neither. The cost: both are on the disk at the same time. What lies aside belongs to a process, by
its identity, so a later process knows whether the owner is gone.
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
    """Where this process gathers an output; None if that is another file system than the output's."""
    folder = root / ASIDE / quote(_owner(os.getpid()), safe="")
    folder.mkdir(parents=True, exist_ok=True)
    parent = _nearest(root / path)
    if parent.stat().st_dev != folder.stat().st_dev:
        return None
    place = folder / quote(path, safe="")
    remove(place)
    return place


def remove_abandoned(root: Path) -> None:
    """Remove what a process that is gone was gathering."""
    for folder in (root / ASIDE).glob("*/"):
        if _is_gone(unquote(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it too


def put_in_place(new: Path, target: Path) -> None:
    """Make `new` the `target`. On Linux no moment is without a whole output at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        new.rename(target)
    elif _exchange(new, target):
        remove(new)
    elif target.is_dir() and not target.is_symlink():
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
    """Exchange two paths in one step. False where this system or this file system cannot."""
    if sys.platform != "linux":
        return False
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
    """Names a process for as long as its files lie aside."""
    return identity(pid) or f"pid {pid}"


def _is_gone(owner: str) -> bool:
    if not owner.startswith("pid "):
        return gone(owner)
    try:
        os.kill(int(owner.removeprefix("pid ")), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _nearest(path: Path) -> Path:
    """The folder that holds `path`, or will."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    return parent


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
