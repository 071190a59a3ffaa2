"""What Dagster shows of an item once it is made: outcome, sizes, numbers, pictures, tables.

All of it is read from what the item wrote, never computed again. Pictures and tables go inline into Dagster's database,
so that the UI shows them without reaching the project's files; the cost is database space, hence the limits. Each has
an entry of its own: Dagster shows a table inline, a picture in a window.
"""

import csv
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import MetadataValue

from orchestration.graph import Graph
from orchestration.running import Finished

PICTURE_BYTES, PICTURES = 400_000, 8
TABLE_BYTES, TABLES, TABLE_ROWS = 64_000, 6, 40


def describe(graph: Graph, finished: Finished, stale_upstream: Sequence[str] = ()) -> dict[str, MetadataValue[Any]]:
    """The metadata of one materialisation.

    stale_upstream: addresses that this item reads, that are out of date, and that this run was not asked to make.
    """
    item = graph.items[finished.address]
    entries: dict[str, MetadataValue[Any]] = {"outcome": MetadataValue.text(finished.outcome.value),
                                              "seconds": MetadataValue.float(round(finished.seconds, 2))}
    if stale_upstream:
        entries["stale upstream"] = MetadataValue.text(", ".join(stale_upstream))
    if finished.locked:
        entries["bytes"] = MetadataValue.int(sum(finished.locked.sizes.values()))
    for path in item.metrics:
        entries |= {name: number for name, number in numbers(graph.root / path) if name not in entries}
    for folder in [graph.root / path for path in item.outputs if path not in item.metrics]:
        entries["path"] = MetadataValue.path(str(folder))
        entries |= tables(folder) | pictures(folder)
    return entries


def numbers(path: Path) -> Iterator[tuple[str, MetadataValue[Any]]]:
    """Each number in a metrics file, nested keys joined by dots. Dagster plots them over time."""
    if path.suffix != ".json" or not path.is_file():
        return
    for name, value in _flat(json.loads(path.read_text())):
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, MetadataValue.int(value)
        elif isinstance(value, float):
            yield name, MetadataValue.float(value)


def pictures(folder: Path) -> dict[str, MetadataValue[Any]]:
    """The PNG files of a folder, inline, by file name."""
    found = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size <= PICTURE_BYTES]
    return {path.relative_to(folder).as_posix(): MetadataValue.md(_picture(path)) for path in found[:PICTURES]}


def tables(folder: Path) -> dict[str, MetadataValue[Any]]:
    """The first rows of the CSV files of a folder, as Markdown, by file name."""
    found = [path for path in sorted(folder.rglob("*.csv")) if path.stat().st_size <= TABLE_BYTES]
    return {path.relative_to(folder).as_posix(): MetadataValue.md(_table(path)) for path in found[:TABLES]}


def _picture(path: Path) -> str:
    return f"![{path.stem}](data:image/png;base64,{b64encode(path.read_bytes()).decode()})"


def _table(path: Path) -> str:
    with path.open(newline="") as file:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in csv.reader(file) if row]
    if not rows:
        return "(empty)"
    head, *body = rows
    lines = [head, ["---"] * len(head), *body[:TABLE_ROWS]]
    left_out = f"\n\n({len(body) - TABLE_ROWS} more rows)" if len(body) > TABLE_ROWS else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + left_out


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
