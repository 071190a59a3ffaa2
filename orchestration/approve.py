"""`make approve`: let sensor or schedule start what is beyond NEEDLEWORK_BUDGET.

They start what fits, in the graph's order: an item whose upstream waits, waits too. The rest waits
for a person, who types this command, or starts the run by hand in the UI: what a person starts is
approved. An approval is of an item made from what stood there then: its sources, code and
parameters, and those of all that it is made from. If any of them changes, it is void. Once the item
is up to date, it is used up. Approvals stand beside DVC's temporary files, so they hold for this
folder alone.

The budget is of one change: what was started for the same state of the project counts against it,
or a tick after the other would spend all. That stands on the runs in Dagster, so `make preview`,
which does not ask Dagster, shows what waits under the whole budget. The cost: after a change, a lost
output that no cache holds may have to be approved.
"""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from core.environment import BUDGET
from orchestration.costs import Hours, budget, in_words
from orchestration.graph import Graph
from orchestration.locks import OURS, write_whole
from orchestration.preview import COLUMNS, Outlook, cut, lines, listed, read, total

APPROVED = OURS / "approved.json"
"""Address -> version of what it was approved to be made from."""
COMMAND = "python -m orchestration.approve"
NAMED = 6
"""How many items that wait are named in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """What may start, and what waits for a person. Addresses are in the graph's order."""

    starts: Sequence[str]
    waits: Sequence[str]
    spent: Hours
    """Of the budget, by what starts."""


def split(graph: Graph, view: Outlook, allowed: Collection[str], left: Hours) -> Split:
    """Divide what is due.

    allowed: the items that may be asked for at all. left: what is left of the budget.
    """
    approved = read_approved(graph)
    starts, waits, spent = list[str](), list[str](), Hours()
    for address in (address for address in graph.items if address in view.cost):
        if address not in allowed:
            continue
        hours = Hours() if address in approved else view.cost[address].hours
        if graph.items[address].upstream.isdisjoint(waits) and (spent + hours).within(left):
            starts.append(address)
            spent += hours
        else:
            waits.append(address)
    return Split(starts=starts, waits=waits, spent=spent)


def waiting(view: Outlook, waits: Sequence[str]) -> str:
    """What waits and how to approve it, in one paragraph; "" if nothing does."""
    if not waits:
        return ""
    named = ", ".join(f"{address} ({view.cost[address]})" for address in waits[:NAMED])
    more = f" and {len(waits) - NAMED} more" if len(waits) > NAMED else ""
    return (
        f"Beyond {BUDGET} ({in_words(budget())}), so it waits for a person: {named}{more}. "
        f"Approve it: {COMMAND}. Or start it by hand."
    )


def waiting_lines(graph: Graph, view: Outlook) -> list[str]:
    """The same for the preview. Ends the program with one line where the budget is not right."""
    waits = split(graph, view, graph.items, checked_budget()).waits
    if not waits:
        return []
    first = f"Beyond {BUDGET} ({in_words(budget())}), so sensor and schedule wait for a person:"
    rows = [cut(f"  {address}  [{view.cost[address]}]", COLUMNS) for address in waits[: 2 * NAMED]]
    more = [f"  and {len(waits) - 2 * NAMED} more"] if len(waits) > 2 * NAMED else []
    return [cut(first, COLUMNS), *rows, *more, f"Approve it: {COMMAND}"]


def checked_budget() -> Hours:
    """The budget. Ends the program with one line if it is not right."""
    try:
        return budget()
    except ValueError as error:
        sys.exit(str(error))


def version(graph: Graph, address: str) -> str:
    """Of all that an item is made from, down to the sources."""
    chain = [*graph.upstream(address), address]
    text = json.dumps({other: graph.code_version(other) for other in chain})
    return sha256(text.encode()).hexdigest()[:16]


def read_approved(graph: Graph) -> set[str]:
    """The items that are approved as they would be made now."""
    kept = _kept(graph.root)
    return {
        address
        for address in graph.items
        if address in kept and kept[address] == version(graph, address)
    }


def approve(graph: Graph, addresses: Collection[str]) -> None:
    """Approve these items, beside those that are approved already."""
    kept = {**_kept(graph.root), **{address: version(graph, address) for address in addresses}}
    write_whole(graph.root / APPROVED, json.dumps(kept).encode())


def drop_used(graph: Graph, due: Collection[str]) -> None:
    """Forget the approvals of items that are not due."""
    kept = _kept(graph.root)
    if not kept.keys() <= set(due):
        left = {address: kept[address] for address in kept if address in due}
        write_whole(graph.root / APPROVED, json.dumps(left).encode())


def _kept(root: Path) -> Mapping[str, str]:
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads((root / APPROVED).read_text()))
    return {}


def with_upstream(graph: Graph, named: Sequence[str], due: Sequence[str]) -> list[str]:
    """Of what is due: the named items, and what they are made from. Raises ValueError for a name of
    nothing that is due."""
    wanted = set[str]()
    for name in named:
        address = name.replace("/", "@", 1)
        if address not in due:
            known = ", ".join(due[:NAMED]) or "nothing"
            raise ValueError(
                f"{name}: it is not due, so there is nothing to approve. Due: {known}."
            )
        wanted |= {address, *graph.upstream(address)}
    return [address for address in due if address in wanted]


def main(arguments: Sequence[str]) -> None:
    """Approve all that is due, or of it the named items with what they are made from."""
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
        "starts it if it is on. At once: python -m orchestration.repro"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
