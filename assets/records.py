"""Records: one reader of JSON Lines and of whole texts, for corpora, evaluations and haystacks.

    read_records(path)     JSON Lines: (line number, record or Skipped); the caller counts bad ones
    checked_records(path)  JSON Lines: (line number, record); every line must be valid
    read_text(path)        a whole text file, .txt or .csv

Each reads plain files, .gz and .zst, by the ending of the name in any case (assets/unpacking.py).
A line ends with LF, CR LF or CR. Other separators, such as U+2028 inside a string, do not end it.
Blank lines are skipped, and a byte order mark is dropped.
The encoding is UTF-8. Anything else is an error that names the line.

A broken record is not fatal by itself. A file that cannot be read to its end raises a UserError of
one line: a truncated archive, a missing file, a pipe, a format that differs from the ending.

Memory holds one block of a file and one line. A line of more than `longest` bytes is not held.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from assets.source_files import shown
from assets.unpacking import READ_ERRORS, unpacked_blocks, unreadable
from core.errors import UserError

LONGEST = 1 << 40
"""Bytes of a line: no limit in practice."""
SHORT_ESCAPES = {
    '"': r"\"",
    "\\": r"\\",
    "/": r"\/",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
}

BROKEN_JSON = "broken_json"
UNDECODABLE = "undecodable"
OVERSIZE = "oversize"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that is skipped, and the named reason."""

    reason: str
    detail: str = ""
    """More about the reason, such as the missing field and the fields that are there."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def read_records(path: Path, longest: int = LONGEST) -> Iterator[tuple[int, Any | Skipped]]:
    """(line number from 1, JSON value or why it is skipped) of every line that is not blank.

    Strings may hold lone surrogates, which JSON can express and UTF-8 cannot.

    longest: bytes. A longer line is skipped as oversize and not held in memory.
    Raises UserError, with file and line, if the file cannot be read to its end.
    """
    for number, line in numbered_lines(path, longest):
        yield number, parsed(line) if isinstance(line, bytes) else line


def checked_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, JSON value) of every line that is not blank. Each must be valid.

    Lone surrogates become question marks. A line on stderr counts the records that had some.

    Raises UserError, with file, line, reason and advice, for the first invalid line: not JSON, not
    UTF-8, or an object with two fields of one name.
    """
    changed = 0
    for number, line in numbered_lines(path, LONGEST):
        record = carefully_parsed(line) if isinstance(line, bytes) else line
        if isinstance(record, Skipped):
            raise UserError(f"{shown(path)}, line {number}: {record}. Fix the line, or remove it.")
        clean = without_surrogates(record)
        changed += clean is not record
        yield number, clean
    if changed:
        print(
            f"{shown(path)}: lone surrogates became question marks in {changed:,} records",
            file=sys.stderr,
        )


def read_text(path: Path) -> str:
    """The text of a file, with LF as line ends, without a byte order mark and without zero bytes.

    A line on stderr counts the zero bytes that were dropped.
    Raises UserError, with file and line, if a byte is not UTF-8 or the file cannot be read.
    """
    try:
        content = b"".join(_with_line_feeds(unpacked_blocks(path)))
    except READ_ERRORS as error:
        raise unreadable(shown(path), error) from None

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{shown(path)}, line {line}: the byte {content[error.start]:#x} is not UTF-8. "
            "Convert the file, for example: iconv -f LATIN1 -t UTF-8 FILE > NEW."
        ) from None

    zeros = text.count("\0")
    if zeros:
        print(f"{shown(path)}: {zeros:,} zero bytes dropped", file=sys.stderr)
    return text.replace("\0", "")


