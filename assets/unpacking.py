"""Unpacking: the bytes of a text file, plain, .gz or .zst, a block at a time.

The ending of the name says how a file is packed, and its first bytes must agree. Every error names
the file and the remedy. A truncated archive is an error: its readable beginning may lack half of a
corpus, and no later stage would notice.

Memory holds one block. A .zst that was written with a long window (zstd --long) takes memory for
that window, up to 2 GiB.
"""

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from assets.source_files import kind_of, shown
from core.errors import UserError

BYTES_AT_ONCE = 1 << 18
WIDEST = 1 << 31
"""Bytes of a zstd window: the most that zstd writes (--ultra --long=31) and its library reads."""
ZSTD_HEADER = 18
"""Bytes of the longest header of a zstd frame."""
READ_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What reading a block may raise besides UserError."""

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
ARCHIVES = {".gz": "gzip data", ".zst": "zstd data"}

WIDE_HEAD = 4096
"""Bytes of a file that are searched for signs of UTF-16 and UTF-32."""
FEW = 0.1
"""Share of a file's first characters that may differ from what an encoding nearly always has."""
HIGHEST_PLANE = 16
"""Unicode has planes 0 to 16: the second highest byte of a character in UTF-32."""

# Where the bytes of a character are: highest byte, plane, lowest byte.
UTF_32 = ((3, 2, 0, "UTF-32LE text"), (0, 1, 3, "UTF-32BE text"))
# Highest byte, lowest byte.
UTF_16 = ((1, 0, "UTF-16LE text"), (0, 1, "UTF-16BE text"))


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


def unpacked_blocks(path: Path) -> Iterator[bytes]:
    """The content of a file in blocks. Raises UserError if it is not text, and READ_ERRORS."""
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


def _unpacked(path: Path, file: BinaryIO, packing: str) -> Iterator[bytes]:
    """The content of an open file. packing: the ending of its name."""
    if packing == ".zst":
        return _zstd_blocks(path, file)
    reader = gzip.GzipFile(fileobj=file) if packing == ".gz" else file
    return iter(lambda: reader.read(BYTES_AT_ONCE), b"")


def _zstd_blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """All frames, opened one by one: the library's own reader accepts a truncated frame."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=WIDEST)
    frame, head, first = None, b"", True
    while compressed := file.read(BYTES_AT_ONCE):
        while compressed:
            if frame is None:
                frame, head = unpacker.decompressobj(), b""
            head += compressed[: ZSTD_HEADER - len(head)]  # for the message of an error
            try:
                yield frame.decompress(compressed)
            except zstandard.ZstdError as error:
                _explain_frame(path, head, first, error)
                raise error from None

            # What follows the end of a frame belongs to the next one.
            compressed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, first = None, False
    if frame is not None:
        raise EOFError("the last frame has no end")


def _explain_frame(path: Path, head: bytes, first: bool, error: zstandard.ZstdError) -> None:
    """Raise UserError if the first bytes of a frame show why it cannot be read.

    first: whether it is the first frame of the file.
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
    # A frame need not name its dictionary. Then the data seem to be corrupt.
    if "corruption" in str(error):
        raise UserError(
            f"{shown(path)}: the archive is broken ({error}), or needs a dictionary that it does "
            "not name. Fetch it again, or unpack it with zstd -d -D DICTIONARY FILE."
        )


def _check_archive(path: Path, file: Any, wanted: str) -> None:
    """Raise UserError if an archive does not begin as its ending says."""
    head = file.peek(16)[:16]
    if not head:
        raise EOFError("it is empty, and even an archive of nothing has a header")
    found = _format_of(head)
    if found != wanted:
        raise UserError(
            f"{shown(path)}: holds {found or 'other data'}, but its ending says {wanted}. "
            "Correct the ending, or fetch the file again."
        )


def _check_text(path: Path, block: bytes) -> None:
    """Raise UserError if the first block of a file is an archive or text in another encoding."""
    found = _format_of(block[:16]) or _wide_encoding(block[:WIDE_HEAD])
    if found is None:
        return
    cure = "Correct its ending, or unpack it."
    if found.startswith("UTF"):
        cure = f"Convert it: iconv -f {found.removesuffix(' text')} -t UTF-8 FILE > NEW."
    raise UserError(f"{shown(path)}: holds {found}, but UTF-8 text is expected. {cure}")


def _format_of(head: bytes) -> str | None:
    """The name of the format that begins with these bytes, or None."""
    for pattern, name in FORMATS:
        if re.match(pattern, head, re.DOTALL):
            return name
    return None


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, recognised by its zero bytes; or None.

    UTF-32: the highest byte of each character is zero, and the next one at most 16.
    UTF-16: the high byte of a space is zero, and that of most scripts is a control character.
    In both, few lowest bytes are zero. Scripts with other high bytes (Chinese) soon have a byte
    that is not UTF-8, so they are found anyway.
    """
    fours = [head[at::4][: len(head) // 4] for at in range(4)]
    for top, plane, low, name in UTF_32:
        if len(head) >= 8 and max(fours[top]) == 0 and max(fours[plane]) <= HIGHEST_PLANE:
            return name if fours[low].count(0) <= FEW * len(fours[low]) else None

    pairs = [head[at::2][: len(head) // 2] for at in range(2)]
    for high, low, name in UTF_16:
        not_control = sum(byte >= ord(" ") for byte in pairs[high])
        odd = max(not_control, pairs[low].count(0))
        if len(head) >= 4 and 0 in pairs[high] and odd <= FEW * len(pairs[high]):
            return name
    return None


def unreadable(where: str, error: Exception) -> UserError:
    """The message for one of READ_ERRORS. where: the file, and how far it was read."""
    if str(error).startswith("Not a gzipped file"):  # its beginning was gzip
        return UserError(_trailing(where, "gzip -dc FILE | gzip > NEW"))
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return UserError(
            f"{where}: {error.strerror or error}. Give access to it, or fetch it again."
        )
    problem = f"{where}: the archive is broken or truncated ({error})."
    return UserError(f"{problem} Fetch it again; nothing was overwritten.")


def _trailing(where: str, command: str) -> str:
    """The message for bytes after an archive. command: what makes a file without them."""
    problem = f"{where}: the archive ends, and bytes of another kind follow."
    return f"{problem} If you do not need them: {command}."
