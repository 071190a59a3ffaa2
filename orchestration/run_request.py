"""Decide which run the sensor and the schedule request: one run of all items that are out of date
and may be made now.

These items are left out: those that an active run makes or reads, and all downstream of them
(active.py); those beyond NEEDLEWORK_BUDGET (approve.py); and those that an earlier requested run
left undone when it failed or was cancelled. The last are not tried again until the project or the
item changes. So each change leads to a run, even one back to an earlier state, and a lost output is
always restored.

The first tick after the end of a run notes on it what it left undone (the tag LEFT). An item leaves
the note once it is up to date, or out of date for another reason. The cost: an output that is lost
in the seconds between the end of a run and that tick counts as left undone.

The run key alone can't do this. It names the project's inputs (`Graph.digest`) and the run before,
so that no change is answered twice. But it does not record whether a failed item was up to date
meanwhile.
"""

import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, RunsFilter

from orchestration import approve, preview
from orchestration.active import NotNow, ProjectStatus, items_of, listed
from orchestration.costs import Hours, budget
from orchestration.graph import Graph, GraphBusy, GraphError
from orchestration.home import ask_for_reload
from orchestration.status import State
from orchestration.translation import asset_key

ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
ASKED = {"needlework/asked": "yes"}
"""Tag of the runs that sensor and schedule request."""
LEFT = ".dagster/needlework_left"
"""Tag of such a run that failed or was cancelled: what it left undone. Dagster hides tags that
begin with `.dagster/`.
"""
WHY, SPENT = "needlework/why", "needlework/spent"
"""Tags of such a run: the preview in short, and the part of the budget that it and earlier runs for
the same inputs may use.
"""
RUN_KEY = "dagster/run_key"
RUNS_REMEMBERED = 10
"""The number of runs whose failures count. At most four runs are active at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The result of a tick."""

    text: str
    """The preview, and what waits for a person."""
    skip: str = ""
    """Why no run is requested."""
    request: RunRequest | None = None


def answer(instance: DagsterInstance, loaded: Graph, now: ProjectStatus) -> Answer:
    """The run to request, or why there is none. loaded: the graph that the code location knows.

    Raises NotNow.
    """
    state, graph, beside = now.state, now.state.graph, now.beside
    note_what_is_left(instance, state, beside)
    addresses = graph.downstream(state.stale.keys() - beside)
    approve.drop_used(graph, addresses | beside)
    if not addresses:
        return _skip("Everything is up to date.", beside=beside)

    try:
        view = preview.outlook(state, beside)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None
    text = "\n".join(preview.lines(view, preview.ITEMS_ON_A_TICK))
    addresses -= now.taken

    # An item that the code location does not know can't be in a run.
    if unknown := graph.items.keys() ^ loaded.items.keys():
        reloads, words = ask_for_reload()
        words = f"dvc.yaml or params.yaml now name other items. {words}"
        addresses -= graph.downstream(unknown & graph.items.keys())
        if reloads or not addresses:
            return _skip(words, text)

    held = what_failed(instance, state)
    addresses -= graph.downstream(held)
    if not addresses and held:
        words = f"The run for this change ended as {', '.join(sorted(set(held.values())))}."
        return _skip(f"{words} Change something, or start a run by hand.", text)
    if not addresses:
        return _skip("What is out of date waits for an active run.", text, now.taken)

    last = next(iter(asked_before(instance)), None)
    before = spent_before(last, state.digest)
    parts = approve.split(graph, view, addresses, budget() - before)
    if waits := approve.waiting(view, parts.waits):
        text = f"{text}\n{waits}"
    if not parts.starts:
        return _skip(text, text, beside)

    spent = before + parts.spent
    tags = {
        **ASKED,
        WHY: preview.tag(view, parts.starts),
        SPENT: json.dumps({"gpu": spent.gpu, "cpu": spent.cpu}),
    }
    # Dagster starts no second run with the same key. Two daemons use the same key; the same inputs
    # after another run get a new one.
    request = RunRequest(
        run_key=f"{last.run_id if last else 'first'}-{state.digest}",
        asset_selection=[asset_key(graph.items[address]) for address in parts.starts],
        tags=tags,
    )
    return Answer(text=text, request=request)


def _skip(words: str, text: str = "", beside: AbstractSet[str] = frozenset()) -> Answer:
    """The result of a tick that requests no run."""
    if beside:
        words = f"{words} Left out while a run makes or reads them: {listed(beside)}."
    return Answer(text=text or words, skip=words)


def spent_before(last: DagsterRun | None, digest: str) -> Hours:
    """The part of the budget that earlier runs for the same inputs have used."""
    if last is None or asked_for(last) != digest or SPENT not in last.tags:
        return Hours()
    return Hours(**json.loads(last.tags[SPENT]))


def asked_for(run: DagsterRun) -> str:
    """The digest of the inputs for which a run was requested."""
    return run.tags.get(RUN_KEY, "").rpartition("-")[2]


def asked_before(instance: DagsterInstance) -> Sequence[DagsterRun]:
    """The last runs that sensor or schedule requested, and their retries. The newest come first."""
    return instance.get_runs(RunsFilter(tags=ASKED), limit=RUNS_REMEMBERED)


def ended_badly(instance: DagsterInstance, graph: Graph) -> Iterator[tuple[DagsterRun, set[str]]]:
    """The requested runs that ended badly, each with the items that no later one was to make."""
    runs, later = asked_before(instance), set[str]()
    # True at most ticks, and `items_of` is not free.
    if all(run.status not in ENDED_BADLY for run in runs):
        return

    for run in runs:
        items = items_of(run, graph) - later
        later |= items
        if run.status in ENDED_BADLY and items:
            yield run, items


def note_what_is_left(
    instance: DagsterInstance, state: State, beside: AbstractSet[str] = frozenset()
) -> None:
    """Note on each run that ended badly what it left undone. Later ticks only shorten the note."""
    for run, items in ended_badly(instance, state.graph):
        # Another run makes some of them now, so their state is not known.
        if not items.isdisjoint(beside):
            continue

        noted, left = _noted(run), dict[str, str]()
        if asked_for(run) == state.digest:
            left = {address: _mark(state.stale[address]) for address in items & state.stale.keys()}
        # An item that was up to date meanwhile is no longer in the note, and is not added again.
        if noted is not None:
            left = dict(left.items() & noted.items())
        if left != noted:
            instance.add_run_tags(run.run_id, {LEFT: json.dumps([run.run_id, left])})


def what_failed(instance: DagsterInstance, state: State) -> dict[str, str]:
    """Items that a run for the same inputs left undone, unchanged since -> how that run ended."""
    return {
        address: run.status.value
        for run, items in ended_badly(instance, state.graph)
        for address in items & (_noted(run) or {}).keys()
    }


def _noted(run: DagsterRun) -> dict[str, str] | None:
    """The note of a run: item left undone -> mark of its reasons. None without a note."""
    run_id, left = json.loads(run.tags.get(LEFT, '["", {}]'))
    # A retry starts with the tags of the run that it repeats, so the note has the run's id.
    return dict(left) if run_id == run.run_id else None


def _mark(reasons: Sequence[str]) -> str:
    """A short text that changes with the reasons. A tag cannot hold all of them."""
    return sha256(json.dumps(list(reasons)).encode()).hexdigest()[:8]
