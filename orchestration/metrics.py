"""`python -m orchestration.metrics [STAGE ...]`: the metrics that one compares, a table a stage.

`dvc metrics show` has a column for every number of every stage, more than a thousand letters wide.
Here each stage has a table of its own with the numbers that dvc.yaml names as `plotted`, and no
line is longer than 100 letters. The cost: the other numbers are in metrics/ and on an asset's page.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestration.graph import Graph, GraphBusy, GraphError, read_graph
from orchestration.metadata import compared, is_number, numbers, readable

COLUMNS = 100
GAP = "  "
NONE = "-"

Row = Mapping[str, str]


def tables(graph: Graph, stages: Sequence[str] = ()) -> Iterator[str]:
    """A table for each stage that has something to compare. stages: only these."""
    of_stage: dict[str, dict[str, Row]] = {}
    for item in graph.items.values():
        if stages and item.stage not in stages:
            continue
        found = dict[str, str]()
        for path in item.metrics:
            found |= {
                name: readable(name, value)
                for name, value in numbers(graph.root / path)
                if is_number(value) and compared(item, name)
            }
        of_stage.setdefault(item.stage, {})[item.name or ""] = found
    for stage, rows in of_stage.items():
        if any(rows.values()):
            yield "\n".join(lines(stage, rows))


def lines(stage: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """The table of one stage; columns that find no room stand below, under the names again."""
    most = COLUMNS // 2
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    first = min(max(map(len, [stage, *rows])), most)
    widths = {
        name: min(max(len(name), *(len(row.get(name, NONE)) for row in rows.values())), most - 2)
        for name in names
    }
    while names:
        taken, room = list[str](), COLUMNS - first
        while names and room >= len(GAP) + widths[names[0]]:
            room -= len(GAP) + widths[names[0]]
            taken.append(names.pop(0))
        yield GAP.join(
            [cell(stage, first).ljust(first), *(cell(n, widths[n]).rjust(widths[n]) for n in taken)]
        )
        for item, row in rows.items():
            values = (row.get(name, NONE).rjust(widths[name]) for name in taken)
            yield GAP.join([cell(item, first).ljust(first), *values])


def cell(text: str, width: int) -> str:
    """The text, shortened in its middle where it is too long."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 2]}..{text[-end:]}"


def main(arguments: Sequence[str]) -> None:
    """Print them, or why there are none."""
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
