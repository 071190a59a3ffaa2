"""`make preview`: what would run now, why, what follows, and what it costs. Runs nothing.

The ticks of sensor and schedule show the same text. The predicted cost is an upper bound: if an
item comes out unchanged, its consumers are not made, and only making it shows that. DVC's cache can
be asked about items whose inputs are all up to date, but not about consumers of an item that is
still to be made. The price of a preview is one DVC status, and the plan of a training if
params.yaml changed.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
from orchestration.nested import leaves
from orchestration.status import State, read_state

# The width of a terminal beside an editor, and of this project's lines.
COLUMNS = 100
REASONS = 2
"""How many reasons of an item are shown."""
# Two values and a parameter's name fit on a line.
VALUE_LETTERS = 24
HOW = re.compile(r"(.+) (modified|deleted|new|not in cache|update available)")
"""How DVC ends a reason that is about a file."""
# Dagster's list of runs shows a tag on one line.
TAG_LETTERS = 100
# The text is a tick's log and the sensor's cursor, so it stays short.
ITEMS_ON_A_TICK = 12
CACHED = "DVC's cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What is due. Addresses are in the graph's order."""

    why: Mapping[str, Sequence[str]]
    """Items that are themselves out of date -> their reasons, in plain words."""
    follows: Sequence[str]
    """Items downstream of those."""
    restored: frozenset[str]
    """Items that DVC's cache brings back. They cost no time."""
    cost: Mapping[str, Cost]
    """Each item that is due -> its cost."""

    @property
    def due(self) -> list[str]:
        """All items that are due."""
        return [*self.why, *self.follows]

    def hours(self, addresses: Iterable[str]) -> Hours:
        """What these items cost together."""
        return sum((self.cost[address].hours for address in addresses), Hours())


_restored: dict[Path, tuple[State, AbstractSet[str], set[str]]] = {}
"""Project -> the last state, the items left out of it, and those that DVC's cache brings back."""


def outlook(state: State, beside: AbstractSet[str] = frozenset()) -> Outlook:
    """What is due now. beside: items to leave out, because active runs make them.

    Raises GraphBusy and GraphError.
    """
    graph = state.graph
    why = {
        address: plain(item, state.stale[address], state.lock.get(address), graph)
        for address, item in graph.items.items()
        if address in state.stale and address not in beside
    }

    due = graph.downstream(why)
    restored = restored_by_cache(state, beside, due)
    # The plan takes a second or more, and what the cache brings back needs no price.
    prices = read_prices(graph) if due - restored else {}

    cost = dict[str, Cost]()
    for address, item in graph.items.items():
        if address in restored:
            cost[address] = Cost(known_from=CACHED)
        elif address in due:
            cost[address] = cost_of(item, graph.root, prices)
    follows = [address for address in cost if address not in why]
    return Outlook(why=why, follows=follows, restored=frozenset(restored), cost=cost)


def restored_by_cache(state: State, beside: AbstractSet[str], due: AbstractSet[str]) -> set[str]:
    """The items whose inputs are up to date and that DVC's cache brings back."""
    graph = state.graph
    # DVC takes a second to answer. A state is the same object only while neither the project nor
    # the cache has changed (status.py), so the last answer is still true.
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
    """What making an item costs."""
    return costs.cost_of(root, item.address, item.pool, prices)


def cost_known(item: Item, graph: Graph, prices: Mapping[str, Price]) -> str:
    """What making an item costs, in words. "" if it is not known."""
    cost = cost_of(item, graph.root, prices)
    return str(cost) if cost.known_from else ""


def read_prices(graph: Graph, ask: bool = True) -> dict[str, Price]:
    """Address -> its price by `make plan`. ask: run the plan if no price is kept; see costs.py."""
    scarce = [item for item in graph.items.values() if item.pool == costs.GPU]
    if not scarce:
        return {}

    # Only the sources: costs.py adds params.yaml and the code of the plan.
    depends = set[str]()
    for item in scarce:
        depends |= {
            f"{path} {value}" for path, value in item.inputs.items() if not path.endswith(".py")
        }
    return costs.read_prices(graph.root, depends, ask)


