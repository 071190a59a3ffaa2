"""`make approve`: let the sensor or the schedule start items beyond NEEDLEWORK_BUDGET.

The sensor and the schedule start what fits the budget, in the graph's order. An item waits if its
upstream waits. What does not fit waits for a person, who runs this command or starts the run in the
UI. A run that a person starts needs no approval.

An approval names an item and the version of everything it is made from: sources, code and
parameters, down to the raw data. A change of any of them makes the approval void. It also ends once
the item is up to date. Approvals lie beside DVC's temporary files, so they hold for this folder
only.

The budget is for one state of the project: earlier runs for the same state count against it.
Otherwise each tick could spend the whole budget. Dagster's runs hold that count, and `make preview`
does not ask Dagster, so the preview shows what waits under the whole budget. The cost: after a
change, a lost output that no cache holds may need an approval.
"""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from core.environment import BUDGET
from orchestration.costs import Hours, as_setting, budget
from orchestration.graph import Graph
from orchestration.locks import OURS, write_whole
from orchestration.preview import COLUMNS, Outlook, cut, lines, listed, read, total

APPROVED = OURS / "approved.json"
"""A file: address -> the version of its inputs when a person approved it."""
COMMAND = "python -m orchestration.approve"
# Items that a message names, because it is one paragraph. It counts the others.
NAMED = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The items that may start, and those that wait for a person, in the graph's order."""

    starts: Sequence[str]
    waits: Sequence[str]
    spent: Hours
    """The cost of `starts` without the approved items."""


def split(graph: Graph, view: Outlook, allowed: Collection[str], left: Hours) -> Split:
    """Divide the items that are due.

    allowed: the items that may start at this tick. left: the rest of the budget.
    """
    approved = read_approved(graph)
    starts = list[str]()
    waits = list[str]()
    spent = Hours()

    # Upstream first, so that `waits` holds every upstream item that waits.
    for address in graph.items:
        if address not in view.cost or address not in allowed:
            continue
        # A person has agreed to the cost of an approved item.
        hours = Hours() if address in approved else view.cost[address].hours
        if graph.items[address].upstream.isdisjoint(waits) and (spent + hours).within(left):
            starts.append(address)
            spent += hours
        else:
            waits.append(address)

    return Split(starts=starts, waits=waits, spent=spent)


def waiting(view: Outlook, waits: Sequence[str]) -> str:
    """What waits and how to approve it, in one paragraph; "" if nothing waits."""
    if not waits:
        return ""
    named = ", ".join(f"{address} ({view.cost[address]})" for address in waits[:NAMED])
    more = f" and {len(waits) - NAMED} more" if len(waits) > NAMED else ""
    return (
        f"Beyond {BUDGET} ({as_setting(budget())}), so it waits for a person: {named}{more}. "
        f"Approve it: {COMMAND}. Or start it by hand."
    )


def waiting_lines(graph: Graph, view: Outlook) -> list[str]:
    """The same for the preview, as lines. An invalid budget ends the program with one line."""
    waits = split(graph, view, graph.items, checked_budget()).waits
    if not waits:
        return []

    most = 2 * NAMED  # a line for each item, so more fit than in a paragraph
    first = f"Beyond {BUDGET} ({as_setting(budget())}), so sensor and schedule wait for a person:"
    rows = [cut(f"  {address}  [{view.cost[address]}]", COLUMNS) for address in waits[:most]]
    more = [f"  and {len(waits) - most} more"] if len(waits) > most else []
    return [cut(first, COLUMNS), *rows, *more, f"Approve it: {COMMAND}"]


def checked_budget() -> Hours:
    """The budget. Ends the program with one line if it is invalid."""
    try:
        return budget()
    except ValueError as error:
        sys.exit(str(error))


def version(graph: Graph, address: str) -> str:
    """The version of an item and of everything upstream of it, down to the sources."""
    # The item's own version covers no upstream code or parameters.
    chain = [*graph.upstream(address), address]
    text = json.dumps({other: graph.code_version(other) for other in chain})
    return sha256(text.encode()).hexdigest()[:16]


def read_approved(graph: Graph) -> set[str]:
    """The approved items whose inputs have not changed since."""
    kept = _kept(graph.root)
    return {
        address
        for address in graph.items
        if address in kept and kept[address] == version(graph, address)
    }


def approve(graph: Graph, addresses: Collection[str]) -> None:
    """Add approvals for these items."""
    kept = {**_kept(graph.root), **{address: version(graph, address) for address in addresses}}
    write_whole(graph.root / APPROVED, json.dumps(kept).encode())


def drop_used(graph: Graph, due: Collection[str]) -> None:
    """Remove the approvals of items that are not due."""
    kept = _kept(graph.root)
    # Each tick comes here, and mostly nothing changes: then the file is not written.
    if not kept.keys() <= set(due):
        left = {address: kept[address] for address in kept if address in due}
        write_whole(graph.root / APPROVED, json.dumps(left).encode())


def _kept(root: Path) -> Mapping[str, str]:
    # A broken file counts as no approval: a person approves again, and nothing is spent unasked.
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads((root / APPROVED).read_text()))
    return {}


def with_upstream(graph: Graph, named: Sequence[str], due: Sequence[str]) -> list[str]:
    """The named items and everything upstream of them, as far as it is due.

    Raises ValueError for a name that is not due.
    """
    wanted = set[str]()
    for name in named:
        # The UI shows asset keys ("stage/item"), so a copied key must work too.
        address = name.replace("/", "@", 1)
        if address not in due:
            known = ", ".join(due[:NAMED]) or "nothing"
            raise ValueError(
                f"{name}: it is not due, so there is nothing to approve. Due: {known}."
            )
        wanted |= {address, *graph.upstream(address)}

    return [address for address in due if address in wanted]


def main(arguments: Sequence[str]) -> None:
    """Approve everything that is due, or the named items and their upstream."""
    state, view = read(Path.cwd())
    try:
        wanted = with_upstream(state.graph, arguments, view.due) if arguments else view.due
    except ValueError as error:
        sys.exit(str(error))

    print("\n".join(lines(view)))
    if not wanted:
        return

    approve(state.graph, wanted)
    print("\n".join(listed("approved", wanted, None)))
    print(
        f"It costs at most: {total(view, wanted)}. "
        "The sensor `changes`, or the schedule `nightly`,\n"
        "starts it if it is on. To start it now: python -m orchestration.repro"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
