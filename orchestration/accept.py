"""`make accept ITEM=...`: declare that a code change does not alter the artefacts.

DVC hashes code by its bytes, so a new comment in a trainer makes all trainings out of date. With
this command a person keeps the artefacts: dvc.lock gets the hashes of the current code, nothing
runs, and the sensor `outside` reports it to Dagster. The command refuses if anything but code
(files that end in .py) has changed. Each acceptance is a line of accepted.jsonl: who, what, at
which revision. Commit that file.

The cost: an acceptance is a claim that nothing checks. `python -m orchestration.repro --force ITEM`
takes it back, because it makes the item again.
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
    """The items that `names` select, in the graph's order.

    A name is an address, a stage or an asset key ("stage/item"). Raises Refused for any other name.
    """
    found = set[str]()
    for name in names:
        # The UI shows asset keys, so a copied key must work too.
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
    """Append a line to accepted.jsonl for each item."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    who = user(root)
    what = revision(root)

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
        # dvc.lock names the code already. After a power cut the record must not be missing.
        file.flush()
        os.fsync(file.fileno())


def user(root: Path) -> str:
    """The user's name and email from git, or else the login name."""
    name = git(root, "config", "user.name")
    email = git(root, "config", "user.email")
    if name and email:
        return f"{name} <{email}>"

    # A container may run as a number that has no entry in its list of users.
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def main(arguments: Sequence[str]) -> None:
    """Accept the named items. If one of them is refused, none is accepted."""
    root = Path.cwd()
    accepted = list[str]()

    def note(moved: Mapping[str, Moved]) -> None:
        write_down(root, moved)
        accepted.extend(f"{address}: {', '.join(files)}" for address, files in moved.items())

    try:
        if not arguments:
            raise Refused(USAGE)
        accept(root, addresses_of(read_graph(root), arguments), note)
    except (Refused, GraphError, GraphBusy) as error:
        sys.exit(str(error))

    if not accepted:
        print("Up to date already: there is nothing to accept.")
        return
    print("\n".join(accepted))
    print(f"dvc.lock names this code now. Commit it with {RECORD}.")


if __name__ == "__main__":
    main(sys.argv[1:])
