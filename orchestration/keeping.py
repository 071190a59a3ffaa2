"""Keep the current output of an item until the new one is in place.

DVC removes an item's outputs before its command starts, so a run that is cancelled after days
leaves neither the old output nor a new one. Here the old one stays. There are three ways to a new
output, and each ends in one step:

- A stage with `meta: {replaces: true}` in dvc.yaml has a command that writes beside its output and
  replaces it whole at the end. Its old output stays in place and readable, whatever is killed.
- Any other command may expect an empty place, or write into files that are links into DVC's cache.
  Its old output is moved aside. It comes back when the command fails, when the process that started
  it is killed, or at the next start.
- An output from DVC's cache is gathered aside and exchanged with the old one.

The cost: old and new output are on the disk at the same time. What lies aside belongs to a process,
by its identity, so a later process knows whether the owner is gone.
"""

import ctypes
import errno
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from orchestration.locks import OURS, repository_held
from orchestration.processes import gone, identity

ASIDE = OURS / "aside"
OLD, NEW = "old.", "new."
"""What lies aside: an output to put back, or one that is still being gathered."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Linux: <fcntl.h>, <linux/fs.h>."""
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV)
"""Errors of a file system, or a kernel, that cannot exchange two paths."""


def place_aside(root: Path, path: str, kind: str) -> Path | None:
    """Where this process puts an output aside; None if that is another file system than the
    output's."""
    folder = root / ASIDE / quote(_owner(os.getpid()), safe="")
    folder.mkdir(parents=True, exist_ok=True)
    parent = _nearest(root / path)
    if parent.stat().st_dev != folder.stat().st_dev:
        return None
    place = folder / f"{kind}{quote(path, safe='')}"
    remove(place)
    return place


def set_aside(root: Path, path: str) -> bool:
    """Move an output out of the way of a command. Returns False, and moves nothing, if that is not
    possible."""
    place = place_aside(root, path, OLD)
    if place is None:
        return False
    (root / path).rename(place)
    return True


def put_back(root: Path, path: str) -> None:
    """Undo `set_aside`. Removes what the command left at that path."""
    place = place_of(root, path)
    if place.exists():
        _return(root, place, path)


def let_go(root: Path, path: str) -> None:
    """Remove what `set_aside` moved: the new output is in place."""
    remove(place_of(root, path))


def place_of(root: Path, path: str) -> Path:
    """Where `set_aside` of this process has put an output."""
    return root / ASIDE / quote(_owner(os.getpid()), safe="") / f"{OLD}{quote(path, safe='')}"


def put_back_abandoned(root: Path) -> list[str]:
    """Put back every output whose process is gone, and remove what such a process was gathering.

    Returns the paths that were put back. Waits while a DVC process holds the repository.
    """
    if not (root / ASIDE).is_dir():
        return []
    with repository_held(root):
        return _put_back_abandoned(root)


def _put_back_abandoned(root: Path) -> list[str]:
    restored = list[str]()
    for folder in sorted((root / ASIDE).glob("*/")):
        if not _is_gone(unquote(folder.name)):
            continue
        for place in sorted(folder.iterdir()):
            if place.name.startswith(OLD):
                path = unquote(place.name.removeprefix(OLD))
                _return(root, place, path)
                restored.append(path)
            else:
                remove(place)
        with suppress(OSError):  # another process put something in meanwhile, or removed it first
            folder.rmdir()
    return restored


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


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file or folder, which differ after a replacement; None if absent."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


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


def _return(root: Path, place: Path, path: str) -> None:
    target = root / path
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    place.rename(target)


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
