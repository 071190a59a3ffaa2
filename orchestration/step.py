"""Every item is an asset with its own step.

A step checks whether its item is out of date, has DVC make it, and reports the result to Dagster:
the version, the metadata and the results of the stage's checks. Dagster does the rest: order,
pools, retries, and skipping what depends on a failed step or check. The cost is 0.1 to 0.4 s of
Dagster for each step.

DVC's status is read once for each run. An item is made only if it was out of date then, or if one
of its inputs changed in this run. So consumers of an unchanged output cost nothing. With another
executor, steps are separate processes, and each reads the status itself.
"""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
    multi_asset,
)

from core.environment import STALL_MINUTES, number_of
from orchestration import findings, preview
from orchestration.active import items_of
from orchestration.alerts import Watch, alert_of_checks
from orchestration.checks import (
    check_specs,
    in_order,
    read_checks,
    reasons_not_made,
    results,
    verdicts_of,
    what_blocks,
)
from orchestration.cluster import op_tags
from orchestration.costs import Price
from orchestration.executor import interrupted, note_location, step_log
from orchestration.graph import (
    Graph,
    GraphBusy,
    GraphError,
    Item,
    Locked,
    order_lock,
    read_lock,
    read_status,
)
from orchestration.launcher import note_worker
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.pictures import beside_the_logs
from orchestration.pools import set_places
from orchestration.progress import Pace, observation, progress_of
from orchestration.running import (
    SECONDS_BETWEEN_TRIES,
    Children,
    ItemFailed,
    Outcome,
    Stopped,
    make_item,
)
from orchestration.translation import asset_key, asset_spec, step_name

# Enough for the end of a Python traceback; Dagster shows the whole message on the run's page.
TAIL_LINES = 20
DVC_WORDS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Running stage '",
    "Stage '",
    "> ",
    "Updating lock file",
    "Generating lock file",
)
"""Beginnings of the lines that DVC prints around every item for people at a terminal."""
MADE_ELSEWHERE = "another process makes it, or one of its inputs"
DVC_FAILED = "ERROR: failed to reproduce"
BAR = re.compile(
    r"\d+%\|.*\||\d+(?:\.\d+)?\w*/\S+ \[\d+:\d\d|\[\d+:\d\d, |[\u2580-\u259f\u2501\u2578]{3}"
)
"""A progress bar of a library: tqdm's, with a total and without one, or one drawn of blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AtStart:
    """The project when the run began, or when the step's own process began."""

    stale: Mapping[str, Sequence[str]]
    """Items that are out of date -> DVC's reasons."""
    left_stale: AbstractSet[str]
    """Items outside this run that are out of date, and all downstream of them."""
    findings: Mapping[str, Sequence[str]]
    """Address -> the findings of `make check` about its settings."""
    wanted: AbstractSet[str]
    """The addresses that the run makes."""
    revision: str
    prices: Mapping[str, Price]
    """Address -> its price by `make plan`."""


class Work:
    """The state that the steps of one run share in one process."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.children = graph, Children(graph.root)
        self.changed = set[str]()
        """Items whose outputs changed in this run."""
        self._lock = Lock()
        self._at_start: AtStart | None = None

    def at_start(self, context: AssetExecutionContext) -> AtStart:
        """The project when the run began, read by its first step. Raises Failure."""
        # The other steps wait for the first instead of asking DVC too.
        with self._lock:
            if self._at_start is None:
                try:
                    self._at_start = self._read(context)
                # A retry would read the same broken file.
                except (GraphError, ValueError) as error:
                    raise Failure(str(error), allow_retries=False) from None
            return self._at_start

    def _read(self, context: AssetExecutionContext) -> AtStart:
        graph = self.graph
        selected = set(context.job_def.asset_layer.executable_asset_keys)
        wanted = items_of(context.run, graph, selected)
        stale = status_once_free(graph.root, lambda text: announce(context, text))
        found = findings.read_findings(graph)
        for text in found:
            announce(context, f"make check finds: {text}")

        return AtStart(
            stale=stale,
            left_stale=graph.downstream(stale) - wanted,
            findings=findings.by_item(graph, found),
            wanted=wanted,
            revision=revision(graph.root),
            # The plan takes a second or more, and a run that makes nothing needs no prices.
            prices=preview.read_prices(graph, ask=not wanted.isdisjoint(stale)),
        )

    def to_do(self, item: Item, stale: Mapping[str, Sequence[str]]) -> bool:
        """Whether DVC must make the item."""
        return item.address in stale or not item.upstream.isdisjoint(self.changed)

    def close(self) -> None:
        """Stop the commands that still run, and bring dvc.lock into the graph's order."""
        self.children.stop()
        # Steps end in any order, and dvc.lock must not depend on it.
        if self.changed:
            order_lock(self.graph)


