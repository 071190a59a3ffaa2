"""Source files: which files of a folder are read, by one rule for corpora, tests and haystacks.

A folder is read with its subfolders, in the order of the paths.
A file is read if its ending is known, in any case.
Hidden files, temporary files and files left by editors and operating systems are ignored. So are
such folders, with everything below them, and texts about a folder: README.txt, LICENSE.txt.
Each ignored file is listed with its reason.
An error while listing stops the stage: an unlisted folder may hold half of the corpus.

The cost: only names count. A document file named `_a.jsonl`, or an essay named `license.txt`, must
be renamed or given as the source itself. The rule applies to files below a source, not to the
source.
"""

import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

DOCUMENTS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".parquet")
TEXTS = (".txt", ".txt.gz", ".txt.zst")
NAMED = 20
"""Ignored files that are printed. parts.csv of the stage lists all of them."""

SYSTEM = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "lost+found",
        "$recycle.bin",
        "#recycle",
        "system volume information",
        "@eadir",
        "temporary items",
        "network trash folder",
        # Of network drives.
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "@__thumb",
        "#snapshot",
    )
)
TEMPORARY = frozenset(("temp", "temporary"))
"""Names of temporary folders, or of files without an ending."""
UNFINISHED = frozenset(
    ("partial", "incomplete", "inprogress", "crdownload", "downloading", "bak", "swp")
)
"""Extensions of temporary files, at any place in the name: part.bak.jsonl, part.jsonl.bak."""
LAST = (
    ".temp",
    ".part",
    ".download",
    ".filepart",
    ".aria2",
    ".orig",
    ".old",
    ".swo",
    ".swx",
    "~",
    "#",
)
"""Endings of temporary files and backups. Elsewhere in a name they are ordinary words."""
LEFT = re.compile(
    r"""(^|[^a-z0-9])tmp([^a-z0-9]|$)     # tmp, part.tmp.jsonl, part-tmp.jsonl, tmp.Xy12
    | ^tmp[a-z0-9_]{8}(\.|$)              # tmpk3x9a2b_.jsonl, as Python names temporary files
    | \.sb-[0-9a-f]{8}-                   # part.jsonl.sb-1a2b3c4d-Xy12Zz, as macOS does
    | \.sync-conflict-\d{8}-             # another version of a file, kept by Syncthing
    | \bconflicted[ ]copy\b              # the same by Dropbox and its kin
    """,
    re.VERBOSE,
)
"""What is found anywhere in a name, in small letters, that a tool left."""
ABOUT = re.compile(
    r"""read[ ._-]?me([^a-z].*)?          # README.txt, README-first.txt, readme(1).txt
    | (licen[cs]es?|copying|copyright|notice|changelog|authors|contributors|contributing
      |citation|code[ ._-]of[ ._-]conduct|manifest|(md5|sha\d+)sums?|checksums?|requirements|robots)
      ([ ._-](mit|bsd|apache|[al]?gpl|mpl|cc|en|\d).*)?""",
    re.VERBOSE,
)
"""Names of texts about a folder, in small letters and without ending. The rule is for texts only:
a file of records without the wanted field is found by its records."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a source holds, each sorted by path."""

    read: list[Path]
    ignored: dict[Path, str]
    """Files and folders that are not read, and why."""


def source_files(source: Path, endings: tuple[str, ...], setting: str) -> Files:
    """The files of a source: the source itself, or the files below it that have one of `endings`.

    The first ignored files are printed on stderr.

    setting: the key of params.yaml that names the source, for messages.
    Raises UserError if there is nothing to read, if a folder cannot be listed, and for a broken
    link.
    """
    mode = _mode(source, setting)
    if not stat.S_ISDIR(mode):
        _check_single(source, mode, endings, setting)
        return Files(read=[source], ignored={})

    # Sorted: os.scandir returns another order on another file system.
    read: list[Path] = []
    ignored: dict[Path, str] = {}
    for path, why in sorted(_listed(source, endings)):
        if why is None:
            read.append(path)
        else:
            ignored[path] = why
    print_ignored({shown(path): why for path, why in ignored.items()}, shown(source))
    if not read:
        raise UserError(_nothing_to_read(source, endings, setting, ignored))
    return Files(read=read, ignored=ignored)


def _check_single(source: Path, mode: int, endings: tuple[str, ...], setting: str) -> None:
    """Raise UserError if a source that is not a folder cannot be read."""
    if not stat.S_ISREG(mode):
        raise UserError(
            f"{shown(source)}: {kind_of(mode)}, not a file or folder. Set {setting} in params.yaml."
        )
    if not source.name.lower().endswith(endings):
        raise UserError(
            f"{shown(source)}: unknown format. Known endings: {', '.join(endings)}. "
            "Rename or convert it."
        )


def print_ignored(ignored: dict[str, str], where: str) -> None:
    """Print the first ignored files on stderr, with their reasons, and the number of the rest."""
    for path, why in list(ignored.items())[:NAMED]:
        print(f"ignored: {path}: {why}", file=sys.stderr)
    if len(ignored) > NAMED:
        print(f"ignored: {len(ignored) - NAMED:,} more below {where}", file=sys.stderr)


