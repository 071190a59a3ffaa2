"""Find what DVC cannot hash: pipes, sockets, devices, folders that cannot be listed, names that are
not UTF-8, links without a target.

DVC waits for a pipe for ever. It silently skips a folder that it cannot list, and half of a corpus
then counts as all of it. So each folder is checked before DVC hashes it. The cost is one listing of
each folder, which DVC does too. No file is opened.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

WAITS = (
    "DVC would wait for it for ever, even if the stage ignores it. Move it away, write its content "
    "to a file, or name it in .dvcignore."
)
LEFT_OUT = (
    "DVC would leave out all that is in it. Give access to it, or name it in .dvcignore if nothing "
    "reads it."
)
RENAME = "DVC cannot record it. Rename it or move it away."


def why_not_hashable(path: Path, ignored: Callable[[str], bool]) -> str | None:
    """A message about the first path, at or below `path`, that DVC cannot hash, or None.

    ignored: whether DVC ignores a path. DVC itself reports a `path` that does not exist.
    """
    waiting = [str(path)]
    while waiting:
        here = waiting.pop()
        problem = None
        try:
            mode = os.stat(here).st_mode  # noqa: PTH116  (a path object for each file costs more)
            if stat.S_ISDIR(mode):
                with os.scandir(here) as entries:
                    waiting += [entry.path for entry in entries if _is_odd(entry)]
            elif not stat.S_ISREG(mode):
                problem = f"{_kind(mode)}. {WAITS}"
        except FileNotFoundError:
            # A plain file that vanished meanwhile is no problem: another process removed it.
            if here != str(path) and os.path.islink(here):  # noqa: PTH114
                problem = f"a link that leads nowhere. {RENAME}"
        except OSError as error:
            problem = f"cannot be listed ({error.strerror}). {LEFT_OUT}"

        if problem is None and not _is_text(here):
            problem = f"its name is not UTF-8. {RENAME}"
        if problem and not ignored(here):
            shown = os.fsencode(here).decode("utf-8", "backslashreplace")
            return f"{shown}: {problem}"
    return None


def _is_odd(entry: os.DirEntry[str]) -> bool:
    """Whether an entry needs a check. Plain files with UTF-8 names and links to folders do not."""
    if not _is_text(entry.name):
        return True
    if entry.is_symlink():
        return not entry.is_dir()
    return not entry.is_file(follow_symlinks=False)


def _is_text(name: str) -> bool:
    """Whether the name can be written as UTF-8."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
