"""Documents from the open formats people keep corpora in: JSON Lines (plain, .gz, .zst) and Parquet, streamed.

A broken record is not fatal by itself: it is reported with its line and a reason, and the stage counts it against the
limit the user sets. What cannot be read on from (a truncated archive, a missing file, a wrong field name) stops.
Memory holds one block of a file and one line, and a line past `longest` bytes is passed over without being held.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import zstandard

from assets.stage import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".parquet")
BYTES_AT_ONCE = 1 << 18
ROWS_AT_ONCE = 128
LONGEST_ESCAPE = 6  # bytes of \u0000: a text of n bytes makes a line of at most 6 n, and its other fields


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that gives no document, and the named reason."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields of a record matter. Dots go into nested records: "meta.redpajama_set_name"."""

    text: str
    domain: str | None = None
    """The field that names the domain; None where a source holds one domain only."""
    only: str | None = None
    """Records whose domain is another are left to other domains."""


BROKEN_JSON = Skipped(reason="broken_json")
UNDECODABLE = Skipped(reason="undecodable")
NOT_A_STRING = Skipped(reason="text_not_a_string")
OVERSIZE = Skipped(reason="oversize")
OTHER_DOMAIN = Skipped(reason="other_domain")


def document_files(source: Path, setting: str = "raw_corpus.domains.*.source") -> list[Path]:
    """The files of a source, sorted: itself, or every file below it with a known suffix. Raises UserError if none.

    setting: what in params.yaml names the source, for the message.
    """
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise UserError(f"{source}: unknown format. Known endings: {', '.join(SUFFIXES)}. Rename or convert it.")
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder. Set {setting} in params.yaml.")
    files = sorted(path for path in source.rglob("*") if path.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"{source}: holds no {', '.join(SUFFIXES)} file. Point {setting} at documents.")
    return files


def read_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    """(line or row number from 1, text or why there is none) of every record of one file; blank lines don't count.

    longest: a text of more UTF-8 bytes is certainly skipped as oversize where its line tells so before it is parsed.
    Raises UserError, with file and line, for a broken archive and for a field that is not there.
    """
    return _parquet_texts(path, fields) if path.suffix == ".parquet" else _json_texts(path, fields, longest)


def _json_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    for number, line in _numbered_lines(path, LONGEST_ESCAPE * longest + BYTES_AT_ONCE):
        if line is None:
            yield number, OVERSIZE
            continue
        if not line or line.isspace():
            continue
        record = _parsed(line)
        yield number, record if isinstance(record, Skipped) else _text_of(record, fields, path, f"line {number}")


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # The standard parser is slower and takes more: lone surrogates, NaN. It also tells bad bytes from bad JSON.
        try:
            return json.loads(line)
        except UnicodeDecodeError:
            return UNDECODABLE
        except ValueError:
            return BROKEN_JSON


def _text_of(record: Any, fields: Fields, path: Path, where: str) -> str | Skipped:
    if fields.domain is not None and _field(record, fields.domain, path, where, "domain_field") != fields.only:
        return OTHER_DOMAIN
    text = _field(record, fields.text, path, where, "text_field")
    return text if isinstance(text, str) else NOT_A_STRING


def _field(record: Any, field: str, path: Path, where: str, setting: str) -> Any:
    value = record
    try:
        for key in field.split("."):
            value = value[key]
    except (KeyError, TypeError, IndexError):
        known = ", ".join(map(str, record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise UserError(f"{path}, {where}: no field {field!r}; the record holds {known}. Set raw_corpus.{setting}."
                        ) from None
    return value


def _numbered_lines(path: Path, longest: int) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(_blocks(path, file), longest), start=1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{path}, after line {number}: the archive is broken or cut off ({error}). "
                        "Fetch it again; nothing was overwritten.") from None
    except OSError as error:
        raise UserError(f"{path}, after line {number}: {error}. Mend access to it.") from None


def _lines(blocks: Iterator[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines without their ends; None for one of more than `longest` bytes, of which no more is held."""
    held: list[bytes] = []
    size, too_long = 0, False
    for block in blocks:
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


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    if path.suffix == ".zst":
        return _zstd_blocks(file)
    reader = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    return iter(lambda: reader.read(BYTES_AT_ONCE), b"")


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """All frames. They are opened by hand, for the library's own reader ends a cut-off frame in silence."""
    frame = None
    while compressed := file.read(BYTES_AT_ONCE):
        while compressed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(compressed)
            compressed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")


def _parquet_texts(path: Path, fields: Fields) -> Iterator[tuple[int, str | Skipped]]:
    import pyarrow.parquet as pq  # here, for it takes as long to import as a small domain to read

    columns = {"text_field": fields.text} | ({"domain_field": fields.domain} if fields.domain else {})
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}). Fetch it again.") from None
    for setting, field in columns.items():
        if field.split(".")[0] not in table.schema_arrow.names:
            raise UserError(f"{path}: no column {field.split('.')[0]!r}; it holds "
                            f"{', '.join(table.schema_arrow.names)}. Set raw_corpus.{setting}.")
    row = 0
    try:
        for batch in table.iter_batches(columns=sorted({field.split(".")[0] for field in columns.values()}),
                                        batch_size=ROWS_AT_ONCE):
            for record in _records(batch):
                row += 1
                yield row, _text_of(record, fields, path, f"row {row}") if record is not None else UNDECODABLE
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}, after row {row}: broken or cut off ({error}). Fetch it again.") from None


def _records(batch: pa.RecordBatch) -> Iterator[Any]:
    """Rows as dicts; None for one whose bytes are no UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None
