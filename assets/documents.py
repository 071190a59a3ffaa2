"""Documents: the texts of JSON Lines (plain, .gz, .zst) and Parquet files.

Each record gives its text, or a named reason to skip it, and its line.
The stage counts the reasons against the user's limits (assets/tally.py).
Records without the wanted field are counted too, even if a whole Parquet file lacks the column.
A file that cannot be read to its end stops the stage; see assets/unpacking.py.

Only the wanted columns of a Parquet file are read, and only the wanted fields of nested columns. So
other columns cannot cause an error.
Text may be stored as bytes, and a nested record as JSON text.
The name of a domain may be stored as a number or a boolean. It is compared as JSON writes it.

The cost: a Parquet row becomes Python objects, which takes longer than reading whole columns. But
one bad value then costs one record, not a block.
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
    UNDECODABLE,
    Once,
    Skipped,
    numbered_lines,
    parsed,
)
from assets.source_files import DOCUMENTS, Files, shown, source_files
from assets.unpacking import BYTES_AT_ONCE, opened
from core.errors import UserError

ROWS_AT_ONCE = 128
"""Rows of Parquet in memory: few, because a book may have megabytes."""
LISTED = 200
"""Characters of the list of fields in a message."""
LONGEST_ESCAPE = 6
"""The escape of a zero byte has six bytes, so a text of n bytes takes at most 6 n in its line."""
KINDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
"""Python's types in the words of JSON, for messages."""

FIELD_MISSING = "field_missing"
NOT_A_STRING = "text_not_a_string"
OTHER_DOMAIN = "other_domain"
NO_DOMAIN = "no_domain"
ABSENT = object()
"""The value of a field that a record does not have. None is a value: null."""


Texts = Iterator[tuple[int, str | Skipped]]
"""Line or row number from 1, and the text or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which fields of a record are read.

    A field may have dots in its name. If there is none with the whole name, dots lead into nested
    records: "meta.redpajama_set_name".
    """

    text: str
    domain: str | None = None
    """The field that names the domain. None: the source holds one domain only."""
    only: str | None = None
    """The wanted domain. Records of other domains are left to those."""
    section: str = "raw_corpus"
    """The section of params.yaml that names the fields, for messages."""


def document_files(source: Path, setting: str = "raw_corpus.domains.*.source") -> Files:
    """The document files of a source: the source itself, or the files below it.

    setting: the key of params.yaml that names the source, for messages.
    """
    return source_files(source, DOCUMENTS, setting)


def read_texts(path: Path, fields: Fields, longest: int) -> Texts:
    """(line or row number from 1, text or why there is none) of every record of one file.

    A text may hold lone surrogates and zero bytes. Blank lines are not records.

    longest: UTF-8 bytes. A line that is too long for such a text is skipped as oversize, unparsed.
    Raises UserError, with file and line, if the file cannot be read to its end.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_texts(path, fields)
    return _json_texts(path, fields, longest)


def _json_texts(path: Path, fields: Fields, longest: int) -> Texts:
    """`read_texts` for JSON Lines."""
    # A key that occurs twice is an error only if the record is read through it.
    keys: list[str] = []
    for field in (fields.text, fields.domain):
        if field is not None:
            keys += (field, *field.split("."))
    once = Once(keys)

    for number, line in numbered_lines(path, LONGEST_ESCAPE * longest + BYTES_AT_ONCE):
        record = once.parsed(line) if isinstance(line, bytes) else line
        yield number, record if isinstance(record, Skipped) else _text_of(record, fields)


def _text_of(record: Any, fields: Fields, known: str | None = None) -> str | Skipped:
    """The text of a record, or why it is skipped.

    known: the columns of a Parquet file, for the message. None: the record's own keys are shown.
    """
    if fields.domain is not None:
        domain = _field(record, fields.domain)
        if domain is ABSENT:
            return _missing(record, fields.domain, f"{fields.section}.domain_field", known)
        # Nearly every record of a source of one domain passes here, without a call.
        other = None if domain == fields.only else _other_domain(domain, fields)
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
    """Why a record whose text has this type is skipped."""
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
    """The name of a domain as text, whatever its type. None if the value is not a name."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        # A column of integers with a missing value is stored as floats: 2024.0 is 2024, and NaN is
        # the missing one.
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return None if value is None or isinstance(value, dict | list) else str(value)


# The next three are cached: millions of records may be skipped for the same reason.


@lru_cache(1024)
def _named_other(name: str) -> Skipped:
    """Why a record of the domain `name` is skipped."""
    return Skipped(reason=OTHER_DOMAIN, detail=name)


@lru_cache
def _no_domain(detail: str) -> Skipped:
    """Why a record without the name of a domain is skipped."""
    return Skipped(reason=NO_DOMAIN, detail=detail)


def _field(record: Any, field: str) -> Any:
    """The value of a field, or ABSENT."""
    if not isinstance(record, dict):
        return ABSENT
    return record[field] if field in record else _below(record, field.split("."))


