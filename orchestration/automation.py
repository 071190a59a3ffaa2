"""The change sensor: off until switched on, it makes what has gone out of date. Beside it, the same once a night, and a
sensor that runs nothing and tells Dagster what others made or lost.

One sensor that asks DVC, rather than Dagster's automation conditions: those work in waves, must be fed observations,
and see code only after a reload. The cost is one `status` (0.3 s, plus the hashing of what changed) at each tick.

A tick asks for at most one run. Its key is a counter with the digest of everything the graph is made from and does not
make itself; the counter rises when the digest does, so that A, then X, then A again each bring a run, while a change
that a run has already answered brings none.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
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

from orchestration import checks
from orchestration.graph import Graph, GraphBusy, GraphError, Locked, overlap, read_graph, read_lock, read_status
from orchestration.home import RELOAD
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.running import environment
from orchestration.translation import asset_key
from orchestration.verdicts import evaluations, last_values

ACTIVE = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED,
          DagsterRunStatus.CANCELING]
ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
SECONDS_BETWEEN_TICKS = 30
NIGHTLY = os.environ.get("NEEDLEWORK_NIGHTLY", "0 3 * * *")
RUN_KEY_TAG = "dagster/run_key"
UNKNOWN_VERSION = "unknown"
OUTSIDE = "outside"
LOST = "output lost"
UNLOCKED = "not in dvc.lock"
INPUT_VERSION = "dagster/input_data_version/"


@dataclass(frozen=True, slots=True)
class Cursor:
    """What the sensor last saw: how often the inputs had changed, and their digest."""

    counter: int = 0
    digest: str = ""

    @staticmethod
    def parse(text: str | None) -> "Cursor":
        """The cursor in `text`; a new one where it is missing or not ours, which costs one needless look."""
        try:
            found = json.loads(text or "")
            return Cursor(int(found["counter"]), str(found["digest"]))
        except (ValueError, KeyError, TypeError):
            return Cursor()

    def seeing(self, digest: str) -> "Cursor":
        """The cursor after a look at inputs with this digest."""
        return self if digest == self.digest else Cursor(self.counter + 1, digest)

    def text(self) -> str:
        """For Dagster to keep."""
        return json.dumps({"counter": self.counter, "digest": self.digest})

    def run_key(self) -> str:
        """The same for the same change, never the same for two."""
        return f"{self.counter}-{self.digest}"


class NotNow(Exception):
    """A run is active, or the project can't be read; the message is for the tick's page."""


def look(instance: DagsterInstance, root: Path) -> tuple[Graph, Mapping[str, Locked], Mapping[str, Sequence[str]]]:
    """The graph, dvc.lock and what is out of date. Raises NotNow."""
    if instance.get_runs(RunsFilter(statuses=ACTIVE), limit=1):
        raise NotNow("A run is active.")
    try:
        return read_graph(root), read_lock(root), read_status(root)
    except (GraphError, GraphBusy) as error:
        raise NotNow(str(error)) from None


def seconds_between_ticks() -> int:
    """NEEDLEWORK_TICK_SECONDS, or 30; Dagster's daemon looks every 5 s at most. Raises GraphError."""
    value = os.environ.get("NEEDLEWORK_TICK_SECONDS", "") or str(SECONDS_BETWEEN_TICKS)
    if not (value.isdigit() and int(value) > 0):
        raise GraphError(f"NEEDLEWORK_TICK_SECONDS is {value!r}: a whole number above 0 says how often to look.")
    return int(value)


def truth_sensor(loaded: Graph) -> SensorDefinition:
    """A sensor that runs nothing: it tells Dagster of what was made or lost without it, so the UI's marks are DVC's.

    On from the start, for it changes nothing but what is shown.
    """

    @sensor(name=OUTSIDE, minimum_interval_seconds=seconds_between_ticks(), default_status=DefaultSensorStatus.RUNNING,
            description="Shows what `dvc repro`, `dvc checkout` or a deleted file did outside Dagster; runs nothing")
    def outside(context: SensorEvaluationContext) -> SkipReason:
        try:
            graph, lock, stale = look(context.instance, loaded.root)
        except NotNow as error:
            return SkipReason(str(error))
        told = report_outside_state(context.instance, graph, lock, stale)
        words = f"Told of {', '.join(key.to_user_string() for key in told)}." if told else "All as shown."
        return SkipReason(f"{words} {reload()}" if graph.digest() != loaded.digest() else words)

    return outside