def parsed(line: bytes) -> Any | Skipped:
    """The JSON value of a line, or why it is skipped. Of two fields of one name the last counts."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # The standard parser is slower and accepts more: lone surrogates, NaN, long numbers, a byte
        # order mark. It also distinguishes bad bytes from bad JSON.
        return carefully_parsed(line, ())


def carefully_parsed(line: bytes, once: Collection[str] | None = None) -> Any | Skipped:
    """The JSON value of a line, or why it is skipped.

    once: fields that an object may hold only once. None: all fields.
    """
    hook = None if once == () else _unique(once)
    try:
        # Decoded here: the parser would guess UTF-16 from zero bytes, and accept raw surrogates.
        return json.loads(line.decode("utf-8-sig"), object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        return Skipped(reason=UNDECODABLE, detail=f"the byte {line[error.start]:#x} is not UTF-8")
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at character {error.pos + 1}"
        if line.strip() == b"[":
            detail += "; this is a JSON array, not JSON Lines: convert it with jq -c '.[]'"
        return Skipped(reason=BROKEN_JSON, detail=detail)
    except RecursionError:
        return Skipped(reason=BROKEN_JSON, detail="nested too deep")
    except ValueError as error:  # two fields of one name; a number of thousands of digits
        return Skipped(reason=BROKEN_JSON, detail=str(error))


class Once:
    """A parser for lines in which some fields may occur only once in an object.

    The fast parser silently takes the last of two fields of one name. So a line in which one of the
    names is a key more than once goes to the slow parser. A key is found in every form that JSON
    allows: with escapes ("te\\u0078t") and with spaces before its colon.

    The cost: one search in each line, about 1 ms a megabyte.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """names: the fields that may occur only once."""
        self.names = tuple(sorted(set(names)))
        groups = []
        for name in self.names:
            spelled = "".join(_spellings(character) for character in name)
            groups.append(f"({spelled})")
        self._keys = re.compile(f'"(?:{"|".join(groups)})"\\s*:'.encode())

    def parsed(self, line: bytes) -> Any | Skipped:
        """The JSON value of a line, or why it is skipped."""
        # The index of a match's group is the index of its name.
        found = [key.lastindex for key in self._keys.finditer(line)]
        if len(set(found)) < len(found):
            return carefully_parsed(line, self.names)
        return parsed(line)


def _spellings(character: str) -> str:
    """A pattern for every form of a character in a JSON string."""
    encoded = character.encode("utf-16-be")
    units = [encoded[at : at + 2].hex() for at in range(0, len(encoded), 2)]
    escape = "".join(rf"\\u(?i:{unit})" for unit in units)
    forms = [re.escape(character), escape]
    if character in SHORT_ESCAPES:
        forms.append(re.escape(SHORT_ESCAPES[character]))
    return f"(?:{'|'.join(forms)})"


def _unique(once: Collection[str] | None) -> Any:
    """A hook for the standard parser that raises ValueError for a second field of one name."""

    # The parser calls this for every object, with its fields in order.
    def record_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            for name in record:
                if names.count(name) > 1 and (once is None or name in once):
                    raise ValueError(f"two fields {name!r} in one object")
        return record

    return record_of


def without_surrogates(value: Any) -> Any:
    """A JSON value with question marks for lone surrogates. The same object if it has none."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "replace").decode()
    elif isinstance(value, list):
        items = [without_surrogates(item) for item in value]
        return value if _same(items, value) else items
    elif isinstance(value, dict):
        keys = [without_surrogates(key) for key in value]
        items = [without_surrogates(item) for item in value.values()]
        same = _same(keys, value) and _same(items, value.values())
        return value if same else dict(zip(keys, items, strict=True))
    return value


def _same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return all(one is other for one, other in zip(new, old, strict=True))


def numbered_lines(path: Path, longest: int = LONGEST) -> Iterator[tuple[int, bytes | Skipped]]:
    """(number from 1, bytes without the line end) of every line that is not blank.

    longest: bytes. A longer line is skipped as oversize.
    """
    too_long = Skipped(reason=OVERSIZE, detail=f"a line of more than {longest:,} bytes")
    number = 0
    try:
        for number, line in enumerate(_lines(unpacked_blocks(path), longest), start=1):
            if line is None:
                yield number, too_long
            elif line and not line.isspace():
                yield number, line
    except READ_ERRORS as error:
        where = f"{shown(path)}, after line {number}" if number else shown(path)
        raise unreadable(where, error) from None


def _lines(blocks: Iterator[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines without their ends. None for a line of more than `longest` bytes, which is not held."""
    # The current line, as far as it is in earlier blocks: its parts, and its size if it is not
    # held. A line that lies whole in one block is not measured: it is in memory anyway.
    held: list[bytes] = []
    size = 0
    too_long = False
    for block in _with_line_feeds(blocks):
        current, *following = block.split(b"\n")
        for begun in following:
            # A line feed ends `current` and begins the next line.
            if too_long:
                yield None
            else:
                yield b"".join([*held, current]) if held else current
            held, size, too_long, current = [], 0, False, begun

        size += len(current)
        too_long = too_long or size > longest
        if too_long:
            held = []
        elif current:
            held.append(current)
    if size:
        yield None if too_long else b"".join(held)


def _with_line_feeds(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes with LF for every CR LF and CR."""
    held = b""
    for block in blocks:
        if held or b"\r" in block:
            block = held + block
            # The LF of a CR at the end may be in the next block.
            held = b"\r" if block.endswith(b"\r") else b""
            block = block.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block
    if held:
        yield b"\n"
