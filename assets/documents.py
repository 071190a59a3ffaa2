"""Documents from the open formats people keep corpora in: JSON Lines (plain, .gz, .zst) and Parquet, streamed.

A broken line is not fatal by itself: it is reported with file, line and reason, and the stage counts it against the
limit the user sets. What cannot be read on from (a truncated archive, a missing file, a wrong field name) stops.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from assets.stage import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
BYTES_AT_ONCE = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A record that cannot be a document: the named reason, and where it stands."""

    reason: str
    where: str


def document_files(source: Path) -> list[Path]:
    """The files of a source, sorted: itself, or every file below it with a known suffix. Raises UserError if none."""
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise UserError(f"{source}: unknown format. Known endings: {', '.join(SUFFIXES)}. Rename or convert it.")
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder. Set raw_corpus.domains.*.source in params.yaml.")
    files = sorted(path for path in source.rglob("*") if path.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"{source}: holds no {', '.join(SUFFIXES)} file. Point the domain's source at its documents.")
    return files


def read_texts(source: Path, text_field: str) -> Iterator[str | Broken]:
    """The text of every record, or what is wrong with it. `text_field` may be nested with dots: "content.text"."""
    for path in document_files(source):
        yield from _parquet_texts(path, text_field) if path.suffix == ".parquet" else _json_texts(path, text_field)


def _json_texts(path: Path, text_field: str) -> Iterator[str | Broken]:
    for number, line in _numbered_lines(path):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            yield Broken(reason="undecodable", where=where)
        except ValueError:
            yield Broken(reason="broken_json", where=where)
        else:
            yield _text_of(record, text_field, where)


def _text_of(record: Any, text_field: str, where: str) -> str | Broken:
    value = record
    for key in text_field.split("."):
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(map(str, record)) if isinstance(record, dict) else f"a {type(record).__name__}"
            raise UserError(f"{where}: no field {text_field!r}; the record holds {known}. Set raw_corpus.text_field.")
        value = value[key]
    return value if isinstance(value, str) else Broken(reason="text_not_a_string", where=where)


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(path, file), start=1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{path}, after line {number}: the archive is broken or cut off ({error}). "
                        "Fetch it again; nothing was overwritten.") from None


def _lines(path: Path, file: BinaryIO) -> Iterable[bytes]:
    if path.suffix == ".gz":
        return gzip.open(file)
    return _zstd_lines(file) if path.suffix == ".zst" else file


def _zstd_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of all frames. Frames are opened by hand, for the library's own reader ends a cut-off frame in silence."""
    rest, frame = b"", None
    while compressed := file.read(BYTES_AT_ONCE):
        while compressed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            *lines, rest = (rest + frame.decompress(compressed)).split(b"\n")
            yield from lines
            compressed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")
    if rest:
        yield rest


def _parquet_texts(path: Path, text_field: str) -> Iterator[str | Broken]:
    top = text_field.split(".")[0]
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}). Fetch it again.") from None
    if top not in table.schema_arrow.names:
        raise UserError(f"{path}: no column {top!r}; it holds {', '.join(table.schema_arrow.names)}. "
                        "Set raw_corpus.text_field.")
    row = 0
    for batch in table.iter_batches(columns=[top], batch_size=1024):
        for record in batch.to_pylist():
            row += 1
            yield _text_of(record, text_field, f"{path}, row {row}")
