"""One reader of records and texts, for corpora, evaluations and haystacks.

    read_records(path)     JSON Lines: (line number, record or Skipped), if the caller counts bad ones
    checked_records(path)  JSON Lines: (line number, record), if every line must be valid
    read_text(path)        a whole text file, .txt or .csv

Each reads plain files, .gz and .zst, by the ending of the name in any case.
A line ends with LF, CR LF or CR and nothing else: U+2028 inside a string does not end it.
Blank lines are skipped, and a byte order mark is dropped.
The encoding is UTF-8; anything else is an error with its line.

A broken record is not fatal by itself. A file that cannot be read further raises a UserError of one
line: a cut-off archive, a missing file, a pipe, a format that differs from the file's ending.

Memory holds one block of a file and one line; a line past `longest` bytes is not held.
A .zst that was written with a long window (zstd --long) takes memory for that window, up to 2 GiB.
"""

import gzip
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from assets.source_files import kind_of, shown
from core.errors import UserError

BYTES_AT_ONCE = 1 << 18
LONGEST = 1 << 40  # bytes of a line: as good as no limit
WIDEST = 1 << 31
"""Bytes of a zstd window: the most that zstd writes (--ultra --long=31) and its library reads."""
ZSTD_HEADER = 18  # bytes at most
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
READ_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)

FORMATS = (
    (rb"\x1f\x8b", "gzip data"),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd data"),
    (rb"\xfd7zXZ\x00", "xz data"),
    (rb"BZh[1-9]1AY&SY", "bzip2 data"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"PAR1[\x00-\x1f]", "Parquet"),
    (rb"ARROW1\x00", "Arrow data"),
    # UTF-32 before UTF-16: their byte order marks begin with the same bytes.
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text"),
)
"""Patterns of a file's first bytes."""
WIDE_HEAD = 4096
"""Bytes of a file that are searched for signs of UTF-16 and UTF-32."""
FEW = 0.1
"""Share of a file's first characters that may differ from what an encoding nearly always has."""
ARCHIVES = {".gz": "gzip data", ".zst": "zstd data"}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that is skipped, and the named reason."""

    reason: str
    detail: str = ""
    """More about the reason, for example which field is missing and which ones there are."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


BROKEN_JSON = "broken_json"
UNDECODABLE = "undecodable"
OVERSIZE = "oversize"


def read_records(path: Path, longest: int = LONGEST) -> Iterator[tuple[int, Any | Skipped]]:
    """(line number from 1, JSON value or why it is skipped) of every line that is not blank.

    Strings may hold lone surrogates, which JSON can express and UTF-8 cannot.

    longest: bytes of a line above which it is skipped as oversize, without being held in memory.
    Raises UserError, with file and line, where the file cannot be read further.
    """
    for number, line in numbered_lines(path, longest):
        yield number, parsed(line) if isinstance(line, bytes) else line