def plain(item: Item, reasons: Sequence[str], locked: Locked | None, graph: Graph) -> list[str]:
    """DVC's reasons in plain words, without repetitions."""
    if locked is None:
        return ["never made"]
    return list(dict.fromkeys(_plain(item, reason, locked, graph) for reason in reasons))


def _plain(item: Item, reason: str, locked: Locked, graph: Graph) -> str:
    """One of DVC's reasons, such as "changed deps: params.yaml: training.seed modified"."""
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
    """How a parameter differs: ".cut 1 -> 7", or the number of values that differ."""
    before = dict(leaves((locked.params.get(file) or {}).get(key)))
    now = dict(leaves(item.params[file].get(key)))
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not differ:
        return " changed"
    if len(differ) > 1:
        return f" changed in {len(differ)} values"

    name = differ[0]
    # It follows the parameter's own key. Without a name it is the parameter itself.
    shown = f".{name}" if name else ""
    if name not in before:
        return f"{shown} new"
    if name not in now:
        return f"{shown} gone"
    return f"{shown} {_short(before[name])} -> {_short(now[name])}"


def _short(value: Any) -> str:
    return cut(json.dumps(value, default=str, ensure_ascii=False), VALUE_LETTERS)


def lines(view: Outlook, most: int | None = None) -> list[str]:
    """The preview, COLUMNS wide. most: how many items to show; None for all."""
    if not view.due:
        return ["Everything is up to date."]

    shown = list(view.why)[:most]
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
    """One item: its address, its reasons and, at the end of the line, its cost."""
    cost = view.cost[address]
    price = f"  [{CACHED if address in view.restored else cost}]"
    room = COLUMNS - len(price)
    return cut(f"  {address:<{width}}  {reasons(view.why[address])}", room) + price


def reasons(why: Sequence[str]) -> str:
    """The first REASONS of an item's reasons, and how many more there are."""
    more = f" and {len(why) - REASONS} more" if len(why) > REASONS else ""
    return ", ".join(why[:REASONS]) + more


def total(view: Outlook, addresses: Sequence[str]) -> str:
    """What these items cost together, and how many of them have no known cost."""
    unknown = [address for address in addresses if not view.cost[address].known_from]
    known = view.hours(set(addresses) - set(unknown))
    words = in_words(known)
    return f"{words}, and {len(unknown)} of unknown cost" if unknown else words


def listed(word: str, addresses: Sequence[str], most: int | None) -> list[str]:
    """Addresses in lines of COLUMNS."""
    shown = list(addresses)[:most]
    if len(addresses) > len(shown):
        shown.append(f"and {len(addresses) - len(shown)} more")

    # An address stays in one piece, so that it can be copied.
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
    # The cost at the end is more important than the reasons, so only the start is cut.
    end = f"; {len(addresses)} items, {total(view, addresses)}"
    start = cut(f"{why[0]}: {reasons(view.why[why[0]])}{more}", max(TAG_LETTERS - len(end), 20))
    return cut(start + end, TAG_LETTERS)


def cut(text: str, letters: int) -> str:
    """The text, or as much of its beginning as fits, and three dots."""
    return text if len(text) <= letters else f"{text[: max(letters - 3, 0)]}..."


def read(root: Path) -> tuple[State, Outlook]:
    """The state of a project and what is due. Exits with one line if that can't be read."""
    try:
        state = read_state(root)
        return state, outlook(state)
    except (GraphError, GraphBusy) as error:
        sys.exit(str(error))


def main() -> None:
    """Print the preview, what waits for approval, and the findings of `make check`."""
    # Imported here: approve.py imports this module.
    from orchestration.approve import waiting_lines

    state, view = read(Path.cwd())
    print("\n".join([*lines(view), *waiting_lines(state.graph, view)]))
    for text in state.findings:
        print(f"make check finds: {text}")


if __name__ == "__main__":
    main()
