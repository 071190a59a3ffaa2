"""Parquet: the wanted fields are read in every form, and other columns cause no error."""

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.documents import Fields, read_texts
from assets.records import Skipped
from core.errors import UserError

TEXTS = ["one", "two", "three"]
NAMES = ["a", "b", "a"]
MAPS = pa.map_(pa.string(), pa.string())


def write(folder: Path, columns: dict[str, Any]) -> Path:
    """A file with these columns."""
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def read(
    path: Path, text: str = "text", domain: str | None = None, only: str | None = None
) -> list[str]:
    """The texts, or the reasons why there is none."""
    fields = Fields(text=text, domain=domain, only=only)
    found = list(read_texts(path, fields, 1000))
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return [value.reason if isinstance(value, Skipped) else value for _, value in found]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()],
    ids=str,
)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_a_text_is_read_as_whatever_it_is_stored(tmp_path: Path, kind: Any, encoded: bool) -> None:
    column = pa.array(TEXTS, pa.string()).cast(kind)
    if encoded and kind != pa.string_view():
        column = column.dictionary_encode()
    assert read(write(tmp_path, {"text": column})) == TEXTS


def test_bytes_that_are_no_text_are_counted_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": pa.array([b"one", b"\xff", b"three"])})
    assert read(path) == ["one", "undecodable", "three"]
    offsets, content = np.array([0, 3, 4, 9], np.int32), b"one\xffthree"
    invalid = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )
    assert read(write(tmp_path, {"text": invalid})) == ["one", "undecodable", "three"]


@pytest.mark.parametrize(
    "column",
    [[1, 2, 3], [["one"], [], None], [None, None, None], [True, False, None]],
    ids=["numbers", "lists", "nulls", "booleans"],
)
def test_a_column_without_text_is_counted_with_its_type(tmp_path: Path, column: list[Any]) -> None:
    path = write(tmp_path, {"text": column})
    assert read(path) == ["text_not_a_string"] * 3
    _, first = next(iter(read_texts(path, Fields(text="text"), 1000)))
    assert isinstance(first, Skipped) and first.detail.startswith("the field 'text' holds ")


DOMAINS: dict[str, tuple[Any, str]] = {
    "integer": ([3, 4, 3], "3"),
    "float": ([2024.0, 2023.0, 2024.0], "2024"),
    "boolean": ([True, False, True], "true"),
    "binary": ([b"a", b"b", b"a"], "a"),
    "dictionary": (pa.array(NAMES).dictionary_encode(), "a"),
    "date": ([datetime.date(2024, 1, day) for day in (1, 2, 1)], "2024-01-01"),
}


@pytest.mark.parametrize("kind", DOMAINS)
def test_a_domain_is_selected_by_its_name_as_text(tmp_path: Path, kind: str) -> None:
    column, only = DOMAINS[kind]
    path = write(tmp_path, {"text": TEXTS, "of": column})
    assert read(path, domain="of", only=only) == ["one", "other_domain", "three"]


def test_a_row_whose_domain_is_null_is_of_no_domain(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": TEXTS, "of": [3, None, 4]})
    assert read(path, domain="of", only="3") == ["one", "no_domain", "other_domain"]
    path = write(tmp_path, {"text": TEXTS, "of": [3.0, float("nan"), 4.0]})
    assert read(path, domain="of", only="3") == ["one", "no_domain", "other_domain"]


@pytest.mark.parametrize(
    "meta",
    [
        [{"of": name} for name in NAMES],
        [f'{{"of": "{name}"}}' for name in NAMES],
        [f'{{"of": "{name}"}}'.encode() for name in NAMES],
        pa.array([[("of", name)] for name in NAMES], MAPS),
    ],
    ids=["struct", "JSON", "JSON as bytes", "map"],
)
def test_a_nested_domain_is_found_however_it_is_stored(tmp_path: Path, meta: Any) -> None:
    path = write(tmp_path, {"text": TEXTS, "meta": meta})
    assert read(path, domain="meta.of", only="a") == ["one", "other_domain", "three"]


def test_a_map_that_holds_the_wanted_key_twice_is_counted(tmp_path: Path) -> None:
    meta = pa.array([[("of", "a"), ("of", "b")], [("of", "a"), ("x", "b")], [("of", "b")]], MAPS)
    path = write(tmp_path, {"text": TEXTS, "meta": meta})
    assert read(path, domain="meta.of", only="a") == ["broken_json", "two", "other_domain"]


def test_a_missing_column_is_counted_and_the_others_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": TEXTS, "meta": ["{'of': 'a'}"] * 3})
    assert read(path, domain="meta.of", only="a") == ["field_missing"] * 3
    assert read(path, text="content") == ["field_missing"] * 3
    _, first = next(iter(read_texts(path, Fields(text="content"), 1000)))
    assert isinstance(first, Skipped) and "holds text (string), meta (string)" in first.detail


def test_a_file_of_another_domain_may_lack_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"of": NAMES})
    assert read(path, domain="of", only="a") == ["field_missing", "other_domain", "field_missing"]


def struct(names: list[str], *columns: pa.Array) -> pa.StructArray:
    """Nested columns; names may repeat."""
    return pa.StructArray.from_arrays([pa.array(column) for column in columns], names=names)


def test_an_odd_column_does_not_break_the_wanted_one(tmp_path: Path) -> None:
    """None of the other columns can be converted to Python objects."""
    far = pa.array([9 * 10**17] * 3, pa.timestamp("ms"))
    offsets = np.array([0, 1, 2, 3], np.int32)
    invalid = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xff\xff")]
    )
    for odd in (far, invalid, struct(["x", "x"], TEXTS, TEXTS)):
        meta = struct(["odd", "of", "body"], odd, NAMES, TEXTS)
        path = write(tmp_path, {"text": TEXTS, "odd": odd, "meta": meta})
        assert read(path, domain="meta.of", only="a") == ["one", "other_domain", "three"]
        assert read(path, text="meta.body") == TEXTS


def test_two_fields_of_one_name_matter_only_if_one_is_wanted(tmp_path: Path) -> None:
    meta = struct(["of", "of", "text"], NAMES, NAMES, TEXTS)
    path = write(tmp_path, {"text": TEXTS, "meta": meta})
    assert read(path) == read(path, text="meta.text") == TEXTS
    with pytest.raises(UserError, match="two columns are named 'meta.of'"):
        read(path, domain="meta.of", only="a")
    pq.write_table(pa.Table.from_arrays([pa.array(TEXTS)] * 2, names=["text", "text"]), path)
    with pytest.raises(UserError, match="two columns are named 'text'"):
        read(path)


def test_a_file_whose_name_is_no_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"rows\xff.parquet")
    write(tmp_path, {"text": TEXTS}).rename(path)
    assert read(path) == TEXTS


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100, b'{"text": "one"}\n'])
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows.parquet: not a readable Parquet file") as stopped:
        read(path)
    assert "\n" not in str(stopped.value)
