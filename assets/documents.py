"""Documents from the open formats people keep corpora in: JSON Lines (plain, .gz, .zst) and Parquet, streamed.

A broken record is not fatal by itself: it is reported with its line and a reason, and the stage counts it against the
limit the user sets. What cannot be read on from (a truncated archive, a missing file, a wrong field name, which is one
that the first 100 records of a file all lack) stops. No file of a folder is passed over without a word, but hidden
ones, DVC's and what only tells about the folder. Memory holds one block of a file and one line, and a line past
`longest` bytes is passed over without being held.
"""

import gzip
import json
import os
import sys
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
LACKING = 100  # records of a file without the field, with none before that has it: the name is wrong, not the records
NAMED = 20  # records or files named on stderr for each reason; the tables of the stage have all
TELLING = ("README", "LICENSE", "LICENCE")  # files that are no one's documents, whatever their ending
LONGEST_ESCAPE = 6  # bytes of \u0000: a text of n bytes makes a line of at most 6 n, and its other fields


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that gives no document, and the named reason."""

    reason: str
    detail: str = ""
    """What the reason leaves open: which field is not there, and what is."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields of a record matter. A field of the whole name is taken; else dots go into nested records:
    "meta.redpajama_set_name"."""

    text: str
    domain: str | None = None
    """The field that names the domain; None where a source holds one domain only."""
    only: str | None = None
    """Records whose domain is another are left to other domains."""
    section: str = "raw_corpus"
    """What in params.yaml names the fields, for messages."""


BROKEN_JSON = Skipped(reason="broken_json")
UNDECODABLE = Skipped(reason="undecodable")
NOT_A_STRING = Skipped(reason="text_not_a_string")
OVERSIZE = Skipped(reason="oversize")
OTHER_DOMAIN = Skipped(reason="other_domain")
FIELD_MISSING = "field_missing"


@dataclass(frozen=True, kw_only=True)
class Files:
    """What lies in a source, each sorted."""

    read: list[Path]
    ignored: dict[Path, str]
    """Files that hold no documents as far as we can tell, and why."""


def document_files(source: Path, setting: str = "raw_corpus.domains.*.source") -> Files:
    """The files of a source: itself, or every file below it with a known ending, in capitals too. The first of those
    ignored are named on stderr. Raises UserError if there is nothing to read.

    setting: what in params.yaml names the source, for the message.
    """
    if source.is_file():
        if not is_known(source.name):
            raise UserError(f"{source}: unknown format. Known endings: {', '.join(SUFFIXES)}. Rename or convert it.")
        return Files(read=[source], ignored={})
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder. Set {setting} in params.yaml.")
    read, ignored = [], {}
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            if path.is_symlink():
                ignored[path] = "a link to a folder is not followed"
        elif is_known(path.name):
            read.append(path)
        elif not _tells_about(path.relative_to(source)):
            ignored[path] = "unknown ending"
    for path, why in list(ignored.items())[:NAMED]:
        print(f"ignored: {path}: {why}", file=sys.stderr)
    if len(ignored) > NAMED:
        print(f"ignored: {len(ignored) - NAMED:,} more below {source}", file=sys.stderr)
    if not read:
        raise UserError(f"{source}: holds no {', '.join(SUFFIXES)} file. Point {setting} at documents.")
    return Files(read=read, ignored=ignored)


def is_known(name: str) -> bool:
    """Whether a file of this name holds documents."""
    return name.lower().endswith(SUFFIXES)


def _tells_about(path: Path) -> bool:
    """Whether a file, by its path in the source, is there for the folder's sake."""
    return (any(part.startswith(".") for part in path.parts) or path.stem.upper() in TELLING
            or path.suffix == ".dvc")


def read_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    """(line or row number from 1, text or why there is none) of every record of one file; blank lines don't count.

    longest: a text of more UTF-8 bytes is certainly skipped as oversize where its line tells so before it is parsed.
    Raises UserError, with file and line, for a broken archive and for a field that the first records all lack.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    texts = _parquet_texts(path, fields) if is_parquet else _json_texts(path, fields, longest)
    lacking: list[tuple[int, str]] = []
    for number, text in texts:
        yield number, text
        if not isinstance(text, Skipped) or text in (OTHER_DOMAIN, NOT_A_STRING):  # it has the fields
            yield from texts
            return
        if text.reason == FIELD_MISSING:
            lacking.append((number, text.detail))
            if len(lacking) == LACKING:
                break
    if lacking:
        number, detail = lacking[0]
        unit = "row" if is_parquet else "line"
        raise UserError(f"{path}, {unit} {number}: {detail}. No record up to {unit} {lacking[-1][0]} has it: set the "
                        "field's name right.")


def _json_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    for number, line in _numbered_lines(path, LONGEST_ESCAPE * longest + BYTES_AT_ONCE):
        if line is None:
            yield number, OVERSIZE
            continue
        if not line or line.isspace():
            continue
        record = _parsed(line)
        yield number, record if isinstance(record, Skipped) else _text_of(record, fields)


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # The standard parser is slower and takes more: lone surrogates, NaN. It also tells bad bytes from bad JSON.
        try:
            return json.loads(line)
        except UnicodeDecodeError:
            return UNDECODABLE
        except (ValueError, RecursionError):  # the second: brackets nested past all sense
            return BROKEN_JSON


def _text_of(record: Any, fields: Fields) -> str | Skipped:
    if fields.domain is not None:
        domain = _field(record, fields.domain)
        if domain is ABSENT:
            return _missing(record, fields.domain, f"{fields.section}.domain_field")
        if domain != fields.only:
            return OTHER_DOMAIN
    text = _field(record, fields.text)
    if text is ABSENT:
        return _missing(record, fields.text, f"{fields.section}.text_field")
    return text if isinstance(text, str) else NOT_A_STRING


ABSENT = object()


def _field(record: Any, field: str) -> Any:
    """The value of a field, or ABSENT."""
    if isinstance(record, dict) and field in record:
        return record[field]
    try:
        for key in field.split("."):
            record = record[key]
    except (KeyError, TypeError):
        return ABSENT
    return record


def _missing(record: Any, field: str, setting: str) -> Skipped:
    known = ", ".join(record)[:200] or "nothing" if isinstance(record, dict) else f"no fields, being {_kind(record)}"
    return Skipped(reason=FIELD_MISSING, detail=f"no field {field!r}, as {setting} says; the record holds {known}")


def _kind(record: Any) -> str:
    return "null" if record is None else f"a {type(record).__name__}"


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
    packing = path.suffix.lower()
    if packing in (".gz", ".zst") and not os.fstat(file.fileno()).st_size:
        raise EOFError("it holds no byte, where even an archive of nothing has a beginning")
    if packing == ".zst":
        return _zstd_blocks(file)
    reader = gzip.GzipFile(fileobj=file) if packing == ".gz" else file
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
    names = table.schema_arrow.names
    wanted = {setting: field if field in names else field.split(".")[0] for setting, field in columns.items()}
    for setting, column in wanted.items():
        if column not in names:
            raise UserError(f"{path}: no column {column!r}; it holds {', '.join(names)}. Set "
                            f"{fields.section}.{setting}.")
    row = 0
    try:
        for batch in table.iter_batches(columns=sorted(set(wanted.values())), batch_size=ROWS_AT_ONCE):
            for record in _records(batch):
                row += 1
                yield row, _text_of(record, fields) if record is not None else UNDECODABLE
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
