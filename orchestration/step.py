"""Each item as an asset of its own, made by a step of its own.

What a step does: look whether its item is out of date, have DVC make it, hold the result against
its checks, and tell Dagster what came out. Dagster does the rest: order, pools, retries, what waits
for a failed step or check. The cost is 0.1 to 0.4 s of Dagster for each step.

DVC is asked once per run what is out of date, and an item is started only if it was named then, or
if something that it reads came out different in this run. So an early cut-off further up costs
nothing. Steps in processes of their own (another executor) ask for themselves.
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
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
    multi_asset,
    multi_asset_check,
)

from core.environment import STALL_MINUTES, number_of
from orchestration import findings, preview
from orchestration.alerts import Watch, alert_of_checks
from orchestration.checks import ACROSS, COSTLY, Verdict, look
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
from orchestration.verdicts import (
    across_specs,
    check_specs,
    last_values,
    reasons_not_made,
    recall,
    results,
)

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
"""What DVC says around every item, for people at a terminal."""
AT_WORK = "another process makes it, or what it reads"
DVC_FAILED = "ERROR: failed to reproduce"
BAR = re.compile(
    r"\d+%\|.*\||\d+(?:\.\d+)?\w*/\S+ \[\d+:\d\d|\[\d+:\d\d, |[\u2580-\u259f\u2501\u2578]{3}"
)
"""A progress bar of a library: tqdm's, with a total and without one, or one drawn of blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstLook:
    """The project when the run began, or the process of the step."""

    stale: Mapping[str, Sequence[str]]
    """Address -> why it is out of date."""
    left_stale: AbstractSet[str]
    """Items that are out of date, or read such a one, and are not in this run."""
    findings: Mapping[str, Sequence[str]]
    """Address -> what `make check` finds about its settings."""
    wanted: AbstractSet[str]
    """The addresses that the run makes."""
    revision: str
    prices: Mapping[str, Price]
    """Address -> what `make plan` says of it."""


class Work:
    """What the steps of one run share in one process."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.children = graph, Children(graph.root)
        self.changed = set[str]()
        """Items that came out different in this run."""
        self._lock = Lock()
        self._look: FirstLook | None = None

    def first_look(self, context: AssetExecutionContext) -> FirstLook:
        """The same for all steps. Raises Failure."""
        with self._lock:
            if self._look is None:
                try:
                    self._look = self._now(context)
                except (GraphError, ValueError) as error:
                    raise Failure(str(error), allow_retries=False) from None
            return self._look

    def _now(self, context: AssetExecutionContext) -> FirstLook:
        graph, wanted = self.graph, wanted_by(context, self.graph)
        stale = status_once_free(graph.root, lambda text: tell(context, text))
        found = findings.read_findings(graph)
        for text in found:
            tell(context, f"make check finds: {text}")
        return FirstLook(
            stale=stale,
            left_stale=graph.downstream(stale) - wanted,
            findings=findings.by_item(graph, found),
            wanted=wanted,
            revision=revision(graph.root),
            prices=preview.read_prices(graph, ask=not wanted.isdisjoint(stale)),
        )

    def to_do(self, item: Item, stale: Mapping[str, Sequence[str]]) -> bool:
        """Whether DVC must be asked to make it."""
        return item.address in stale or not item.upstream.isdisjoint(self.changed)

    def close(self) -> None:
        """Stop what is still at work, and bring dvc.lock into the graph's order."""
        self.children.stop()
        if self.changed:
            order_lock(self.graph)