class Bridge:
    """The project's items as Dagster's assets."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.prices = graph, preview.read_prices(graph, ask=False)
        self._works = dict[str, Work]()

    @contextmanager
    def scope(self, instance: DagsterInstance, run_id: str) -> Iterator[Callable[[], None]]:
        """The frame of a run whose steps are threads of this process. Yields a function that stops
        them. Raises ValueError.
        """
        # A wrong setting must end the run before its first step.
        work = Work(self.graph)
        number_of(STALL_MINUTES)
        set_places(instance, self.graph)
        # The launcher checks by this process id whether the run is alive.
        note_worker(instance, run_id, os.getpid())
        note_location(instance, run_id)

        self._works[run_id] = work
        try:
            yield work.children.stop
        finally:
            del self._works[run_id]
            work.close()

    @contextmanager
    def _work(self, instance: DagsterInstance, run_id: str) -> Iterator[Work]:
        """The run's work, or a new one if this process makes one step only. Raises ValueError."""
        shared = self._works.get(run_id)
        if shared is None:
            # No code of ours runs before the first step, so it may start before the pools are set.
            set_places(instance, self.graph)

        work = shared or Work(self.graph)
        try:
            yield work
        finally:
            if shared is None:
                work.close()

    def assets(self) -> list[AssetsDefinition]:
        """An asset for each item. Raises GraphError."""
        tags = op_tags(self.graph)
        return [self._asset(item, tags.get(item.pool, {})) for item in self.graph.items.values()]

    def _asset(self, item: Item, tags: Mapping[str, Any]) -> AssetsDefinition:
        @multi_asset(
            name=step_name(item),
            specs=[asset_spec(self.graph, item, preview.cost_known(item, self.graph, self.prices))],
            check_specs=check_specs(item),
            pool=item.pool or None,
            op_tags=tags,
            retry_policy=RetryPolicy(max_retries=item.retries) if item.retries else None,
            can_subset=True,  # a check may then have no result
        )
        def step(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
            with self._work(context.instance, context.run.run_id) as work:
                yield from make(context, work, item)

        return step


def make(
    context: AssetExecutionContext, work: Work, item: Item
) -> Iterator[MaterializeResult[None]]:
    """Make one item if it is out of date, and report it. Raises Failure."""
    graph, address, start = work.graph, item.address, time.monotonic()
    at_start = work.at_start(context)
    before = read_lock(graph.root)
    refuse_bad_inputs(graph, item, at_start)

    outcome = Outcome.UNCHANGED
    if work.to_do(item, at_start.stale):
        if found := at_start.findings.get(address):
            raise Failure("\n".join(found), allow_retries=False)
        outcome = made(context, work, item)

    lock = read_lock(graph.root)
    locked = lock.get(address)
    # Compare outputs, not the outcome: an item that ran may produce the same bytes as before.
    if outputs(locked) != outputs(before.get(address)):
        work.changed.add(address)

    # Before the materialisation is stored: a metric must not be compared with itself.
    verdicts = verdicts_of(context.instance, graph.root, item)
    verdicts.append(in_order(at_start.findings.get(address, ()), findings.ADVICE))
    shown = describe(
        graph,
        address,
        lock,
        outcome=outcome.value,
        seconds=None if outcome is Outcome.UNCHANGED else time.monotonic() - start,
        left_stale=at_start.left_stale,
        revision=at_start.revision,
        show=beside_the_logs(context.instance, context.run.run_id),
        cost=preview.cost_known(item, graph, at_start.prices),
    )
    if unmade := reasons_not_made(verdicts):
        shown["checks not made"] = MetadataValue.text(unmade)

    version = graph.data_version(address, locked) if locked else ""
    alert_of_checks(context.instance, item, verdicts, version)
    yield MaterializeResult(
        asset_key=asset_key(item),
        metadata=shown,
        check_results=results(item, verdicts, version),
        data_version=DataVersion(version) if version else None,
    )
    # Dagster itself stops at a blocking check, but its message gives only the check's name.
    if broken := what_blocks(verdicts):
        raise Failure(broken, allow_retries=False)


def made(context: AssetExecutionContext, work: Work, item: Item) -> Outcome:
    """Have DVC make the item. Raises Failure.

    All lines go to the step's log. The item's own lines go to the run's log too, and progress
    becomes observations.
    """
    pace, tail, log = Pace(), deque[str](maxlen=TAIL_LINES), step_log()
    watch = Watch(item)

    def show(line: str) -> None:
        print(line, file=log, flush=True)
        step = progress_of(line)
        if step is not None:
            watch.note(step)
            if pace.due(item.address, step, time.monotonic()):
                step = replace(step, what=without_name(item, step.what))
                context.log_event(observation(asset_key(item), step))
        elif is_own_line(line):
            # The tail keeps the names: a failure is read outside its step too.
            tail.append(line)
            context.log.info(without_name(item, line))

    try:
        with watch:
            return make_item(work.children, item.address, show)
    except Stopped:
        raise interrupted() from None
    except ItemFailed as error:
        raise Failure(cause(item.address, list(tail), error), allow_retries=False) from None


def is_own_line(line: str) -> bool:
    """Whether the item printed this line: it is no progress bar and no line of DVC's."""
    if not line.strip() or line.lstrip().startswith(DVC_WORDS):
        return False
    return BAR.search(line) is None


def without_name(item: Item, line: str) -> str:
    """A line without the prefix that its step shows anyway: `checkpoint@base: base: `."""
    stage, name = re.escape(item.stage), re.escape(item.name or item.stage)
    names = rf"(?:{re.escape(item.address)}|{stage} {name}|{stage}|{name}): +"
    return re.sub(rf"^(?:{names})+(?=\S)", "", line)


def cause(address: str, tail: Sequence[str], error: Exception) -> str:
    """The message of a failed item: the reason first, then the last lines."""
    # A stage prints its error last, and DVC adds one line after it.
    own = [line for line in tail if not line.startswith(DVC_FAILED)]
    first = own[-1].strip() if own else str(error)
    last_lines = "\n".join(tail)
    return f"{first}\n\n{address} failed ({error}). Its last lines:\n{last_lines}"


def refuse_bad_inputs(graph: Graph, item: Item, at_start: AtStart) -> None:
    """Raise Failure if an input that is not made in this run failed a blocking check."""
    # Within a run, Dagster itself holds back the consumers of a failed check.
    for address in sorted(item.upstream - at_start.wanted):
        verdicts = read_checks(graph.root, graph.items[address])
        verdicts.append(in_order(at_start.findings.get(address, ()), findings.ADVICE))
        if broken := what_blocks(verdicts):
            raise Failure(f"It reads {address}. {broken}", allow_retries=False)


def outputs(locked: Locked | None) -> Mapping[str, str] | None:
    """Path -> hash, of each output. None if dvc.lock does not name the item."""
    return locked.outputs if locked else None


def announce(context: AssetExecutionContext, text: str) -> None:
    """Write a line about the whole run into its log and to the terminal."""
    context.log.info(text)
    print(text, flush=True)


def status_once_free(root: Path, say: Callable[[str], Any]) -> dict[str, list[str]]:
    """What is out of date, once no other DVC process locks the repository. Raises GraphError.

    An item that another process makes counts as out of date, and so do its consumers. Their steps
    wait for that process and then read DVC's status again.
    """
    waits = False
    while True:
        try:
            busy = set[str]()
            stale = read_status(root, busy)
            return stale | {address: [MADE_ELSEWHERE] for address in sorted(busy)}
        except GraphBusy as error:
            # Once, not at each try.
            if not waits:
                say(f"{error} Waiting for it to end.")

            waits = True
            time.sleep(SECONDS_BETWEEN_TRIES)
