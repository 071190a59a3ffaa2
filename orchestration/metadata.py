"""The metadata of a materialisation: pictures and numbers first, then tables, sizes and origins.

It comes from the item's files and from dvc.lock; it is never computed again. Dagster shows the
entries in this order and plots each number over time. So metrics to compare from run to run are
numbers (`plotted` in dvc.yaml's meta), and everything else is text in readable units. Tables go
into Dagster's database and pictures next to its logs, so the UI shows them without the project's
files. The cost is space there, hence the limits.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

from dagster import MetadataValue

from orchestration import units
from orchestration.graph import Graph, Item, Locked
from orchestration.lineage import came_out, made_from, sources, table
from orchestration.nested import leaves
from orchestration.pictures import Show, inline, loss_over_tokens

# Every materialisation keeps its own copy. These limits allow 3.2 MB of pictures beside the logs,
# and tables of some 100 kB in the database.
PICTURE_BYTES, PICTURES = 400_000, 8
TABLE_BYTES, TABLES, TABLE_ROWS = 64_000, 6, 40
MADE_WITH = "made_with"
"""The key of a metrics file that holds the versions of packages."""
LOG = "log.csv"
"""The file of a training's folder that holds its loss curve."""

Entries = dict[str, MetadataValue[Any]]


def describe(
    graph: Graph,
    address: str,
    lock: Mapping[str, Locked],
    *,
    outcome: str,
    seconds: float | None = None,
    left_stale: AbstractSet[str] = frozenset(),
    revision: str = "",
    show: Show = inline,
    cost: str = "",
) -> Entries:
    """The metadata of one materialisation, in the order in which Dagster shows it.

    lock: dvc.lock at that moment. left_stale: items that were out of date then, and all downstream
    of them. revision: of the project in git, or "". show: how pictures are shown. cost: the
    predicted cost of making it again, or "".
    """
    item, locked = graph.items[address], lock.get(address)
    folders = [graph.root / path for path in item.outputs if path not in item.metrics]
    found = dict[str, Any]()
    for path in item.metrics:
        found |= dict(numbers(graph.root / path))
    made_with = str(found.pop(MADE_WITH, ""))

    entries: Entries = {}
    for folder in folders:
        entries |= pictures(folder, show)
    entries |= results(item, found)
    for folder in folders:
        entries |= tables(folder)

    entries["outcome"] = MetadataValue.text(outcome)
    # Twice: once to read, and once as a number, which Dagster plots and `make demo` prints.
    if seconds is not None:
        entries["took"] = MetadataValue.text(units.duration(seconds))
        entries["seconds"] = MetadataValue.float(round(seconds, 2))
    stale_upstream = ", ".join(sorted(item.upstream & left_stale))
    size = units.size(sum(locked.sizes.values())) if locked else ""
    entries |= texts({"predicted cost": cost, "stale upstream": stale_upstream, "size": size})

    for folder in folders:
        entries["path"] = MetadataValue.path(str(folder))
    if locked:
        entries["came out"] = MetadataValue.md(came_out(locked))
        entries["made from"] = MetadataValue.md(made_from(graph, address, locked))
        entries["sources"] = MetadataValue.md(sources(graph, address, lock, left_stale))
    return entries | texts({"made with": made_with, "git revision": revision})


def texts(words: Mapping[str, str]) -> Entries:
    """An entry for each text that is not empty."""
    return {name: MetadataValue.text(text) for name, text in words.items() if text}


def results(item: Item, found: Mapping[str, Any]) -> Entries:
    """The metrics of an item: first those to compare, as numbers; then the others, as text."""
    # Dagster plots every number. A text is only shown.
    first, rest = Entries(), Entries()
    for name, value in found.items():
        if is_number(value) and compared(item, name):
            first[name] = _plotted(value)
        elif value is not None:
            rest[name] = MetadataValue.text(readable(name, value))

    return first | rest


def _plotted(value: int | float) -> MetadataValue[Any]:
    if isinstance(value, int):
        return MetadataValue.int(value)
    return MetadataValue.float(units.rounded(value))


def compared(item: Item, name: str) -> bool:
    """Whether this metric is compared from run to run. All are if the stage names none."""
    return item.plotted is None or any(fnmatchcase(name, pattern) for pattern in item.plotted)


def readable(name: str, value: Any) -> str:
    """A value as text, in the unit that its name ends with."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not is_number(value):
        return str(value)

    # The last key names the quantity; the keys before it name groups.
    last = name.split(".")[-1].split("_")
    if "bytes" in last:
        return units.size(value)
    if "seconds" in last:
        return units.duration(value)
    return units.number(value)


def numbers(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value of a metrics file, nested keys joined by dots."""
    if path.suffix == ".json" and path.is_file():
        yield from leaves(json.loads(path.read_text()))


def pictures(folder: Path, show: Show = inline) -> Entries:
    """The curve of a training, and the PNG files of a folder, by file name."""
    shown: Entries = {}
    if drawn := loss_over_tokens(folder / LOG):
        shown["loss over tokens"] = MetadataValue.md(show("loss over tokens", drawn, "svg"))

    found = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size <= PICTURE_BYTES]
    for path in found[:PICTURES]:
        name = path.relative_to(folder).as_posix()
        shown[name] = MetadataValue.md(show(path.stem, path.read_bytes(), "png"))
    return shown


def tables(folder: Path) -> Entries:
    """The first rows of the CSV files of a folder, as Markdown, by file name."""
    found = [path for path in sorted(folder.rglob("*.csv")) if path.stat().st_size <= TABLE_BYTES]
    return {
        path.relative_to(folder).as_posix(): MetadataValue.md(_table(path))
        for path in found[:TABLES]
    }


def _table(path: Path) -> str:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    return table(rows[0], rows[1:], TABLE_ROWS) if rows else "(empty)"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether the value can be plotted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
