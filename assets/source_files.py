"""Which files of a folder are read: one rule for corpora, texts of evaluations and haystacks.

A folder is read with its subfolders, in the order of the paths.
A file is read if its ending is known, in any case.
Hidden files, temporary files and leftovers of editors and operating systems are ignored, and so are
such folders with all they hold. So is a text that describes its folder: README.txt, LICENSE.txt.
Each is listed with its reason.
An error while listing stops the stage: an unlisted folder may hold half of the corpus.

The cost: only names count. A document file named `_a.jsonl`, or an essay named `license.txt`, must
be renamed, or be the source itself: the rule applies to files below a source, not to the source.
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
NAMED = 20  # ignored files on stderr; parts.csv of the stage has all

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
    )
)
TEMPORARY = frozenset(("tmp", "temp"))  # folders, or files without an ending
UNFINISHED = frozenset(("tmp", "partial", "incomplete", "inprogress", "crdownload", "bak", "swp"))
"""Extensions of temporary files, at any place in the name: part.tmp.jsonl, part.jsonl.tmp."""
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
ABOUT = re.compile(
    r"""read[ ._-]?me([^a-z].*)?          # README.txt, README-first.txt, readme(1).txt
    | (licen[cs]es?|copying|copyright|notice|changelog|authors|contributors|contributing
      |citation|code[ ._-]of[ ._-]conduct|manifest|(md5|sha\d+)sums?|checksums?|requirements|robots)
      ([ ._-](mit|bsd|apache|[al]?gpl|mpl|cc|en|\d).*)?""",
    re.VERBOSE,
)
"""Names, without ending and in small letters, of texts about a folder. Only of texts: records have
fields."""


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
    Raises UserError where there is nothing to read, where a folder cannot be listed, and for a
    link that leads nowhere.
    """
    mode = _mode(source, setting)
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise UserError(
                f"{shown(source)}: {kind_of(mode)}, not a file or folder. Set {setting} in "
                "params.yaml."
            )
        if not source.name.lower().endswith(endings):
            known = ", ".join(endings)
            raise UserError(
                f"{shown(source)}: unknown format. Known endings: {known}. Rename or convert it."
            )
        return Files(read=[source], ignored={})

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


def print_ignored(ignored: dict[str, str], where: str) -> None:
    """Name the first ignored files on stderr, with their reasons, and count the rest."""
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
            problem = "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
        if problem is None and not _is_utf8(path.name):
            problem = "its name is not UTF-8"
        if problem:
            raise UserError(
                f"{setting}: {shown(path)}: {problem}, so DVC cannot hash the source, even if the "
                "stage ignores the file. Rename it or move it away."
            )


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def why_ignored(name: str, endings: tuple[str, ...] | None) -> str | None:
    """Why a file of this name is not read, or None. endings: known ones; None for a folder."""
    low = name.lower()
    if low in SYSTEM:
        return "left by the operating system"
    if low.startswith((".", "_")):
        return "hidden: its name starts with . or _"
    if (
        low in TEMPORARY
        or low.startswith("~")
        or low.endswith(LAST)
        or UNFINISHED & {*low.split(".")[1:]}
    ):
        return "temporary, unfinished or a backup, by its name"
    if endings is not None and not low.endswith(endings):
        return "unknown ending"
    if endings is not None and low.endswith(TEXTS) and ABOUT.fullmatch(_stem(low)):
        return "about the folder, by its name"
    return None


def _stem(low: str) -> str:
    """The name of a text file without its ending."""
    return low[: low.rindex(".txt")]


def why_ignored_below(path: str, endings: tuple[str, ...]) -> str | None:
    """`why_ignored` for a path below a source, with slashes: its folders count too."""
    *folders, name = path.split("/")
    reasons = [why_ignored(folder, None) for folder in folders]
    return next(filter(None, reasons), None) or why_ignored(name, endings)


def shown(path: Path | str) -> str:
    """A path as text that can be printed and written as UTF-8, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _listed(source: Path, endings: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, and why it is ignored or None; an ignored folder as a whole."""
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
                    why = why_ignored(entry.name, None)
                    yield path, why or "a link to a folder is not followed"
                else:
                    yield path, why_ignored(entry.name, endings) or _why_no_file(entry)
        except OSError as error:
            lost = Path(error.filename or folder)
            what = "a link that leads nowhere" if lost.is_symlink() else "cannot be listed"
            raise UserError(
                f"{shown(lost)}: {what} ({error.strerror}), so documents may be missing. "
                "Give access to it, or move it out of the source."
            ) from None


def _why_no_file(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is no file to read, or None. Raises OSError for a link that leads nowhere."""
    if entry.is_file(follow_symlinks=False):
        return None
    mode = entry.stat().st_mode
    return None if stat.S_ISREG(mode) else kind_of(mode)


def _mode(source: Path, setting: str) -> int:
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
    """The kind of something that is not a file, as a phrase: reading it might never end."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _nothing_to_read(
    source: Path, endings: tuple[str, ...], setting: str, ignored: dict[Path, str]
) -> str:
    first = [
        f"{shown(path.relative_to(source))} ({why})" for path, why in list(ignored.items())[:3]
    ]
    more = ", ..." if len(ignored) > len(first) else ""
    passed = f" Ignored: {', '.join(first)}{more}." if first else ""
    return f"{shown(source)}: holds no {', '.join(endings)} file.{passed} Point {setting} at some."
