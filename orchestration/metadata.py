"""What Dagster shows of an item once it is made: outcome, sizes, numbers, pictures, tables, what it
came from.

All of it is read from what the item wrote and from dvc.lock, never computed again. Pictures and
tables go inline into Dagster's database, so that the UI shows them without reaching the project's
files; the cost is database space, hence the limits. Each has an entry of its own: Dagster shows it
on the asset's page, and from a run's log in a window.
"""

import csv
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from dagster import MetadataValue

from orchestration.graph import Graph, Locked
from orchestration.lineage import came_out, made_from, sources, table

PICTURE_BYTES, PICTURES = 400_000, 8
TABLE_BYTES, TABLES, TABLE_ROWS = 64_000, 6, 40


def describe(
    graph: Graph,
    address: str,
    lock: Mapping[str, Locked],
    *,
    outcome: str,
    seconds: float | None = None,
    left_stale: AbstractSet[str] = frozenset(),
    revision: str = "",
    cost: str = "",
) -> dict[str, MetadataValue[Any]]:
    """The metadata of one materialisation.

    lock: dvc.lock at that moment. left_stale: the items that were out of date then, or read such a
    one. revision: of the project in git; "" where there is none. cost: what making it again is going
    to cost; "" where nothing is known.
    """
    item = graph.items[address]
    entries: dict[str, MetadataValue[Any]] = {"outcome": MetadataValue.text(outcome)}
    if seconds is not None:
        entries["seconds"] = MetadataValue.float(round(seconds, 2))
    if cost:
        entries["predicted cost"] = MetadataValue.text(cost)
    if item.upstream & left_stale:
        entries["stale upstream"] = MetadataValue.text(
            ", ".join(sorted(item.upstream & left_stale))
        )
    if address in lock:
        entries["bytes"] = MetadataValue.int(sum(lock[address].sizes.values()))
        entries["came out"] = MetadataValue.md(came_out(lock[address]))
        entries["made from"] = MetadataValue.md(made_from(graph, address, lock[address]))
        entries["sources"] = MetadataValue.md(sources(graph, address, lock, left_stale))
    if revision:
        entries["git revision"] = MetadataValue.text(revision)
    for path in item.metrics:
        entries |= {
            name: number for name, number in numbers(graph.root / path) if name not in entries
        }
    for folder in [graph.root / path for path in item.outputs if path not in item.metrics]:
        entries["path"] = MetadataValue.path(str(folder))
        entries |= tables(folder) | pictures(folder)
    return entries


def numbers(path: Path) -> Iterator[tuple[str, MetadataValue[Any]]]:
    """Each number in a metrics file, nested keys joined by dots; Dagster plots them over time. And
    the versions of the packages that made it."""
    if path.suffix != ".json" or not path.is_file():
        return
    for name, value in _flat(json.loads(path.read_text())):
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, MetadataValue.int(value)
        elif isinstance(value, float):
            yield name, MetadataValue.float(value)
        elif name == "made_with":
            yield "made with", MetadataValue.text(str(value))


def pictures(folder: Path) -> dict[str, MetadataValue[Any]]:
    """The PNG files of a folder, inline, by file name."""
    found = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size <= PICTURE_BYTES]
    return {
        path.relative_to(folder).as_posix(): MetadataValue.md(_picture(path))
        for path in found[:PICTURES]
    }


def tables(folder: Path) -> dict[str, MetadataValue[Any]]:
    """The first rows of the CSV files of a folder, as Markdown, by file name."""
    found = [path for path in sorted(folder.rglob("*.csv")) if path.stat().st_size <= TABLE_BYTES]
    return {
        path.relative_to(folder).as_posix(): MetadataValue.md(_table(path))
        for path in found[:TABLES]
    }


def _picture(path: Path) -> str:
    return f"![{path.stem}](data:image/png;base64,{b64encode(path.read_bytes()).decode()})"


def _table(path: Path) -> str:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    return table(rows[0], rows[1:], TABLE_ROWS) if rows else "(empty)"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
