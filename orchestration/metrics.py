"""`python -m orchestration.metrics [STAGE ...]`: the metrics to compare, one table for each stage.

`dvc metrics show` has one column for every number of every stage, more than 1,000 characters wide.
Here each stage has its own table with the numbers that dvc.yaml names as `plotted`, and no line is
longer than 100 characters. The cost: all other numbers are only in metrics/ and on the assets'
pages.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestration.graph import Graph, GraphBusy, GraphError, Item, read_graph
from orchestration.metadata import compared, is_number, numbers, readable

# The width of a terminal beside an editor, and of this project's lines.
COLUMNS = 100
GAP = "  "
NONE = "-"

Row = Mapping[str, str]


def tables(graph: Graph, stages: Sequence[str] = ()) -> Iterator[str]:
    """A table for each stage that has metrics to compare. stages: only these; () for all."""
    of_stage: dict[str, dict[str, Row]] = {}
    for item in graph.items.values():
        if not stages or item.stage in stages:
            of_stage.setdefault(item.stage, {})[item.name or ""] = row_of(graph.root, item)

    for stage, rows in of_stage.items():
        if any(rows.values()):
            yield "\n".join(lines(stage, rows))


def row_of(root: Path, item: Item) -> Row:
    """Metric -> value as text, of the metrics to compare of one item. Empty if it is not made."""
    row = dict[str, str]()
    for path in item.metrics:
        for name, value in numbers(root / path):
            if is_number(value) and compared(item, name):
                row[name] = readable(name, value)
    return row


def lines(stage: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """The table of one stage. Columns that do not fit follow below, with the names repeated."""
    # Half a line for the item names and half for a column: at least one column always fits.
    most = COLUMNS // 2
    first = min(max(map(len, [stage, *rows])), most)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    widths = dict[str, int]()
    for name in names:
        values = [row.get(name, NONE) for row in rows.values()]
        widths[name] = min(max(map(len, [name, *values])), most - len(GAP))

    # One block of lines for each group of columns that fits.
    while names:
        taken, room = list[str](), COLUMNS - first
        while names and room >= len(GAP) + widths[names[0]]:
            room -= len(GAP) + widths[names[0]]
            taken.append(names.pop(0))

        head = [cell(name, widths[name]).rjust(widths[name]) for name in taken]
        yield GAP.join([cell(stage, first).ljust(first), *head])
        for item, row in rows.items():
            values = [cell(row.get(name, NONE), widths[name]) for name in taken]
            shown = [value.rjust(widths[name]) for name, value in zip(taken, values, strict=True)]
            yield GAP.join([cell(item, first).ljust(first), *shown])


def cell(text: str, width: int) -> str:
    """The text, shortened in its middle if it is too long: names differ at their ends."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 2]}..{text[-end:]}"


def main(arguments: Sequence[str]) -> None:
    """Print the tables, or why there are none."""
    try:
        graph = read_graph(Path.cwd())
    except (GraphError, GraphBusy) as error:
        sys.exit(str(error))

    known = {item.stage for item in graph.items.values()}
    if unknown := [stage for stage in arguments if stage not in known]:
        sys.exit(f"No stage {unknown[0]!r} in dvc.yaml. There are {', '.join(sorted(known))}.")

    shown = list(tables(graph, arguments))
    print("\n\n".join(shown) or "Nothing is made yet: make demo")


if __name__ == "__main__":
    main(sys.argv[1:])