def nightly_schedule(loaded: Graph, job: Any) -> ScheduleDefinition:
    """The same as the sensor once a night, for who wants no runs by day; off until switched on."""

    @schedule(name="nightly", job=job, cron_schedule=NIGHTLY, default_status=DefaultScheduleStatus.STOPPED,
              description="Makes what is out of date, once a night (NEEDLEWORK_NIGHTLY, a cron expression); before "
                          "that, moves the pins of sources that follow a branch of the Hub")
    def nightly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        try:
            graph, _, stale = look(context.instance, loaded.root)
            if told := move_pins(graph):  # only here, where no run is active that may be reading what they pin
                context.log.info("\n".join(told))
                graph, _, stale = look(context.instance, loaded.root)
        except NotNow as error:
            return SkipReason(str(error))
        cursor = unanswered(context.instance, Cursor(0, graph.digest()))
        skip, requests = decide(context.instance, loaded, graph, stale, cursor)
        return requests[0] if requests else SkipReason(skip)

    return nightly


def move_pins(graph: Graph) -> list[str]:
    """Ask the Hub about every source that follows a branch, which no look at files can tell; what came of it, in words.

    A source that cannot be asked for stays as it is pinned.
    """
    described = sorted({path for item in graph.items.values() for path in item.inputs
                        if path.endswith((".yaml", ".yml")) and _follows(graph.root / path)})
    if not described:
        return []
    done = subprocess.run([sys.executable, "-m", "assets.hub_branch", *described], cwd=graph.root, env=environment(),
                          capture_output=True, text=True)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def _follows(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "hub" in content and "follow" in content


def change_sensor(loaded: Graph, job: Any) -> SensorDefinition:
    """A sensor on the project of `loaded`, the graph as it was when this code location was loaded."""

    @sensor(name="changes", job=job, minimum_interval_seconds=seconds_between_ticks(),
            default_status=DefaultSensorStatus.STOPPED,
            description="Makes what changed code, parameters or sources have put out of date")
    def changes(context: SensorEvaluationContext) -> SensorResult:
        cursor = Cursor.parse(context.cursor)
        try:
            graph, lock, stale = look(context.instance, loaded.root)
        except NotNow as error:
            return SensorResult(skip_reason=SkipReason(str(error)))
        report_outside_state(context.instance, graph, lock, stale)
        cursor = cursor.seeing(graph.digest())
        if stale:
            cursor = unanswered(context.instance, cursor)
        skip, requests = decide(context.instance, loaded, graph, stale, cursor)
        return SensorResult(skip_reason=SkipReason(skip) if skip else None, run_requests=requests, cursor=cursor.text())

    return changes


def reload() -> str:
    """Have the code location loaded anew by who keeps it up (`make ui`); what was done about it, in words."""
    asked = os.environ.get(RELOAD)
    if not asked:
        return "Reload the code location to see what it is now."
    Path(asked).touch()
    return "The code location is loaded anew."


def decide(instance: DagsterInstance, loaded: Graph, graph: Graph, stale: Mapping[str, Sequence[str]],
           cursor: Cursor) -> tuple[str, list[RunRequest]]:
    """Why nothing is to be done, or the one run to ask for."""
    if not stale:
        return "Everything is up to date.", []
    if graph.items.keys() != loaded.items.keys():
        return f"dvc.yaml or params.yaml now name other items. {reload()}", []
    status = _status(instance, cursor)
    if status in ENDED_BADLY:
        return f"The run for this change ended as {status.value}. Change something, or start a run by hand.", []
    keys = [asset_key(graph.items[address]) for address in graph.items if address in graph.downstream(stale)]
    return "", [RunRequest(run_key=cursor.run_key(), asset_selection=keys)]


def unanswered(instance: DagsterInstance, cursor: Cursor) -> Cursor:
    """The cursor, counted on past runs that succeeded: what is out of date after them is so anew, as by a lost output,
    and Dagster starts no second run with a key it has seen."""
    while _status(instance, cursor) is DagsterRunStatus.SUCCESS:
        cursor = Cursor(cursor.counter + 1, cursor.digest)
    return cursor


def _status(instance: DagsterInstance, cursor: Cursor) -> DagsterRunStatus | None:
    """How the run for this change stands; None if there is none."""
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: cursor.run_key()}), limit=1)
    return runs[0].status if runs else None