def checked_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, JSON value) of every line that is not blank; each must be valid.

    Lone surrogates become question marks; a line on stderr counts the records that had some.

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
        content = b"".join(_with_line_feeds(_blocks(path)))
    except READ_ERRORS as error:
        raise _unreadable(shown(path), error) from None
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

    once: fields that an object may hold only once; None: all fields.
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
    """A parser for lines in which some fields may stand only once in an object.

    The fast parser silently takes the last of two fields of one name. So a line in which one of the
    names is a key more than once is parsed with care. A key counts however it is spelled: with
    escapes ("te\\u0078t") and with spaces before its colon. The cost: one search in each line,
    about 1 ms for a megabyte.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(set(names)))
        spelled = "|".join(f"({''.join(map(_spellings, name))})" for name in self.names)
        self._keys = re.compile(f'"(?:{spelled})"\\s*:'.encode())

    def parsed(self, line: bytes) -> Any | Skipped:
        """The JSON value of a line, or why it is skipped."""
        found = [key.lastindex for key in self._keys.finditer(line)]
        if len(set(found)) < len(found):
            return carefully_parsed(line, self.names)
        return parsed(line)


def _spellings(sign: str) -> str:
    """A pattern for every way in which JSON writes a character of a string."""
    encoded = sign.encode("utf-16-be")
    units = (encoded[at : at + 2].hex() for at in range(0, len(encoded), 2))
    escape = "".join(rf"\\u(?i:{unit})" for unit in units)
    ways = [re.escape(sign), escape]
    if sign in SHORT_ESCAPES:
        ways.append(re.escape(SHORT_ESCAPES[sign]))
    return f"(?:{'|'.join(ways)})"


def _unique(once: Collection[str] | None) -> Any:
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
    """A JSON value with question marks for lone surrogates; the same object if it has none."""
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
    return all(one is other for one, other in zip(new, old, strict=True))


def numbered_lines(path: Path, longest: int = LONGEST) -> Iterator[tuple[int, bytes | Skipped]]:
    """(number from 1, bytes without the line end) of every line that is not blank.

    A line of more than `longest` bytes is skipped as oversize.
    """
    too_long = Skipped(reason=OVERSIZE, detail=f"a line of more than {longest:,} bytes")
    number = 0
    try:
        for number, line in enumerate(_lines(_blocks(path), longest), start=1):
            if line is None:
                yield number, too_long
            elif line and not line.isspace():
                yield number, line
    except READ_ERRORS as error:
        where = f"{shown(path)}, after line {number}" if number else shown(path)
        raise _unreadable(where, error) from None


def _lines(blocks: Iterator[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines without their ends; None for a line past `longest` bytes, which is not held."""
    held: list[bytes] = []
    size, too_long = 0, False
    for block in _with_line_feeds(blocks):
        first, *others = block.split(b"\n")
        for line in others:
            if too_long:
                yield None
            else:
                yield b"".join([*held, first]) if held else first
            held, size, too_long, first = [], 0, False, line
        size += len(first)
        too_long = too_long or size > longest
        held = [] if too_long else [*held, first] if first else held
    if size:
        yield None if too_long else b"".join(held)


