"""The change sensor: off until switched on, it makes what has gone out of date. Beside it, the same
once a night, and a sensor that runs nothing and tells Dagster what others made or lost.

One sensor that asks DVC, rather than Dagster's automation conditions: those work in waves, must be
fed observations, and see code only after a reload. The cost is the `stat` of every file at each
tick (status.py), and one `status` (0.3 s, plus the hashing of what changed) when one of them has
changed.

A tick asks for at most one run, for all that is out of date. Only the last run that was asked for
so, by sensor or schedule, stands in the way of another, and only if it ended badly and nothing has
changed since: neither what the graph is made from (a tag it was asked for with) nor what it left
out of date (a tag that the first look after its end puts on it, whoever looks). A look that finds
nothing out of date closes its story. So A, then X, then A again each bring a run, and a lost output
is brought back whatever came before. The cost: what is lost in the seconds between a bad end and
the first look counts as left by the run, and waits for the next change.

A run that is asked for stays within NEEDLEWORK_BUDGET; what is beyond it waits for a person
(approve.py). Both are on the tick: what is due and why as the sensor's cursor and in the tick's log,
what waits in its message. A run carries the same as a tag, in short.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    MetadataValue,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)
from dagster._utils.schedules import is_valid_cron_schedule

from core.environment import NIGHTLY, RELOAD, TICK_SECONDS, VariableError, number_of, text_of
from orchestration import approve, checks, costs, findings, preview
from orchestration.costs import Hours, Price
from orchestration.graph import Graph, GraphBusy, GraphError, Locked, overlap
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.pictures import beside_the_logs
from orchestration.running import environment
from orchestration.status import State, read_state
from orchestration.translation import asset_key, job_name
from orchestration.verdicts import evaluations, last_values, last_verdict

ACTIVE = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
SECONDS_TO_ASK_THE_HUB = 300.0
LOCALTIME = Path("/etc/localtime")
ASKED = {"needlework/asked": "yes"}
"""Tag of the runs that sensor and schedule ask for."""
DIGEST, LEFT = "needlework/digest", "needlework/left"
"""Their tags: what the graph was made from when they were asked for, and what was out of date after
a bad end.
"""
WHY, SPENT = "needlework/why", "needlework/spent"
"""Their tags: the preview in short; and what they and those before them for the same digest may cost,
of the budget.
"""
LOOKING = Lock()
"""Held by whoever looks: a second look beside a long one would hash the same files at the same
time.
"""
UNKNOWN_VERSION = "unknown"
OUTSIDE = "outside"
LOST = "output lost"
OUT_OF_DATE, NOT_ANY_MORE = "out of date", "no longer"
"""In the metadata of an observation: why the asset is out of date, in words."""
UNLOCKED = "not in dvc.lock"
INPUT_VERSION = "dagster/input_data_version/"


STILL_LOOKING = "Still looking: the look before this one hashes what has changed."


class NotNow(Exception):
    """A run is active, another look is, or the project can't be read; the message is for the tick's
    page.
    """


_instances: list[DagsterInstance] = []
"""The instance of the last tick, if any."""


def instance_of(context: SensorEvaluationContext) -> DagsterInstance:
    """The Dagster instance of a tick, kept for the next one.

    By itself Dagster opens one for each tick, and reads all revisions of its database for that:
    0.14 s of CPU.
    """
    ref = context.instance_ref
    if ref is None:
        return context.instance
    for kept in _instances:
        if kept.get_ref() == ref:
            return kept
    _instances[:] = [DagsterInstance.from_ref(ref)]
    return _instances[0]


def look(instance: DagsterInstance, root: Path, patient: bool = False) -> State:
    """The state of the project; the patient wait for another look to end. Raises NotNow."""
    if not LOOKING.acquire(blocking=patient):
        raise NotNow(STILL_LOOKING)
    try:
        if instance.get_runs(RunsFilter(statuses=ACTIVE), limit=1):
            raise NotNow("A run is active.")
        state = read_state(root)
        note_what_is_left(instance, state.stale)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None
    finally:
        LOOKING.release()
    return state


def look_beside_runs(instance: DagsterInstance, root: Path) -> tuple[State, AbstractSet[str]]:
    """The state of the project, and what of it cannot be told of now: what an active run
    makes, and all that comes from it. Raises NotNow.
    """
    runs = instance.get_runs(RunsFilter(statuses=ACTIVE))
    if not runs:
        return look(instance, root), frozenset()
    if not LOOKING.acquire(blocking=False):
        raise NotNow(STILL_LOOKING)
    try:
        busy = set[str]()
        state = read_state(root, busy)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None
    finally:
        LOOKING.release()
    graph = state.graph
    for run in [*runs, *instance.get_runs(RunsFilter(statuses=ACTIVE))]:  # one may have begun
        busy |= items_of(run, graph)
    beside = graph.downstream(busy)
    if beside >= graph.items.keys():
        raise NotNow("A run is active.")
    return state, beside


def items_of(run: DagsterRun, graph: Graph) -> set[str]:
    """The addresses that a run makes; all, where it does not say."""
    selected = run.asset_selection
    found = {
        address
        for address, item in graph.items.items()
        if (selected and asset_key(item) in selected)
        or (not selected and job_name(item.stage) == run.job_name)
    }
    return found or set(graph.items)


def seconds_between_ticks() -> int:
    """NEEDLEWORK_TICK_SECONDS, or 30; Dagster's daemon looks every 5 s at most. Raises GraphError."""
    try:
        return int(number_of(TICK_SECONDS))
    except VariableError as error:
        raise GraphError(str(error)) from None


