"""Pipes, sockets and devices in a source: DVC opens them, and reading them may never end.

So whoever has DVC hash a folder looks through it first. The cost is one listing of each folder,
which DVC does too; no file is opened.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

ADVICE = (
    "DVC would wait for it for ever, even if the stage ignores it. Move it away, write its content "
    "to a file, or name it in .dvcignore."
)


def endless(path: Path, ignored: Callable[[str], bool]) -> str | None:
    """A message that names the first pipe, socket or device at or below a path; None without one.

    ignored: whether DVC leaves a path out. What cannot be listed is left to DVC.
    """
    waiting = [str(path)]
    while waiting:
        here = waiting.pop()
        try:
            mode = os.stat(here).st_mode  # noqa: PTH116  (a path object for each file costs more)
            if stat.S_ISDIR(mode):
                with os.scandir(here) as entries:
                    waiting += [entry.path for entry in entries if _is_odd(entry)]
                continue
        except OSError:
            continue
        if not stat.S_ISREG(mode) and not ignored(here):
            shown = os.fsencode(here).decode("utf-8", "backslashreplace")
            return f"{shown}: {_kind(mode)}. {ADVICE}"
    return None


def _is_odd(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has to be looked at: all but files, and links to folders."""
    if entry.is_symlink():
        return not entry.is_dir()
    return not entry.is_file(follow_symlinks=False)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