def _with_line_feeds(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes with LF for every CR LF and CR."""
    held = b""
    for block in blocks:
        if held or b"\r" in block:
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""  # its LF may be in the next block
            block = block.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block
    if held:
        yield b"\n"


def _blocks(path: Path) -> Iterator[bytes]:
    """The unpacked content of a file. Raises UserError if it is not text."""
    packing = path.suffix.lower()
    with opened(path) as file:
        if packing in ARCHIVES:
            _check_archive(path, file, ARCHIVES[packing])
        checked = False
        for block in _unpacked(path, file, packing):
            if block and not checked:
                _check_text(path, block)
                checked = True
            yield block


def opened(path: Path) -> BinaryIO:
    """A file, open for reading. Raises UserError for a pipe or device: reading might never end."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: PTH123, SIM115
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise UserError(f"{shown(path)}: {kind_of(mode)}, not a file. Write its content to a file.")
    return file


def _without_waiting(name: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits until someone writes to it. Files ignore the flag.
    return os.open(name, flags | os.O_NONBLOCK)


def _check_archive(path: Path, file: Any, wanted: str) -> None:
    head = file.peek(16)[:16]
    if not head:
        raise EOFError("it is empty, and even an archive of nothing has a header")
    found = _format_of(head)
    if found != wanted:
        raise UserError(
            f"{shown(path)}: holds {found or 'other data'} where {wanted} is expected, by its "
            "ending. Give it the ending of what it is, or fetch it again."
        )


def _check_text(path: Path, block: bytes) -> None:
    found = _format_of(block[:16]) or _wide_encoding(block[:WIDE_HEAD])
    if found is None:
        return
    cure = "Give it the ending of what it is, or unpack it."
    if found.startswith("UTF"):
        cure = f"Convert it: iconv -f {found.removesuffix(' text')} -t UTF-8 FILE > NEW."
    raise UserError(f"{shown(path)}: holds {found} where UTF-8 text is expected. {cure}")


def _format_of(head: bytes) -> str | None:
    return next((name for pattern, name in FORMATS if re.match(pattern, head, re.DOTALL)), None)


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, by where the first bytes of a file are zero.

    In UTF-32 the highest byte of each character is zero, and the next one at most 16. In UTF-16 the
    high byte of a space is zero, and that of most scripts is a control character. In both few
    lowest bytes are zero. Scripts with other high bytes (Chinese) soon have a byte that is not
    UTF-8.
    """
    fours = [head[at::4][: len(head) // 4] for at in range(4)]
    for top, plane, low, name in ((3, 2, 0, "UTF-32LE text"), (0, 1, 3, "UTF-32BE text")):
        if len(head) >= 8 and max(fours[top]) == 0 and max(fours[plane]) <= 16:
            return name if fours[low].count(0) <= FEW * len(fours[low]) else None
    pairs = [head[at::2][: len(head) // 2] for at in range(2)]
    for high, low, name in ((1, 0, "UTF-16LE text"), (0, 1, "UTF-16BE text")):
        others = sum(byte >= ord(" ") for byte in pairs[high])
        odd = max(others, pairs[low].count(0))
        if len(head) >= 4 and 0 in pairs[high] and odd <= FEW * len(pairs[high]):
            return name
    return None


def _unpacked(path: Path, file: BinaryIO, packing: str) -> Iterator[bytes]:
    if packing == ".zst":
        return _zstd_blocks(path, file)
    reader = gzip.GzipFile(fileobj=file) if packing == ".gz" else file
    return iter(lambda: reader.read(BYTES_AT_ONCE), b"")


def _zstd_blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """All frames, opened one by one: the library's own reader silently accepts a cut-off frame."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=WIDEST)
    frame, head, first = None, b"", True
    while compressed := file.read(BYTES_AT_ONCE):
        while compressed:
            if frame is None:
                frame, head = unpacker.decompressobj(), b""
            head += compressed[: ZSTD_HEADER - len(head)]
            try:
                yield frame.decompress(compressed)
            except zstandard.ZstdError as error:
                _explain_frame(path, head, first, error)
                raise error from None
            compressed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, first = None, False
    if frame is not None:
        raise EOFError("the last frame has no end")


def _explain_frame(path: Path, head: bytes, first: bool, error: zstandard.ZstdError) -> None:
    """Raise UserError if the first bytes of a frame show why it cannot be read.

    first: it is the first frame of the file.
    """
    if not first and _format_of(head) != "zstd data":
        raise UserError(_trailing(shown(path), "zstd -dc FILE | zstd > NEW"))
    if "too much memory" in str(error):
        raise UserError(
            f"{shown(path)}: compressed with a window of more than the {WIDEST >> 20:,} MiB that "
            "zstd reads. Pack it again with a smaller one: zstd --long=27."
        )
    try:
        dictionary = zstandard.get_frame_parameters(head).dict_id
    except zstandard.ZstdError:
        return
    if dictionary:
        raise UserError(
            f"{shown(path)}: compressed with a dictionary (id {dictionary}), which is not in the "
            "file. Unpack it with zstd -d -D DICTIONARY FILE, then pack it without one."
        )
    if "corruption" in str(error):  # a frame may also leave out which dictionary it needs
        raise UserError(
            f"{shown(path)}: the archive is broken ({error}), or needs a dictionary that it does "
            "not name. Fetch it again, or unpack it with zstd -d -D DICTIONARY FILE."
        )


def _trailing(where: str, command: str) -> str:
    problem = f"{where}: the archive ends, and bytes of another kind follow."
    return f"{problem} If they are of no use: {command}."


def _unreadable(where: str, error: Exception) -> UserError:
    if str(error).startswith("Not a gzipped file"):  # the beginning was gzip
        return UserError(_trailing(where, "gzip -dc FILE | gzip > NEW"))
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return UserError(
            f"{where}: {error.strerror or error}. Give access to it, or fetch it again."
        )
    problem = f"{where}: the archive is broken or cut off ({error})."
    return UserError(f"{problem} Fetch it again; nothing was overwritten.")
