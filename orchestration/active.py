"""The project's state while runs may be active, and what of it can't be judged now.

An active run does not stop the others: what it makes and all that follows from that is left out,
and the rest is reported and made beside it. A run that does not say what it makes leaves out
everything. While no run is active, a DVC process of a user's own makes a tick wait: such a `dvc
repro` fails when it meets a path that another process holds.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from orchestration.graph import Graph, GraphBusy, GraphError
from orchestration.status import State, read_state
from orchestration.translation import asset_key, job_name

ACTIVE = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
LOOKING = Lock()
"""Held while the state is read: two ticks at once would hash the same files twice."""
STILL_LOOKING = "Still looking: the look before this one hashes what has changed."
ALL_BUSY = "A run is active."


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The project at one tick."""

    state: State
    beside: AbstractSet[str]
    """What active runs make, and all that follows from it. Its state can't be judged now."""
    taken: AbstractSet[str]
    """The same, with what those runs read and all that follows from that. A run of it would wait
    for them."""


class NotNow(Exception):
    """The state can't be judged now. The message is for the tick's page."""


def active_runs(instance: DagsterInstance) -> list[DagsterRun]:
    """The runs that have not ended."""
    return list(instance.get_runs(RunsFilter(statuses=ACTIVE)))


def look(instance: DagsterInstance, root: Path, patient: bool = False) -> Look:
    """The project now. patient: wait for another tick that reads it. Raises NotNow."""
    if not LOOKING.acquire(blocking=patient):
        raise NotNow(STILL_LOOKING)
    try:
        runs, busy = active_runs(instance), set[str]()
        state = read_state(root, busy if runs else None)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None
    finally:
        LOOKING.release()

    graph = state.graph
    # again, because a run may have begun while DVC was asked
    for run in [*runs, *active_runs(instance)]:
        busy |= items_of(run, graph)
    beside = graph.downstream(busy)
    if beside and beside >= graph.items.keys():
        raise NotNow(ALL_BUSY)

    read = {upstream for address in busy for upstream in graph.items[address].upstream}
    return Look(state=state, beside=beside, taken=beside | graph.downstream(read))


def items_of(run: DagsterRun, graph: Graph) -> set[str]:
    """The addresses that a run makes; all of them if it does not say."""
    selected = run.asset_selection
    found = {
        address
        for address, item in graph.items.items()
        if (selected and asset_key(item) in selected)
        or (not selected and job_name(item.stage) == run.job_name)
    }
    return found or set(graph.items)


def listed(addresses: Iterable[str]) -> str:
    """Addresses in words."""
    return ", ".join(sorted(addresses))
