"""Which run sensor and schedule ask for: one of all that is out of date and may be made now.

Left out is what an active run makes or reads, and what follows from it (active.py), what is beyond
NEEDLEWORK_BUDGET (approve.py), and what a run that was asked for left undone when it failed or was
cancelled. The last is not tried again until the project changes, or that item does. So each change
brings a run, one back to an earlier state too, and a lost output is restored whatever came before.

What a run left undone is noted on it (the tag LEFT) by the first tick after its end. An item is
taken off the note once it is up to date, or out of date for another reason. The cost: what is lost
in the seconds between the end of a run and that tick counts as left undone.

The run key alone can't say this. It names the project's inputs (`Graph.digest`) and the run before,
so that no change is answered twice; but whether a failed item was up to date meanwhile has to be
written down somewhere.
"""

import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, RunsFilter

from orchestration import approve, preview
from orchestration.active import Look, NotNow, items_of, listed
from orchestration.costs import Hours, budget
from orchestration.graph import Graph, GraphBusy, GraphError
from orchestration.home import ask_for_reload
from orchestration.status import State
from orchestration.translation import asset_key

ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
ASKED = {"needlework/asked": "yes"}
"""Tag of the runs that sensor and schedule ask for."""
LEFT = ".dagster/needlework_left"
"""Tag of such a run after a bad end: what it left undone. Dagster does not show tags with a dot."""
WHY, SPENT = "needlework/why", "needlework/spent"
"""Their tags: the preview in short; and what of the budget they and earlier runs for the same inputs
may cost.
"""
RUN_KEY = "dagster/run_key"
RUNS_REMEMBERED = 10
"""Whose failures count. At most four runs are active at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a tick comes to."""

    text: str
    """The preview, and what waits for a person."""
    skip: str = ""
    """Why no run is asked for."""
    request: RunRequest | None = None


def answer(instance: DagsterInstance, loaded: Graph, seen: Look) -> Answer:
    """The run to ask for, or why there is none. loaded: the graph that the code location knows.
    Raises NotNow.
    """
    state, graph, beside = seen.state, seen.state.graph, seen.beside
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
    addresses -= seen.taken

    # An item that the code location does not know can't be asked for.
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
        return _skip("What is out of date waits for an active run.", text, seen.taken)

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
    # Dagster starts no second run with a key it has seen: two daemons ask with the same key, and
    # the same inputs after another run get another one.
    request = RunRequest(
        run_key=f"{last.run_id if last else 'first'}-{state.digest}",
        asset_selection=[asset_key(graph.items[address]) for address in parts.starts],
        tags=tags,
    )
    return Answer(text=text, request=request)


def _skip(words: str, text: str = "", beside: AbstractSet[str] = frozenset()) -> Answer:
    """No run, and why."""
    if beside:
        words = f"{words} Left out while a run makes or reads them: {listed(beside)}."
    return Answer(text=text or words, skip=words)


def spent_before(last: DagsterRun | None, digest: str) -> Hours:
    """What the budget has already paid for the same inputs."""
    if last is None or asked_for(last) != digest or SPENT not in last.tags:
        return Hours()
    return Hours(**json.loads(last.tags[SPENT]))


def asked_for(run: DagsterRun) -> str:
    """The digest of the inputs that a run was asked for."""
    return run.tags.get(RUN_KEY, "").rpartition("-")[2]


def asked_before(instance: DagsterInstance) -> Sequence[DagsterRun]:
    """The last runs that sensor or schedule asked for, and their retries; the newest first."""
    return instance.get_runs(RunsFilter(tags=ASKED), limit=RUNS_REMEMBERED)


def ended_badly(instance: DagsterInstance, graph: Graph) -> Iterator[tuple[DagsterRun, set[str]]]:
    """The runs asked for that ended badly, each with the items that no later one was asked for."""
    runs, later = asked_before(instance), set[str]()
    if all(run.status not in ENDED_BADLY for run in runs):
        return  # of most ticks, which then cost less
    for run in runs:
        items = items_of(run, graph) - later
        later |= items
        if run.status in ENDED_BADLY and items:
            yield run, items


def note_what_is_left(
    instance: DagsterInstance, state: State, beside: AbstractSet[str] = frozenset()
) -> None:
    """Note on each run that ended badly what it left undone. The note only gets shorter later on."""
    for run, items in ended_badly(instance, state.graph):
        if not items.isdisjoint(beside):
            continue  # another run makes some of them now
        noted, left = _noted(run), dict[str, str]()
        if asked_for(run) == state.digest:
            left = {address: _mark(state.stale[address]) for address in items & state.stale.keys()}
        if noted is not None:
            left = dict(left.items() & noted.items())
        if left != noted:
            instance.add_run_tags(run.run_id, {LEFT: json.dumps([run.run_id, left])})


def what_failed(instance: DagsterInstance, state: State) -> dict[str, str]:
    """The items that are as a run for the same inputs left them -> how that run ended."""
    return {
        address: run.status.value
        for run, items in ended_badly(instance, state.graph)
        for address in items & (_noted(run) or {}).keys()
    }


def _noted(run: DagsterRun) -> dict[str, str] | None:
    """What the run is noted to have left undone: address -> mark of the reasons; None without a
    note. A retry starts with the tags of the run that it repeats, so the note has the run's id.
    """
    run_id, left = json.loads(run.tags.get(LEFT, '["", {}]'))
    return dict(left) if run_id == run.run_id else None


def _mark(reasons: Sequence[str]) -> str:
    """Changes with the reasons."""
    return sha256(json.dumps(list(reasons)).encode()).hexdigest()[:8]
