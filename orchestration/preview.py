"""`make preview`: what would run now, why, what follows, and what it costs. Runs nothing.

The same text is on the ticks of sensor and schedule. The cost is an upper bound: if an item comes
out as before, nothing that follows it is made, and that is known only once it is made. What DVC's
cache brings back is known for items whose inputs are all up to date, and not for what reads an item
that is still to be made. The cost is one look at DVC's status, and the plan of a training where
params.yaml changed.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from orchestration import costs
from orchestration.costs import Cost, Hours, Price, in_words
from orchestration.graph import (
    CODE_REASON,
    PARAMS_FILE,
    Graph,
    GraphBusy,
    GraphError,
    Item,
    Locked,
    restorable,
)
from orchestration.status import State, read_state

COLUMNS = 100
REASONS = 2
"""How many of an item's reasons are shown."""
VALUE_LETTERS = 24
HOW = re.compile(r"(.+) (modified|deleted|new|not in cache|update available)")
"""How DVC ends a reason that is about a file."""
TAG_LETTERS = 100
ITEMS_ON_A_TICK = 12
CACHED = "DVC's cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What is due. Addresses are in the graph's order."""

    why: Mapping[str, Sequence[str]]
    """Of each item that is itself out of date: its reasons, in plain words."""
    follows: Sequence[str]
    """Items that read one of those, however far."""
    restored: frozenset[str]
    """Items that DVC's cache brings back: they cost nothing."""
    cost: Mapping[str, Cost]
    """Of each item that is due."""

    @property
    def due(self) -> list[str]:
        """All of it."""
        return [*self.why, *self.follows]

    def hours(self, addresses: Iterable[str]) -> Hours:
        """What these items cost together."""
        return sum((self.cost[address].hours for address in addresses), Hours())


_restored: dict[Path, tuple[State, AbstractSet[str], set[str]]] = {}
"""By project: the last state, what was left out of it, and what DVC's cache brings back."""


def outlook(state: State, beside: AbstractSet[str] = frozenset()) -> Outlook:
    """What is due now. beside: items that can't be judged now, which are left out. Raises GraphBusy
    and GraphError.
    """
    graph = state.graph
    stale = {address: state.stale[address] for address in graph.items if address in state.stale}
    why = {
        address: plain(graph.items[address], reasons, state.lock.get(address), graph)
        for address, reasons in stale.items()
        if address not in beside
    }
    due = graph.downstream(why)
    restored = restored_by_cache(state, beside, due)
    prices = read_prices(graph) if due - restored else {}
    cost = {
        address: Cost(known_from=CACHED)
        if address in restored
        else cost_of(item, graph.root, prices)
        for address, item in graph.items.items()
        if address in due
    }
    follows = [address for address in cost if address not in why]
    return Outlook(why=why, follows=follows, restored=frozenset(restored), cost=cost)


def restored_by_cache(state: State, beside: AbstractSet[str], due: AbstractSet[str]) -> set[str]:
    """The items whose inputs are up to date and that DVC's cache brings back.

    Remembered for one state: to ask DVC takes a second, and a state is the same object only while
    neither the project nor the cache has changed (status.py).
    """
    graph = state.graph
    last = _restored.get(graph.root)
    if last and last[0] is state and last[1] == beside:
        return last[2]

    standing = {
        address
        for address in state.stale.keys() - beside
        if graph.items[address].upstream.isdisjoint(due)
    }
    found = restorable(graph.root, standing) if standing else set[str]()
    _restored[graph.root] = (state, beside, found)
    return found


def cost_of(item: Item, root: Path, prices: Mapping[str, Price]) -> Cost:
    """What making it costs."""
    return costs.cost_of(root, item.address, item.pool, prices)


def cost_known(item: Item, graph: Graph, prices: Mapping[str, Price]) -> str:
    """The same in words; "" where nothing is known."""
    cost = cost_of(item, graph.root, prices)
    return str(cost) if cost.known_from else ""


def read_prices(graph: Graph, ask: bool = True) -> dict[str, Price]:
    """The prices of `make plan` by address; see costs.read_prices."""
    scarce = [item for item in graph.items.values() if item.pool == costs.GPU]
    if not scarce:
        return {}
    depends = {
        f"{path} {value}"
        for item in scarce
        for path, value in item.inputs.items()
        if not path.endswith(".py")
    }
    return costs.read_prices(graph.root, depends, ask)


def plain(item: Item, reasons: Sequence[str], locked: Locked | None, graph: Graph) -> list[str]:
    """DVC's reasons in plain words, each of them once."""
    if locked is None:
        return ["never made"]
    return list(dict.fromkeys(_plain(item, reason, locked, graph) for reason in reasons))


