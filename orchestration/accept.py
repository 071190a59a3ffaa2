"""`make accept ITEM=...`: declare that a change of code does not alter what was made by it.

A comment in a trainer's code makes all trainings out of date, for DVC knows code by its bytes. Here a
person says that the artefacts stand: dvc.lock names the code as it is now, nothing runs, and the
sensor `outside` reports it to Dagster. It is refused if anything but code changed (files that end in .py),
for then the artefact would be another. Who accepted what, at which revision, is a line of
accepted.jsonl, which belongs into git: written before dvc.lock, so no acceptance is without one.

The cost: it is a claim, and nothing here checks it. To take one back:
`python -m orchestration.repro --force ITEM` makes the item again.
"""

import getpass
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from orchestration.graph import (
    Graph,
    GraphBusy,
    GraphError,
    Moved,
    Refused,
    accept,
    read_graph,
)
from orchestration.lineage import git, revision

RECORD = "accepted.jsonl"
USAGE = "Name what to accept: make accept ITEM=checkpoint@NAME, or a stage for all of its items."


def addresses_of(graph: Graph, names: Sequence[str]) -> list[str]:
    """The items of these addresses, stages and assets ("stage/item"), in the graph's order. Raises
    Refused."""
    found = set[str]()
    for name in names:
        address = name.replace("/", "@", 1)
        items = {
            item.address for item in graph.items.values() if address in (item.address, item.stage)
        }
        if not items:
            stages = ", ".join(dict.fromkeys(item.stage for item in graph.items.values()))
            raise Refused(f"{name}: no such item. {USAGE} Stages: {stages}.")
        found |= items
    return [address for address in graph.items if address in found]


def write_down(root: Path, moved: Mapping[str, Moved]) -> None:
    """A line for each item."""
    now, who, what = datetime.now(UTC).isoformat(timespec="seconds"), user(root), revision(root)
    with (root / RECORD).open("a", encoding="utf-8") as file:
        for address, files in moved.items():
            entry = {
                "time": now,
                "user": who,
                "revision": what,
                "item": address,
                "files": {path: {"was": was, "is": new} for path, (was, new) in files.items()},
            }
            file.write(f"{json.dumps(entry, ensure_ascii=False)}\n")
        file.flush()
        os.fsync(file.fileno())


def user(root: Path) -> str:
    """As git knows them, else as the machine does."""
    name, email = git(root, "config", "user.name"), git(root, "config", "user.email")
    if name and email:
        return f"{name} <{email}>"
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def main(arguments: Sequence[str]) -> None:
    """Accept the items, all or none."""
    root, told = Path.cwd(), list[str]()

    def note(moved: Mapping[str, Moved]) -> None:
        write_down(root, moved)
        told.extend(f"{address}: {', '.join(files)}" for address, files in moved.items())

    try:
        if not arguments:
            raise Refused(USAGE)
        accept(root, addresses_of(read_graph(root), arguments), note)
    except (Refused, GraphError, GraphBusy) as error:
        sys.exit(str(error))
    print("\n".join(told) if told else "Up to date already: there is nothing to accept.")
    if told:
        print(f"dvc.lock names this code now. Commit it with {RECORD}.")


if __name__ == "__main__":
    main(sys.argv[1:])
