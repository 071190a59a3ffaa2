"""The project's state at one tick, without the items whose state active runs hide.

An active run does not stop other runs. A tick leaves out the items that the run makes and
everything downstream of them, and reports the rest. A run that names no items leaves out
everything. The cost: each item appears in the state only after its run has ended.

If no run is active, a DVC process that a user started makes the tick wait. A `dvc repro` of the
user's fails at a path that another process holds.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from orchestration.graph import Graph, GraphBusy, GraphError
from orchestration.status import State, read_state
from orchestration.translation import asset_key, job_name, step_name

ACTIVE = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
# Two ticks at the same time would hash the same files twice.
READING = Lock()
STILL_READING = "Still reading: the tick before this one hashes what has changed."
ALL_BUSY = "A run is active."


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectStatus:
    """The project at one tick. Sets hold addresses."""

    state: State
    beside: AbstractSet[str]
    """What active runs make, and everything downstream of it. Its state is unknown at this tick."""
    taken: AbstractSet[str]
    """`beside`, what those runs read, and everything downstream. A run of it would wait for them.
    """


class NotNow(Exception):
    """The state is unknown at this tick. The tick's page shows the message."""


class Broken(NotNow):
    """The state is unknown until someone corrects the project's files."""


def active_runs(instance: DagsterInstance) -> list[DagsterRun]:
    """The runs that have not ended."""
    return list(instance.get_runs(RunsFilter(statuses=ACTIVE)))


def project_status(instance: DagsterInstance, root: Path, patient: bool = False) -> ProjectStatus:
    """Read the project's state. Raises NotNow, and Broken if it can't be read.

    patient: wait while another tick reads the state; otherwise raise NotNow at once.
    """
    if not READING.acquire(blocking=patient):
        raise NotNow(STILL_READING)
    try:
        runs = active_runs(instance)
        busy = set[str]()
        # Without a run, a busy path belongs to a user's DVC: read_state then raises GraphBusy.
        state = read_state(root, busy if runs else None)
    except GraphError as error:
        raise Broken(str(error)) from None
    except GraphBusy as error:
        raise NotNow(str(error)) from None
    finally:
        READING.release()

    graph = state.graph
    # A run may have started during the read, so the list is asked for again.
    for run in [*runs, *active_runs(instance)]:
        busy |= items_of(run, graph)
    beside = graph.downstream(busy)
    if beside and beside >= graph.items.keys():
        raise NotNow(ALL_BUSY)

    read = {upstream for address in busy for upstream in graph.items[address].upstream}
    return ProjectStatus(state=state, beside=beside, taken=beside | graph.downstream(read))


def items_of(
    run: DagsterRun, graph: Graph, selected: AbstractSet[AssetKey] | None = None
) -> set[str]:
    """The addresses that a run makes; all of them if the run names none.

    selected: the assets of its job, which a running step knows. Otherwise those that the run names.
    """
    selected = selected or run.asset_selection
    found = {
        address
        for address, item in graph.items.items()
        if (selected and asset_key(item) in selected)
        or (not selected and job_name(item.stage) == run.job_name)
    }
    # The job of the whole graph, or a job that the graph no longer has.
    found = found or set(graph.items)

    # A retry from a failure lists the steps to repeat.
    steps = set(run.step_keys_to_execute or ())
    return {each for each in found if not steps or step_name(graph.items[each]) in steps}


def listed(addresses: Iterable[str]) -> str:
    """Addresses as one text, in alphabetical order."""
    return ", ".join(sorted(addresses))
