"""Documents from the formats people keep corpora in: JSON Lines (plain, .gz, .zst) and Parquet.

Each record gives its text or a named reason to skip it, with its line.
The stage counts the reasons against the user's limits.
Records without the wanted field are counted too, even if a whole Parquet file lacks the column.
A file that cannot be read further (a cut-off archive, a missing file) stops the stage; see
assets/records.py.

Only the wanted columns of a Parquet file are read, and only the wanted fields of nested columns, so
other columns cannot cause an error.
Text may be stored as bytes, and a nested record as JSON text.
The name of a domain may be stored as a number or a boolean: it is compared as JSON writes it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets.records import (
    BROKEN_JSON,
    BYTES_AT_ONCE,
    UNDECODABLE,
    Once,
    Skipped,
    numbered_lines,
    opened,
    parsed,
)
from assets.source_files import DOCUMENTS, Files, shown, source_files
from core.errors import UserError

ROWS_AT_ONCE = 128
KINDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
LISTED = 200  # characters of the list of fields in a message
LONGEST_ESCAPE = 6
"""The escape of a zero byte is six bytes: a text of n bytes takes at most 6 n in its line."""

FIELD_MISSING = "field_missing"
NOT_A_STRING = "text_not_a_string"
OTHER_DOMAIN = "other_domain"
NO_DOMAIN = "no_domain"
ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields of a record matter.

    A field with the whole name comes first; otherwise dots lead into nested records:
    "meta.redpajama_set_name".
    """

    text: str
    domain: str | None = None
    """The field that names the domain; None where a source holds one domain only."""
    only: str | None = None
    """Records whose domain is another are left to other domains."""
    section: str = "raw_corpus"
    """The section of params.yaml that names the fields, for messages."""


def document_files(source: Path, setting: str = "raw_corpus.domains.*.source") -> Files:
    """The document files of a source: the source itself, or the files below it, by
    assets/source_files.py.

    setting: the key of params.yaml that names the source, for messages.
    """
    return source_files(source, DOCUMENTS, setting)


def read_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    """(line or row number from 1, text or why there is none) of every record of one file.

    A text may hold lone surrogates and zero bytes. Blank lines are no records.

    longest: UTF-8 bytes. A line that can only hold a longer text is skipped as oversize, unparsed.
    Raises UserError, with file and line, where the file cannot be read further.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_texts(path, fields)
    return _json_texts(path, fields, longest)


def _json_texts(path: Path, fields: Fields, longest: int) -> Iterator[tuple[int, str | Skipped]]:
    wanted = [fields.text] if fields.domain is None else [fields.text, fields.domain]
    once = Once(key for field in wanted for key in (field, *field.split(".")))
    for number, line in numbered_lines(path, LONGEST_ESCAPE * longest + BYTES_AT_ONCE):
        record = once.parsed(line) if isinstance(line, bytes) else line
        yield number, record if isinstance(record, Skipped) else _text_of(record, fields)


def _text_of(record: Any, fields: Fields, known: str | None = None) -> str | Skipped:
    """The text of a record. known: its fields, for a message, if not its own keys."""
    if fields.domain is not None:
        domain = _field(record, fields.domain)
        if domain != fields.only:
            if domain is ABSENT:
                return _missing(record, fields.domain, f"{fields.section}.domain_field", known)
            other = _other_domain(domain, fields)
            if other is not None:
                return other
    text = _field(record, fields.text)
    if isinstance(text, str):
        return text
    if text is ABSENT:
        return _missing(record, fields.text, f"{fields.section}.text_field", known)
    return _text_from(text, fields)


def _text_from(value: Any, fields: Fields) -> str | Skipped:
    """The text in a value that is not a string: bytes are decoded, any other type is skipped."""
    if isinstance(value, Skipped):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            return Skipped(
                reason=UNDECODABLE, detail=f"the byte {value[error.start]:#x} is not UTF-8"
            )
    return _not_a_string(fields.text, _kind(value))


@lru_cache
def _not_a_string(field: str, kind: str) -> Skipped:
    return Skipped(reason=NOT_A_STRING, detail=f"the field {field!r} holds {kind}")


def _other_domain(domain: Any, fields: Fields) -> Skipped | None:
    """Why a record with this value in its domain field is not wanted; None if it is wanted."""
    if isinstance(domain, Skipped):
        return domain
    name = _domain_name(domain)
    if name is None:
        return _no_domain(f"the field {fields.domain!r} holds {_kind(domain)}")
    return None if name == fields.only else _named_other(name)


def _domain_name(value: Any) -> str | None:
    """The name of a domain as text, however it is stored; None for what names none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        # Integers with a missing value are stored as floats: 2024.0 is 2024, NaN is the missing
        # one.
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    return None if value is None or isinstance(value, dict | list) else str(value)


@lru_cache(1024)
def _named_other(name: str) -> Skipped:
    return Skipped(reason=OTHER_DOMAIN, detail=name)


@lru_cache
def _no_domain(detail: str) -> Skipped:
    return Skipped(reason=NO_DOMAIN, detail=detail)


def _field(record: Any, field: str) -> Any:
    """The value of a field, or ABSENT."""
    if not isinstance(record, dict):
        return ABSENT
    return record[field] if field in record else _below(record, field.split("."))


def _below(value: Any, keys: Sequence[str]) -> Any:
    """The value at a path of keys, or ABSENT; Skipped if an object on the way holds a key twice.

    JSON stored as text is parsed on the way.
    """
    for key in keys:
        if isinstance(value, str | bytes):
            value = _from_text(value, key)
        if isinstance(value, list) and all(isinstance(item, tuple) for item in value):
            value = _from_pairs(value, key)
        if isinstance(value, Skipped):
            return value
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value