def budget() -> Hours:
    """NEEDLEWORK_BUDGET. Raises GraphError."""
    try:
        return costs.budget()
    except ValueError as error:
        raise GraphError(str(error)) from None


def nightly_at() -> str:
    """NEEDLEWORK_NIGHTLY, or 3 o'clock. Raises GraphError."""
    value = text_of(NIGHTLY)
    if not is_valid_cron_schedule(value):
        raise GraphError(
            f"{NIGHTLY} is {value!r}: write a cron expression (minute, hour, day of the "
            "month, "
            f"month, day of the week), as in {NIGHTLY.default!r}, which is every day at 3:00."
        )
    return value


def time_zone() -> str:
    """The machine's time zone by name, as TZ or /etc/localtime has it; UTC where neither names one."""
    for name in (
        os.environ.get("TZ", "").removeprefix(":"),
        str(LOCALTIME.resolve()).partition("zoneinfo/")[2],
    ):
        with suppress(ValueError, OSError, ZoneInfoNotFoundError):
            return ZoneInfo(name).key
    return "UTC"


def truth_sensor(loaded: Graph) -> SensorDefinition:
    """A sensor that runs nothing: it tells Dagster of what was made or lost without it, so the UI's
    marks are DVC's.

    On from the start, for it changes nothing but what is shown.
    """

    loaded_digest = loaded.digest()

    @sensor(
        name=OUTSIDE,
        minimum_interval_seconds=seconds_between_ticks(),
        default_status=DefaultSensorStatus.RUNNING,
        description="Shows what `dvc repro`, `dvc checkout` or a deleted file did outside Dagster; runs nothing",
    )
    def outside(context: SensorEvaluationContext) -> SkipReason:
        try:
            state, beside = look_beside_runs(instance := instance_of(context), loaded.root)
        except NotNow as error:
            return SkipReason(str(error))
        told = report_once(instance, state, beside)
        words = (
            f"Told of {', '.join(key.to_user_string() for key in told)}."
            if told
            else "All as shown."
        )
        words = f"{words} Left out while a run makes them: {_listed(beside)}." if beside else words
        words = f"{words} {reload()}" if state.digest != loaded_digest else words
        return SkipReason(with_findings(words, state))

    return outside


def nightly_schedule(loaded: Graph, job: Any) -> ScheduleDefinition:
    """The same as the sensor once a night, for who wants no runs by day; off until switched on."""

    zone = time_zone()

    @schedule(
        name="nightly",
        job=job,
        cron_schedule=nightly_at(),
        execution_timezone=zone,
        default_status=DefaultScheduleStatus.STOPPED,
        description=f"Makes what is out of date, once a night (NEEDLEWORK_NIGHTLY, a cron expression, in the "
        f"machine's time zone, {zone}; TZ sets another); before that, moves the pins of sources "
        "that "
        "follow a branch of the Hub",
    )
    def nightly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        try:
            instance = context.instance
            state = look(instance, loaded.root, patient=True)
            if told := move_pins(
                state.graph
            ):  # only here, where no run is active that may be reading what they pin
                context.log.info("\n".join(told))
                state = look(instance, loaded.root, patient=True)
            skip, requests, text = decide(instance, loaded, state)
        except NotNow as error:
            return SkipReason(str(error))
        context.log.info(text)
        return requests[0] if requests else SkipReason(with_findings(skip, state))

    return nightly