def _plain(item: Item, reason: str, locked: Locked, graph: Graph) -> str:
    if code := CODE_REASON.fullmatch(reason):
        return f"code {code['path']} changed"
    kind, _, rest = reason.partition(": ")
    file, _, of_file = rest.partition(": ")
    if kind == "changed deps" and of_file and file in item.params:
        key, _, how = of_file.rpartition(" ")
        change = _values(item, locked, file, key) if how == "modified" else f" is {how}"
        where = "" if file == PARAMS_FILE else f" of {file}"
        return f"parameter {key}{where}{change}"
    found = HOW.fullmatch(rest)
    path, how = found.groups() if found else (rest, "differs")
    how = {"modified": "changed", "deleted": "is gone"}.get(how, f"is {how}")
    if kind == "changed outs":
        return f"its output {path} {how}"
    if kind == "changed deps":
        return f"{'input' if graph.made(path) else 'source'} {path} {how}"
    return "its command changed" if reason == "changed command" else reason


def _values(item: Item, locked: Locked, file: str, key: str) -> str:
    """What of a parameter differs: ".cut 1 -> 7"; if several values do, how many."""
    before = dict(_flat((locked.params.get(file) or {}).get(key)))
    now = dict(_flat(item.params[file].get(key)))
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if len(differ) != 1:
        return f" changed in {len(differ)} values" if differ else " changed"
    old, new = (_short(side[differ[0]]) if differ[0] in side else "" for side in (before, now))
    return (
        f"{differ[0]} {old} -> {new}" if old and new else f"{differ[0]} {'new' if new else 'gone'}"
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested maps, with its path: ".recipes.cut"."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}")


def _short(value: Any) -> str:
    return cut(json.dumps(value, default=str, ensure_ascii=False), VALUE_LETTERS)


def lines(view: Outlook, most: int | None = None) -> list[str]:
    """The preview, COLUMNS wide. most: how many items to show."""
    if not view.due:
        return ["Everything is up to date."]
    shown = [address for address in view.why][:most]
    width = max(len(address) for address in shown)
    text = [f"{len(view.why)} out of date, {len(view.follows)} more read them"]
    text += [_line(view, address, min(width, COLUMNS // 2)) for address in shown]
    if left_out := len(view.why) - len(shown):
        text.append(f"  and {left_out} more")
    text += listed("then", view.follows, most)
    text.append(f"at most: {total(view, view.due)}")
    if view.restored:
        text.append(f"{len(view.restored)} of them come back from {CACHED}, without running")
    if view.follows:
        text.append(f"what {CACHED} holds of those that follow is known when their inputs are made")
    return [cut(line, COLUMNS) for line in text]


def _line(view: Outlook, address: str, width: int) -> str:
    """One item: its reasons, and its cost at the right."""
    cost = view.cost[address]
    price = f"  [{CACHED if address in view.restored else cost}]"
    room = COLUMNS - len(price)
    return cut(f"  {address:<{width}}  {reasons(view.why[address])}", room) + price


def reasons(why: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(why) - REASONS} more" if len(why) > REASONS else ""
    return ", ".join(why[:REASONS]) + more


def total(view: Outlook, addresses: Sequence[str]) -> str:
    """What they cost together, and of how many that isn't known."""
    unknown = [address for address in addresses if not view.cost[address].known_from]
    known = view.hours(set(addresses) - set(unknown))
    words = in_words(known)
    return f"{words}, and {len(unknown)} of unknown cost" if unknown else words


def listed(word: str, addresses: Sequence[str], most: int | None) -> list[str]:
    """Addresses in lines of COLUMNS."""
    shown = list(addresses)[:most]
    if len(addresses) > len(shown):
        shown.append(f"and {len(addresses) - len(shown)} more")
    return wrap(
        " ".join(shown),
        COLUMNS,
        initial_indent=f"{word}: ",
        subsequent_indent=" " * len(f"{word}: "),
        break_long_words=False,
        break_on_hyphens=False,
    )


def tag(view: Outlook, addresses: Sequence[str]) -> str:
    """The preview of a run of these items, short enough for a tag."""
    why = [address for address in addresses if address in view.why]
    more = f" (+{len(why) - 1})" if len(why) > 1 else ""
    end = f"; {len(addresses)} items, {total(view, addresses)}"
    start = cut(f"{why[0]}: {reasons(view.why[why[0]])}{more}", max(TAG_LETTERS - len(end), 20))
    return cut(start + end, TAG_LETTERS)


def cut(text: str, letters: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= letters else f"{text[: max(letters - 3, 0)]}..."


def read(root: Path) -> tuple[State, Outlook]:
    """The state of a project and what is due. Exits with one line if that can't be read."""
    try:
        state = read_state(root)
        return state, outlook(state)
    except (GraphError, GraphBusy) as error:
        sys.exit(str(error))


def main() -> None:
    """Print it."""
    from orchestration.approve import waiting_lines

    state, view = read(Path.cwd())
    print("\n".join([*lines(view), *waiting_lines(state.graph, view)]))
    for text in state.findings:
        print(f"make check finds: {text}")


if __name__ == "__main__":
    main()