def _from_text(text: str | bytes, key: str) -> Any:
    """The JSON value in a text; None if it is none, Skipped if an object of it holds `key` twice."""
    line = text.encode("utf-8", "replace") if isinstance(text, str) else text
    value = _once(key).parsed(line)
    if isinstance(value, Skipped) and isinstance(parsed(line), Skipped):
        return None
    return value


def _from_pairs(pairs: Sequence[tuple[Any, Any]], key: str) -> Any:
    """A map, which pyarrow gives as pairs; Skipped if it holds `key` twice."""
    if sum(name == key for name, _ in pairs) > 1:
        return Skipped(reason=BROKEN_JSON, detail=f"two entries {key!r} in one map")
    return dict(pairs)


@lru_cache
def _once(key: str) -> Once:
    return Once([key])


def _missing(record: Any, field: str, setting: str, known: str | None) -> Skipped:
    if known is not None:
        return _no_field(field, setting, known)
    if not isinstance(record, dict):
        return _no_field(field, setting, f"no fields, being {_kind(record)}")
    first = field.split(".")[0]
    hint = f"; its {first!r} is {_kind(record[first])}" if first in record else ""
    return _no_field(field, setting, (", ".join(record)[:LISTED] or "nothing") + hint)


@lru_cache
def _no_field(field: str, setting: str, known: str) -> Skipped:
    return Skipped(
        reason=FIELD_MISSING,
        detail=f"no field {field!r}, as {setting} says; the record holds {known}",
    )


def _kind(value: Any) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return "null"
    if isinstance(value, str):
        return "text that is no JSON object with it"
    return KINDS.get(type(value), f"a {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a field stands in a Parquet file."""

    field: str
    name: str
    """The top-level column."""
    structs: tuple[str, ...]
    """Names from struct to struct below it."""
    keys: tuple[str, ...]
    """What is left of the field's name: keys of maps, or of JSON stored as text."""

    @property
    def path(self) -> str:
        """What pyarrow calls it."""
        return ".".join([self.name, *self.structs])


def _parquet_texts(path: Path, fields: Fields) -> Iterator[tuple[int, str | Skipped]]:
    import pyarrow.parquet as pq  # imported here: it takes as long as reading a small domain

    row = 0
    try:
        # Opened here: pyarrow refuses a name that is not UTF-8.
        with opened(path) as file:
            table = pq.ParquetFile(file)
            schema = table.schema_arrow
            known = ", ".join(f"{column.name} ({column.type})" for column in schema)[:LISTED]
            wanted = [fields.text] if fields.domain is None else [fields.domain, fields.text]
            found = [_column(path, schema, field) for field in wanted]
            columns = [column for column in found if column is not None]
            for record in _records(table, columns):
                row += 1
                yield row, _text_of(record, fields, known)
    except (pa.ArrowException, OSError) as error:
        problem = str(getattr(error, "strerror", None) or error).rstrip(".")
        place = f", after row {row}" if row else ": not a readable Parquet file"
        raise UserError(
            f"{shown(path)}{place}: {problem}. Give access to it, or fetch it again."
        ) from None


def _column(path: Path, schema: pa.Schema, field: str) -> Column | None:
    """Where a field stands; None if it is absent. Raises UserError if there are two."""
    name, *keys = [field] if field in schema.names else field.split(".")
    structs: list[str] = []
    found = [schema.field(i) for i in schema.get_all_field_indices(name)]
    while len(found) == 1 and keys and pa.types.is_struct(found[0].type):
        structs.append(keys.pop(0))
        kind = found[0].type
        found = [kind.field(i) for i in kind.get_all_field_indices(structs[-1])]
    if len(found) > 1:
        twice = ".".join([name, *structs])
        raise UserError(
            f"{shown(path)}: two columns {twice!r}, and either may be meant. Rename one of them."
        )
    if not found:
        return None
    return Column(field=field, name=name, structs=tuple(structs), keys=tuple(keys))


def _records(table: Any, columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Rows of a pyarrow.parquet.ParquetFile as flat records; a field that is absent is left out."""
    if not columns:
        yield from ({} for _ in range(table.metadata.num_rows))
        return
    paths = [column.path for column in columns]
    names = [column.field for column in columns]
    for batch in table.iter_batches(columns=paths, batch_size=ROWS_AT_ONCE):
        for row in zip(*(_values(batch, column) for column in columns), strict=True):
            record = zip(names, row, strict=True)
            yield {name: value for name, value in record if value is not ABSENT}


def _values(batch: pa.RecordBatch, column: Column) -> list[Any]:
    """One value a row: ABSENT below a null, Skipped where bytes are not what their type says."""
    import pyarrow.compute as pc

    array = batch.column(batch.schema.get_field_index(column.name))
    absent: list[int] = []
    for name in column.structs:
        absent += array.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
        array = pc.struct_field(array, [array.type.get_field_index(name)])

    values = _plain(array, column.field)
    for key in column.keys:
        values = [value if isinstance(value, Skipped) else _below(value, [key]) for value in values]
    for row in absent:
        values[row] = ABSENT
    return values


def _plain(array: pa.Array, field: str) -> list[Any]:
    """The values of an array as Python has them."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):
        return [_scalar(value, field) for value in array]


def _scalar(value: pa.Scalar, field: str) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError) as error:
        return Skipped(reason=UNDECODABLE, detail=f"the field {field!r}: {error}")