def move_pins(graph: Graph, seconds: float = SECONDS_TO_ASK_THE_HUB) -> list[str]:
    """Ask the Hub about every source that follows a branch, which no look at files can tell; what
    came of it, in words.

    A source that cannot be asked for, or not in time, stays as it is pinned.
    """
    described = sorted(
        {
            path
            for item in graph.items.values()
            for path in item.inputs
            if path.endswith((".yaml", ".yml")) and _follows(graph.root / path)
        }
    )
    if not described:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-m", "assets.hub_branch", *described],
            cwd=graph.root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return [
            f"The Hub did not answer within {seconds:.0f} s: those of {', '.join(described)} that "
            "were not reached "
            "stay as they are pinned. Look at the network, or move the pins by hand: python -m "
            "assets.hub_branch "
            f"{' '.join(described)}"
        ]
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def _follows(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "hub" in content and "follow" in content


def change_sensor(loaded: Graph, job: Any) -> SensorDefinition:
    """A sensor on the project of `loaded`, the graph as it was when this code location was loaded.
    Raises GraphError."""
    budget()  # wrong now is better than at the first tick

    @sensor(
        name="changes",
        job=job,
        minimum_interval_seconds=seconds_between_ticks(),
        default_status=DefaultSensorStatus.STOPPED,
        description="Makes what changed code, parameters or sources have put out of date",
    )
    def changes(context: SensorEvaluationContext) -> SensorResult:
        try:
            state = look(instance := instance_of(context), loaded.root)
            report_once(instance, state)
            skip, requests, text = decide(instance, loaded, state)
        except NotNow as error:
            return SensorResult(skip_reason=SkipReason(str(error)))
        context.log.info(text)
        if requests:
            return SensorResult(run_requests=requests, cursor=text)
        return SensorResult(skip_reason=SkipReason(with_findings(skip, state)), cursor=text)

    return changes


def with_findings(words: str, state: State) -> str:
    """A tick's message, with the findings of `make check`."""
    return " ".join([words, *(f"make check finds: {text}" for text in state.findings)])


def reload() -> str:
    """Have the code location loaded anew by who keeps it up (`make ui`); what was done about it, in
    words.
    """
    asked = text_of(RELOAD)
    if not asked:
        return "Reload the code location to see what it is now."
    Path(asked).touch()
    return "The code location is loaded anew."


def decide(
    instance: DagsterInstance, loaded: Graph, state: State
) -> tuple[str, list[RunRequest], str]:
    """Why nothing is to be done, or the one run to ask for; and the preview. Raises NotNow."""
    graph, stale = state.graph, state.stale
    addresses = graph.downstream(stale)
    approve.drop_used(graph, addresses)
    if not stale:
        words = "Everything is up to date."
        return words, [], words
    try:
        view = preview.outlook(state)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None
    text = "\n".join(preview.lines(view, preview.ITEMS_ON_A_TICK))
    if graph.items.keys() != loaded.items.keys():
        words = f"dvc.yaml or params.yaml now name other items. {reload()}"
        if text_of(RELOAD):
            return words, [], text  # a moment later all of it is asked for, in one run
        addresses -= graph.downstream(
            addresses - loaded.items.keys()
        )  # what can be asked for without what is new
        if not addresses:
            return words, [], text
    last, digest = last_asked(instance), state.digest
    if (
        last
        and last.status in ENDED_BADLY
        and (last.tags.get(DIGEST), last.tags.get(LEFT)) == (digest, what_is_left(last, stale))
    ):
        return (
            f"The run for this change ended as {last.status.value}. Change something, or start a "
            "run by hand.",
            [],
            text,
        )
    before = spent_before(last, digest)
    parts = approve.split(graph, view, addresses, budget() - before)
    waits = approve.waiting(view, parts.waits)
    text = f"{text}\n{waits}" if waits else text
    if not parts.starts:
        return text, [], text
    keys = [asset_key(graph.items[address]) for address in parts.starts]
    spent = before + parts.spent
    tags = {
        **ASKED,
        DIGEST: digest,
        WHY: preview.tag(view, parts.starts),
        SPENT: json.dumps({"gpu": spent.gpu, "cpu": spent.cpu}),
    }
    # Dagster starts no second run with a key it has seen: after the same run, for the same change
    return (
        "",
        [
            RunRequest(
                run_key=f"{last.run_id if last else 'first'}-{digest}",
                asset_selection=keys,
                tags=tags,
            )
        ],
        text,
    )


def spent_before(last: DagsterRun | None, digest: str) -> Hours:
    """What the budget has already paid for the project as it is now."""
    if last is None or last.tags.get(DIGEST) != digest or SPENT not in last.tags:
        return Hours()
    return Hours(**json.loads(last.tags[SPENT]))


def last_asked(instance: DagsterInstance) -> DagsterRun | None:
    """The last run that sensor or schedule asked for, or the last retry of one."""
    return next(iter(instance.get_runs(RunsFilter(tags=ASKED), limit=1)), None)


def note_what_is_left(instance: DagsterInstance, stale: Mapping[str, Sequence[str]]) -> None:
    """Note on the last run asked for what is out of date after it, if it ended badly and this is
    the first look since; anew when nothing is, for whatever is out of date after that has another
    reason.
    """
    last = last_asked(instance)
    if last is None or last.status not in ENDED_BADLY:
        return
    left, noted = what_is_left(last, stale), last.tags.get(LEFT, "")
    if left != noted and not (stale and noted.startswith(last.run_id)):
        instance.add_run_tags(last.run_id, {LEFT: left})


def what_is_left(run: DagsterRun, stale: Mapping[str, Sequence[str]]) -> str:
    """What is out of date after a run, as a tag of it: with its id, for a retry gets the tags of
    the run it repeats.
    """
    return f"{run.run_id} {sha256(json.dumps(stale, sort_keys=True).encode()).hexdigest()[:16]}"


_reported: dict[Path, tuple[State, str, int]] = {}
"""By project: the state last reported to Dagster, the database, and the last event in it after
that.
"""


def _listed(addresses: AbstractSet[str]) -> str:
    return ", ".join(sorted(addresses))


def report_once(
    instance: DagsterInstance, state: State, beside: AbstractSet[str] = frozenset()
) -> list[AssetKey]:
    """`report_outside_state`, unless neither the project nor anything about an asset in Dagster has
    changed since.

    Comparing them costs the last materialisation of every asset, pictures included.
    """
    root = state.graph.root
    if beside:
        return report_outside_state(instance, state.graph, state.lock, state.stale, beside)
    # every SQL storage has it
    database = instance.run_storage.get_run_storage_id()  # type: ignore[attr-defined]
    if (last := last_event(instance)) and _reported.get(root) == (state, database, last):
        return []
    told = report_outside_state(instance, state.graph, state.lock, state.stale)
    report_reasons(instance, state)
    report_findings(instance, state)
    if last := last_event(instance):
        _reported[root] = (state, database, last)
    return told


def report_reasons(instance: DagsterInstance, state: State) -> None:
    """Say on the page of each asset that is itself out of date which file or parameter made it so,
    and say when that is over. Dagster's own mark names no more than "code" or "upstream data".
    """
    for address, item in state.graph.items.items():
        key = asset_key(item)
        told = instance.fetch_observations(key, limit=1).records
        last = told[0].asset_observation if told else None
        before = (
            str(last.metadata[OUT_OF_DATE].value) if last and OUT_OF_DATE in last.metadata else ""
        )
        now = "; ".join(map(plainly, state.stale.get(address, ())))
        made = instance.get_latest_materialization_event(key) if now or before else None
        if before and made is not None and made.timestamp > told[0].timestamp:
            before = ""  # what was said before it was made again is no longer shown
        if made is None or now == before or (not now and before in ("", NOT_ANY_MORE)):
            continue
        text = now or NOT_ANY_MORE
        instance.report_runless_asset_event(
            AssetObservation(key, metadata={OUT_OF_DATE: MetadataValue.text(text)})
        )


def plainly(reason: str) -> str:
    """A reason of DVC's as people say it: "changed deps: stage.py modified" is "stage.py modified"."""
    kind, _, rest = reason.partition(": ")
    if kind == "changed outs":
        return f"output {rest}"
    return rest if kind == "changed deps" else reason


def report_findings(instance: DagsterInstance, state: State) -> None:
    """Report the findings of `make check` for each asset whose last reported result differs."""
    if not findings.has_settings(state.graph.root):
        return
    concerned = findings.by_item(state.graph, state.findings)
    for address, item in state.graph.items.items():
        verdict = findings.verdict(concerned.get(address, []))
        told = last_verdict(instance, item, findings.CHECK)
        if (
            (told.passed, told.found) != (verdict.passed, verdict.found)
            if told
            else not verdict.passed
        ):
            for evaluation in evaluations(item, [verdict], ""):
                instance.report_runless_asset_event(evaluation)


def last_event(instance: DagsterInstance) -> int | None:
    """Number of the newest asset event; None if there is none or the storage has no such number."""
    try:
        return instance.event_log_storage.get_maximum_record_id()
    except NotImplementedError:
        return None


def report_outside_state(
    instance: DagsterInstance,
    graph: Graph,
    lock: Mapping[str, Locked],
    stale: Mapping[str, Sequence[str]],
    beside: AbstractSet[str] = frozenset(),
) -> list[AssetKey]:
    """Tell Dagster of what was made without it (a plain `dvc repro`, `dvc checkout`, `dvc pull`,
    `dvc exp apply`), of outputs that are gone or were altered, and of what dvc.lock no longer names
    (a commit from before it was made); return the assets told of.

    Compares everything an item came from, not its data alone: made anew from new code, the same
    data would else stay marked as outdated. beside: what is left out.
    """
    keys = {
        address: asset_key(item) for address, item in graph.items.items() if address not in beside
    }
    known = {
        record.asset_entry.asset_key: _tags(record.asset_entry.last_materialization)
        for record in instance.get_asset_records(list(keys.values()))
    }
    told, left_stale, commit = list[AssetKey](), graph.downstream(stale), ""
    prices: Mapping[str, Price] | None = None
    for address, key in keys.items():
        locked, reasons = lock.get(address), stale.get(address, ())
        lost = (
            [UNLOCKED]
            if locked is None
            else [reason for reason in reasons if reason.startswith("changed outs")]
        )
        if lost and not known.get(key):
            continue  # it never was there, and is marked as never made
        tags = (
            provenance(graph, address, locked, lock, reasons)
            if locked
            else {"dagster/data_version": UNLOCKED}
        )
        if lost:  # Dagster has no word for it; a code version that no code has makes it out of date
            tags["dagster/code_version"] = LOST
        if _versions(known.get(key, {})) != _versions(tags):
            words = (
                f"No longer as it was made: {', '.join(lost)}" if lost else "Made outside Dagster"
            )
            commit = commit or revision(graph.root)
            if prices is None:
                prices = preview.read_prices(graph, ask=False)
            shown = (
                {
                    "outcome": MetadataValue.text("lost: the output is gone or altered"),
                    "why": MetadataValue.text("; ".join(lost)),
                    "what to do": MetadataValue.text(f"dvc checkout {address}, or make it again"),
                }
                if lost
                else describe(
                    graph,
                    address,
                    lock,
                    outcome=OUTSIDE,
                    left_stale=left_stale,
                    revision=commit,
                    show=beside_the_logs(instance, OUTSIDE),
                    cost=preview.cost_known(graph.items[address], graph, prices),
                )
            )
            # Checked first, or it would be compared with itself.
            found = check_outside(instance, graph, address, locked) if locked and not lost else []
            instance.report_runless_asset_event(
                AssetMaterialization(key, description=words, metadata=shown, tags=tags)
            )
            for evaluation in found:
                instance.report_runless_asset_event(evaluation)
            told.append(key)
    return told


def check_outside(
    instance: DagsterInstance, graph: Graph, address: str, locked: Locked
) -> list[AssetCheckEvaluation]:
    """What holds of an item that was made without Dagster, as far as a look that takes no time can
    tell.
    """
    item = graph.items[address]
    verdicts = checks.look(
        graph.root, item, last_values(instance, item), lambda name: name not in checks.COSTLY
    )
    return evaluations(item, verdicts, graph.data_version(address, locked))


def provenance(
    graph: Graph, address: str, locked: Locked, lock: Mapping[str, Locked], reasons: Sequence[str]
) -> dict[str, str]:
    """The tags by which Dagster knows what an asset was made from, as dvc.lock tells it."""
    tags = {
        "dagster/data_version": graph.data_version(address, locked),
        "dagster/data_version_is_user_provided": "true",
        "dagster/code_version": graph.locked_code_version(locked),
    }
    for upstream in sorted(graph.items[address].upstream):
        key = asset_key(graph.items[upstream]).to_user_string()
        altered = any(
            f"changed deps: {path} " in f"{reason} "
            for reason in reasons
            for path in _read_from(graph, upstream, locked)
        )
        there = graph.data_version(upstream, lock[upstream]) if upstream in lock else UNLOCKED
        tags[INPUT_VERSION + key] = UNKNOWN_VERSION if altered else there
        tags[f"dagster/input_event_pointer/{key}"] = "NULL"
    return tags


def _read_from(graph: Graph, upstream: str, locked: Locked) -> Iterator[str]:
    """The dependency paths through which an item reads the outputs of `upstream`."""
    outputs = graph.items[upstream].outputs
    return (
        path.rstrip("/")
        for path in locked.dependencies
        if any(overlap(path, out) for out in outputs)
    )


def _tags(entry: Any) -> dict[str, str]:
    materialization = entry.asset_materialization if entry else None
    return dict(materialization.tags or {}) if materialization else {}


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    """What counts when two provenances are compared: not through which event an input was seen."""
    return {
        name: value
        for name, value in tags.items()
        if name in ("dagster/data_version", "dagster/code_version")
        or name.startswith(INPUT_VERSION)
    }