def report_outside_state(instance: DagsterInstance, graph: Graph, lock: Mapping[str, Locked],
                         stale: Mapping[str, Sequence[str]]) -> list[AssetKey]:
    """Tell Dagster of what was made without it (a plain `dvc repro`, `dvc checkout`, `dvc pull`, `dvc exp apply`), of
    outputs that are gone or were altered, and of what dvc.lock no longer names (a commit from before it was made);
    return the assets told of.

    Compares everything an item came from, not its data alone: made anew from new code, the same data would else stay
    marked as outdated.
    """
    keys = {address: asset_key(item) for address, item in graph.items.items()}
    known = {record.asset_entry.asset_key: _tags(record.asset_entry.last_materialization)
             for record in instance.get_asset_records(list(keys.values()))}
    told, left_stale, commit = list[AssetKey](), graph.downstream(stale), ""
    for address, key in keys.items():
        locked, reasons = lock.get(address), stale.get(address, ())
        lost = [UNLOCKED] if locked is None else [reason for reason in reasons if reason.startswith("changed outs")]
        if lost and not known.get(key):
            continue  # it never was there, and is marked as never made
        tags = provenance(graph, address, locked, lock, reasons) if locked else {"dagster/data_version": UNLOCKED}
        if lost:  # Dagster has no word for it; a code version that no code has makes it out of date
            tags["dagster/code_version"] = LOST
        if _versions(known.get(key, {})) != _versions(tags):
            words = f"No longer as it was made: {', '.join(lost)}" if lost else "Made outside Dagster"
            commit = commit or revision(graph.root)
            shown = {"outcome": MetadataValue.text(OUTSIDE)} if lost else describe(
                graph, address, lock, outcome=OUTSIDE, left_stale=left_stale, revision=commit)
            instance.report_runless_asset_event(AssetMaterialization(key, description=words, metadata=shown, tags=tags))
            for found in check_outside(instance, graph, address, locked) if locked and not lost else ():
                instance.report_runless_asset_event(found)
            told.append(key)
    return told


def check_outside(instance: DagsterInstance, graph: Graph, address: str, locked: Locked) -> list[AssetCheckEvaluation]:
    """What holds of an item that was made without Dagster, as far as a look that takes no time can tell."""
    item = graph.items[address]
    verdicts = checks.look(graph.root, item, last_values(instance, item), lambda name: name not in checks.COSTLY)
    return evaluations(item, verdicts, graph.data_version(address, locked))


def provenance(graph: Graph, address: str, locked: Locked, lock: Mapping[str, Locked],
               reasons: Sequence[str]) -> dict[str, str]:
    """The tags by which Dagster knows what an asset was made from, as dvc.lock tells it."""
    tags = {"dagster/data_version": graph.data_version(address, locked),
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": graph.locked_code_version(locked)}
    for upstream in sorted(graph.items[address].upstream):
        key = asset_key(graph.items[upstream]).to_user_string()
        altered = any(f"changed deps: {path} " in f"{reason} " for reason in reasons
                      for path in _read_from(graph, upstream, locked))
        there = graph.data_version(upstream, lock[upstream]) if upstream in lock else UNLOCKED
        tags[INPUT_VERSION + key] = UNKNOWN_VERSION if altered else there
        tags[f"dagster/input_event_pointer/{key}"] = "NULL"
    return tags


def _read_from(graph: Graph, upstream: str, locked: Locked) -> Iterator[str]:
    """The dependency paths through which an item reads the outputs of `upstream`."""
    outputs = graph.items[upstream].outputs
    return (path.rstrip("/") for path in locked.dependencies
            if any(overlap(path, out) for out in outputs))


def _tags(entry: Any) -> dict[str, str]:
    materialization = entry.asset_materialization if entry else None
    return dict(materialization.tags or {}) if materialization else {}


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    """What counts when two provenances are compared: not through which event an input was seen."""
    return {name: value for name, value in tags.items()
            if name in ("dagster/data_version", "dagster/code_version") or name.startswith(INPUT_VERSION)}