def _below(value: Any, keys: Sequence[str]) -> Any:
    """The value at a path of keys, or ABSENT. Skipped if an object on the path has a key twice.

    JSON that is stored as text is parsed.
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
    """The JSON value of a text. None if it is not JSON, Skipped if an object has `key` twice."""
    line = text.encode("utf-8", "replace") if isinstance(text, str) else text
    value = _once(key).parsed(line)
    if isinstance(value, Skipped) and isinstance(parsed(line), Skipped):
        return None
    return value


def _from_pairs(pairs: Sequence[tuple[Any, Any]], key: str) -> Any:
    """A map, which pyarrow gives as pairs. Skipped if it has `key` twice."""
    if sum(name == key for name, _ in pairs) > 1:
        return Skipped(reason=BROKEN_JSON, detail=f"two entries {key!r} in one map")
    return dict(pairs)


@lru_cache
def _once(key: str) -> Once:
    """A parser that refuses a second `key` in one object."""
    return Once([key])


def _missing(record: Any, field: str, setting: str, known: str | None) -> Skipped:
    """Why a record without a field is skipped. known: the columns of a Parquet file, or None."""
    if known is not None:
        return _no_field(field, setting, known)
    if not isinstance(record, dict):
        return _no_field(field, setting, f"no fields: it is {_kind(record)}")
    first = field.split(".")[0]
    hint = f"; its {first!r} is {_kind(record[first])}" if first in record else ""
    return _no_field(field, setting, (", ".join(record)[:LISTED] or "nothing") + hint)


@lru_cache
def _no_field(field: str, setting: str, known: str) -> Skipped:
    """Why a record without a wanted field is skipped. known: what it holds instead."""
    return Skipped(
        reason=FIELD_MISSING,
        detail=f"no field {field!r}, which {setting} names; the record holds {known}",
    )


def _kind(value: Any) -> str:
    """The type of a value, for messages."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return "null"
    if isinstance(value, str):
        return "text that is not a JSON object with it"
    return KINDS.get(type(value), f"a {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a field is in a Parquet file."""

    field: str
    name: str
    """The top-level column."""
    structs: tuple[str, ...]
    """Names from struct to struct below it."""
    keys: tuple[str, ...]
    """The rest of the field's name: keys of maps, or of JSON that is stored as text."""

    @property
    def path(self) -> str:
        """The name that pyarrow uses."""
        return ".".join([self.name, *self.structs])


def _parquet_texts(path: Path, fields: Fields) -> Texts:
    """`read_texts` for Parquet."""
    import pyarrow.parquet as pq  # imported here: it takes as long as reading a small domain

    row = 0
    try:
        # Opened here: pyarrow refuses a name that is not UTF-8.
        with opened(path) as file:
            table = pq.ParquetFile(file)
            schema = table.schema_arrow
            known = ", ".join(f"{column.name} ({column.type})" for column in schema)[:LISTED]
            columns = _wanted_columns(path, schema, fields)
            for record in _records(table, columns):
                row += 1
                yield row, _text_of(record, fields, known)
    except (pa.ArrowException, OSError) as error:
        problem = str(getattr(error, "strerror", None) or error).rstrip(".")
        place = f", after row {row}" if row else ": not a readable Parquet file"
        raise UserError(
            f"{shown(path)}{place}: {problem}. Give access to it, or fetch it again."
        ) from None


def _wanted_columns(path: Path, schema: pa.Schema, fields: Fields) -> list[Column]:
    """The columns that hold the wanted fields, without those that are absent."""
    columns = []
    for field in (fields.domain, fields.text):
        column = None if field is None else _column(path, schema, field)
        if column is not None:
            columns.append(column)
    return columns


def _column(path: Path, schema: pa.Schema, field: str) -> Column | None:
    """Where a field is. None if it is absent. Raises UserError if there are two of its name."""
    name, *keys = [field] if field in schema.names else field.split(".")

    # Down the structs, as long as the name goes on and exactly one column matches.
    structs: list[str] = []
    found = [schema.field(i) for i in schema.get_all_field_indices(name)]
    while len(found) == 1 and keys and pa.types.is_struct(found[0].type):
        structs.append(keys.pop(0))
        kind = found[0].type
        found = [kind.field(i) for i in kind.get_all_field_indices(structs[-1])]

    if len(found) > 1:
        twice = ".".join([name, *structs])
        raise UserError(
            f"{shown(path)}: two columns are named {twice!r}. Rename or remove one of them."
        )
    if not found:
        return None
    return Column(field=field, name=name, structs=tuple(structs), keys=tuple(keys))


def _records(table: Any, columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Rows of a pyarrow.parquet.ParquetFile as flat records, without absent fields."""
    if not columns:
        yield from ({} for _ in range(table.metadata.num_rows))
        return
    paths = [column.path for column in columns]
    names = [column.field for column in columns]
    for batch in table.iter_batches(columns=paths, batch_size=ROWS_AT_ONCE):
        values = [_values(batch, column) for column in columns]
        for row in zip(*values, strict=True):
            record = zip(names, row, strict=True)
            yield {name: value for name, value in record if value is not ABSENT}


def _values(batch: pa.RecordBatch, column: Column) -> list[Any]:
    """One value a row. ABSENT below a null, Skipped if bytes do not fit their type."""
    import pyarrow.compute as pc

    # Down the structs. A row whose struct is null has no value below it.
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
    """The values of an array as Python objects."""
    # Types such as UUID or JSON are stored as an ordinary array.
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):
        # One value cannot be converted. One by one, to find it and keep the others.
        return [_scalar(value, field) for value in array]


def _scalar(value: pa.Scalar, field: str) -> Any:
    """One value as a Python object. Skipped if it cannot be converted."""
    try:
        return value.as_py()
    except (ValueError, OverflowError) as error:
        return Skipped(reason=UNDECODABLE, detail=f"the field {field!r}: {error}")