def check_hashable(source: Path, setting: str) -> None:
    """Raise UserError for a file below a source that DVC cannot hash. DVC hashes every file there.

    A pipe makes it wait for ever. A broken link, or a name that is not UTF-8, stops it with an
    unclear error. It silently skips a folder that cannot be listed.
    """
    waiting = [source]
    while waiting:
        path = waiting.pop()
        problem = None
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode) and (path == source or not path.is_symlink()):
                waiting += path.iterdir()
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                problem = kind_of(mode)
        except OSError as error:
            problem = "a broken link" if path.is_symlink() else str(error.strerror)

        if problem is None and not _is_utf8(path.name):
            problem = "its name is not UTF-8"
        if problem:
            raise UserError(
                f"{setting}: {shown(path)}: {problem}, so DVC cannot hash the source, even if the "
                "stage ignores the file. Rename it or move it away."
            )


def _is_utf8(name: str) -> bool:
    """Whether a file name can be written as UTF-8."""
    # Python shows each byte of a name that is not UTF-8 as a lone surrogate.
    return not any("\ud800" <= character <= "\udfff" for character in name)


def why_ignored(name: str, endings: tuple[str, ...] | None) -> str | None:
    """Why a file or folder of this name is not read, or None.

    endings: the known endings. None: it is a folder.
    """
    low = name.lower()
    if low in SYSTEM:
        return "left by the operating system"
    if low.startswith((".", "_")):
        return "hidden: its name starts with . or _"
    if _is_temporary(low):
        return "temporary, unfinished or a backup, by its name"
    if endings is None:
        return None

    if not low.endswith(endings):
        return "unknown ending"
    if low.endswith(TEXTS) and ABOUT.fullmatch(low[: low.rindex(".txt")]):
        return "about the folder, by its name"
    return None


def _is_temporary(low: str) -> bool:
    """Whether a name, in small letters, looks like a temporary file or a backup."""
    extensions = set(low.split(".")[1:])
    return (
        low in TEMPORARY
        or low.startswith("~")
        or low.endswith(LAST)
        or bool(UNFINISHED & extensions)
        or LEFT.search(low) is not None
    )


def why_ignored_below(path: str, endings: tuple[str, ...]) -> str | None:
    """`why_ignored` for a path below a source, with slashes. Its folders count too."""
    *folders, name = path.split("/")
    for folder in folders:
        why = why_ignored(folder, None)
        if why:
            return why
    return why_ignored(name, endings)


def shown(path: Path | str) -> str:
    """A path as printable text of one line, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def _listed(source: Path, endings: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, and why it is ignored or None. An ignored folder is one entry."""
    # A stack, not recursion: folders may be nested deeper than Python's limit.
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
            for entry in entries:
                path = folder / entry.name
                if entry.is_dir(follow_symlinks=False):
                    why = why_ignored(entry.name, None)
                    if why is None:
                        waiting.append(path)
                    else:
                        yield path, f"folder {why}"
                elif entry.is_symlink() and path.is_dir():
                    # Links to folders may form a loop, or list a file twice.
                    why = why_ignored(entry.name, None)
                    yield path, why or "a link to a folder is not followed"
                else:
                    yield path, why_ignored(entry.name, endings) or _why_not_a_file(entry)
        except OSError as error:
            lost = Path(error.filename or folder)
            what = "a broken link" if lost.is_symlink() else "cannot be listed"
            raise UserError(
                f"{shown(lost)}: {what} ({error.strerror}), so documents may be missing. "
                "Give access to it, or move it out of the source."
            ) from None


def _why_not_a_file(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is not a file, or None if it is one. Raises OSError for a broken link."""
    if entry.is_file(follow_symlinks=False):
        return None
    mode = entry.stat().st_mode
    return None if stat.S_ISREG(mode) else kind_of(mode)


def _mode(source: Path, setting: str) -> int:
    """The mode bits of a source. Raises UserError if it is not there or not accessible."""
    try:
        return source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{shown(source)}: no such file or folder. Set {setting} in params.yaml."
        ) from None
    except OSError as error:
        raise UserError(
            f"{shown(source)}: {error.strerror}. Give access to it, or change {setting}."
        ) from None


def kind_of(mode: int) -> str:
    """The kind of a path that is not a file or folder. Reading it might never end."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _nothing_to_read(
    source: Path, endings: tuple[str, ...], setting: str, ignored: dict[Path, str]
) -> str:
    """The message for a folder without a file to read."""
    first = [
        f"{shown(path.relative_to(source))} ({why})" for path, why in list(ignored.items())[:3]
    ]
    more = ", ..." if len(ignored) > len(first) else ""
    examples = f" Ignored: {', '.join(first)}{more}." if first else ""
    return (
        f"{shown(source)}: holds no {', '.join(endings)} file.{examples} "
        f"Set {setting} to a folder that has some."
    )