class Bridge:
    """The project's items as Dagster's assets."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.prices = graph, preview.read_prices(graph, ask=False)
        self._works = dict[str, Work]()

    @contextmanager
    def scope(self, instance: DagsterInstance, run_id: str) -> Iterator[Callable[[], None]]:
        """For a run all of whose steps are threads of this process; gives what stops them. Raises
        ValueError."""
        work = Work(self.graph)
        number_of(STALL_MINUTES)
        set_places(instance, self.graph)
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
        """That of the run; a new one if this process is the step's own. Raises ValueError."""
        shared = self._works.get(run_id)
        if shared is None:
            set_places(instance, self.graph)  # of the next steps: nothing runs before the first
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
            check_specs=check_specs(self.graph, item),
            pool=item.pool or None,
            op_tags=tags,
            retry_policy=RetryPolicy(max_retries=item.retries) if item.retries else None,
            can_subset=True,  # so that a check may go without a result
        )
        def step(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
            with self._work(context.instance, context.run.run_id) as work:
                yield from make(context, work, item)

        return step

    def checks(self) -> list[AssetChecksDefinition]:
        """The checks that hold an item against others of its stage: one step a stage, after all of
        them."""
        return [self._across(stage, specs) for stage, specs in across_specs(self.graph).items()]

    def _across(self, stage: str, specs: Sequence[AssetCheckSpec]) -> AssetChecksDefinition:
        @multi_asset_check(name=f"compare_{stage}", specs=specs, can_subset=True)
        def compare(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
            lock = read_lock(self.graph.root)
            wanted = {key.asset_key for key in context.selected_asset_check_keys}
            for address, item in self.graph.items.items():
                if asset_key(item) in wanted and address in lock:
                    found = look(self.graph.root, item, {}, ACROSS.__contains__)
                    version = self.graph.data_version(address, lock[address])
                    alert_of_checks(context.instance, item, found, version)
                    yield from results(item, found, version)

        return compare


def make(
    context: AssetExecutionContext, work: Work, item: Item
) -> Iterator[MaterializeResult[None]]:
    """Make one item if that is needed, and say what it is. Raises Failure."""
    graph, address, start = work.graph, item.address, time.monotonic()
    now = work.first_look(context)
    before = read_lock(graph.root)
    refuse_what_reads_badly(context.instance, graph, item, now, before)

    outcome = Outcome.UNCHANGED
    if work.to_do(item, now.stale):
        if found := now.findings.get(address):
            raise Failure("\n".join(found), allow_retries=False)
        outcome = made(context, work, item)
    lock = read_lock(graph.root)
    locked = lock.get(address)
    if outputs(locked) != outputs(before.get(address)):
        work.changed.add(address)

    verdicts = verdicts_of(context.instance, graph, item, lock, outcome)
    verdicts += settings_verdict(graph, item, now)
    shown = describe(
        graph,
        address,
        lock,
        outcome=outcome.value,
        seconds=None if outcome is Outcome.UNCHANGED else time.monotonic() - start,
        left_stale=now.left_stale,
        revision=now.revision,
        show=beside_the_logs(context.instance, context.run.run_id),
        cost=preview.cost_known(item, graph, now.prices),
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
    if broken := what_keeps_back(verdicts):
        raise Failure(broken, allow_retries=False)


def made(context: AssetExecutionContext, work: Work, item: Item) -> Outcome:
    """Have DVC make it. Its lines go to the step's log, and those that are not progress to the
    run's too. Raises Failure."""
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
        elif worth_telling(line):
            tail.append(line)
            context.log.info(without_name(item, line))

    try:
        with watch:
            return make_item(work.children, item.address, show)
    except Stopped:
        raise interrupted() from None
    except ItemFailed as error:
        raise Failure(cause(item.address, list(tail), error), allow_retries=False) from None


def worth_telling(line: str) -> bool:
    """Whether a line is of the item itself: no bar, and none of what DVC says around every item."""
    return bool(line.strip()) and not line.lstrip().startswith(DVC_WORDS) and not BAR.search(line)


def without_name(item: Item, line: str) -> str:
    """A line without the names that its step bears anyway: `checkpoint@base: base: `."""
    stage, name = re.escape(item.stage), re.escape(item.name or item.stage)
    names = rf"(?:{re.escape(item.address)}|{stage} {name}|{stage}|{name}): +"
    return re.sub(rf"^(?:{names})+(?=\S)", "", line)


def cause(address: str, tail: Sequence[str], error: Exception) -> str:
    """The reason first, then the last lines."""
    own = [line for line in tail if not line.startswith(DVC_FAILED)]
    first = own[-1].strip() if own else str(error)
    last_lines = "\n".join(tail)
    return f"{first}\n\n{address} failed ({error}). Its last lines:\n{last_lines}"


def refuse_what_reads_badly(
    instance: DagsterInstance,
    graph: Graph,
    item: Item,
    now: FirstLook,
    lock: Mapping[str, Locked],
) -> None:
    """Raise Failure if the item reads something that failed a blocking check and is not made in
    this run. Within a run, Dagster itself holds back what reads a failed check."""
    for address in sorted(item.upstream - now.wanted):
        upstream = graph.items[address]
        verdicts = recalled(instance, graph, upstream, lock)
        verdicts += settings_verdict(graph, upstream, now)
        if broken := what_keeps_back(verdicts):
            raise Failure(f"It reads {address}. {broken}", allow_retries=False)


def verdicts_of(
    instance: DagsterInstance,
    graph: Graph,
    item: Item,
    lock: Mapping[str, Locked],
    outcome: Outcome,
) -> list[Verdict]:
    """What holds of an item after its step."""
    if outcome is Outcome.UNCHANGED:
        return recalled(instance, graph, item, lock, first=True)
    return look(graph.root, item, last_values(instance, item), lambda name: name not in ACROSS)


def recalled(
    instance: DagsterInstance,
    graph: Graph,
    item: Item,
    lock: Mapping[str, Locked],
    first: bool = False,
) -> list[Verdict]:
    """What holds of an item that is up to date. A costly check that passed for this version of the
    data is not looked at again; one that never was is if this is the first time that it can be told
    of.
    """
    locked = lock.get(item.address)
    known = recall(instance, item, graph.data_version(item.address, locked)) if locked else {}
    left_out = ACROSS | {
        name for name in COSTLY if (known[name].passed if name in known else not first)
    }
    looked = look(graph.root, item, last_values(instance, item), lambda name: name not in left_out)
    return looked + [verdict for name, verdict in known.items() if name in left_out]


def settings_verdict(graph: Graph, item: Item, now: FirstLook) -> list[Verdict]:
    """Whether `make check` finds something about the settings that the item is made by."""
    if not findings.has_settings(graph.root):
        return []
    return [findings.verdict(now.findings.get(item.address, []))]


def keeps_back(verdict: Verdict) -> bool:
    """Whether nothing may be made from the item. A check that was not made keeps nothing back."""
    return verdict.blocking and verdict.made and not verdict.passed


def what_keeps_back(verdicts: Sequence[Verdict]) -> str:
    """The failed checks that keep back what reads the item, a line each; "" if none does."""
    return "\n".join(words_of(verdict) for verdict in verdicts if keeps_back(verdict))


def words_of(verdict: Verdict) -> str:
    """One failed check."""
    return (
        f"Check {verdict.name} did not hold: expected {verdict.expected}; found {verdict.found}. "
        f"{verdict.advice}"
    )


def wanted_by(context: AssetExecutionContext, graph: Graph) -> set[str]:
    """The addresses that the run makes."""
    run = context.run
    keys = set(context.job_def.asset_layer.executable_asset_keys)
    steps = set(run.step_keys_to_execute or ())
    return {
        address
        for address, item in graph.items.items()
        if asset_key(item) in keys and (not steps or step_name(item) in steps)
    }


def outputs(locked: Locked | None) -> Mapping[str, str] | None:
    """By path, the hash of each output."""
    return locked.outputs if locked else None


def tell(context: AssetExecutionContext, text: str) -> None:
    """Say something about the run as a whole: in its log, and at the terminal."""
    context.log.info(text)
    print(text, flush=True)


def status_once_free(root: Path, say: Callable[[str], Any]) -> dict[str, list[str]]:
    """What is out of date, as soon as no other DVC process holds the repository. What another one
    makes, and what reads that, counts as out of date: whoever makes it waits, and then asks DVC
    again. Raises GraphError.
    """
    waits = False
    while True:
        try:
            busy = set[str]()
            stale = read_status(root, busy)
            return stale | {address: [AT_WORK] for address in sorted(busy)}
        except GraphBusy as busy:
            if not waits:
                say(f"{busy} Waiting for it to end.")
            waits = True
            time.sleep(SECONDS_BETWEEN_TRIES)
