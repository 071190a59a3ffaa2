"""Report to Dagster what was made or lost without it, so that the UI's marks are those of DVC.

DVC decides what an asset is made from; Dagster only knows what was reported. So everything that an
asset came from is compared, not its data alone: the same data made again by new code would stay
marked as outdated. The cost is the last materialisation of every asset, pictures included, so they
are compared only after a change.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    MetadataValue,
)

from orchestration import checks, findings, preview
from orchestration.graph import Graph, Locked, overlap
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.pictures import beside_the_logs
from orchestration.status import State
from orchestration.translation import asset_key

OUTSIDE = "outside"
UNKNOWN_VERSION = "unknown"
LOST = "output lost"
OUT_OF_DATE, NOT_ANY_MORE = "out of date", "no longer"
"""In the metadata of an observation: why the asset is out of date, in words."""
UNLOCKED = "not in dvc.lock"
DATA_VERSION, CODE_VERSION = "dagster/data_version", "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version/"
NOTHING: AbstractSet[str] = frozenset()

_reported: dict[Path, tuple[State, AbstractSet[str], str, int]] = {}
"""By project: the state that was last reported, what was left out, the database, and the last event
in it afterwards.
"""


def report_once(
    instance: DagsterInstance, state: State, beside: AbstractSet[str] = NOTHING
) -> list[AssetKey]:
    """Report the state, unless it was reported and no event of an asset has followed.

    beside: items to leave out. Returns the assets whose materialisation was reported.
    """
    root = state.graph.root
    # every SQL storage has an id
    database = instance.run_storage.get_run_storage_id()  # type: ignore[attr-defined]
    last = _last_event(instance, beside)
    if last is not None and _reported.get(root) == (state, beside, database, last):
        return []

    reported = report_outside_state(instance, state.graph, state.lock, state.stale, beside)
    _report_reasons(instance, state, beside)
    _report_findings(instance, state, beside)
    if (last := _last_event(instance, beside)) is not None:
        _reported[root] = (state, beside, database, last)
    return reported


def _last_event(instance: DagsterInstance, beside: AbstractSet[str]) -> int | None:
    """Number of the newest asset event. None if there is none or the storage does not number them.

    An active run adds events all the time, and none about the items that are compared meanwhile. So
    beside a run the number is 0.
    """
    if beside:
        return 0
    try:
        return instance.event_log_storage.get_maximum_record_id()
    except NotImplementedError:
        return None


def report_outside_state(
    instance: DagsterInstance,
    graph: Graph,
    lock: Mapping[str, Locked],
    stale: Mapping[str, Sequence[str]],
    beside: AbstractSet[str] = NOTHING,
) -> list[AssetKey]:
    """Report what was made without Dagster (`dvc repro`, `dvc checkout`, `dvc pull`, `dvc exp
    apply`), outputs that are gone or altered, and assets that dvc.lock no longer names (a commit
    from before they were made). Returns their keys.
    """
    items = {address: item for address, item in graph.items.items() if address not in beside}
    known = _known(instance, [asset_key(item) for item in items.values()])
    differ = dict[str, dict[str, str]]()
    for address, item in items.items():
        before = known.get(asset_key(item), {})
        tags = provenance(graph, address, lock, stale.get(address, ()))
        never_made = not before and tags[CODE_VERSION] == LOST
        if not never_made and _versions(before) != _versions(tags):
            differ[address] = tags
    if not differ:
        return []

    left_stale, commit = graph.downstream(stale), revision(graph.root)
    prices = preview.read_prices(graph, ask=False)
    for address, tags in differ.items():
        item, found = items[address], list[AssetCheckEvaluation]()
        if tags[CODE_VERSION] == LOST:
            lost = ", ".join(_lost(lock.get(address), stale.get(address, ())))
            words, shown = f"No longer as it was made: {lost}", _of_lost(address, lost)
        else:
            # before the materialisation, or a check would compare the item with itself
            verdicts = checks.verdicts_of(instance, graph.root, item)
            version = graph.data_version(address, lock[address])
            found = checks.evaluations(item, verdicts, version)
            words = "Made outside Dagster"
            shown = describe(
                graph,
                address,
                lock,
                outcome=OUTSIDE,
                left_stale=left_stale,
                revision=commit,
                show=beside_the_logs(instance, OUTSIDE),
                cost=preview.cost_known(item, graph, prices),
            )
        made = AssetMaterialization(asset_key(item), description=words, metadata=shown, tags=tags)
        instance.report_runless_asset_event(made)
        for evaluation in found:
            instance.report_runless_asset_event(evaluation)
    return [asset_key(items[address]) for address in differ]


def _known(instance: DagsterInstance, keys: Sequence[AssetKey]) -> dict[AssetKey, dict[str, str]]:
    """The tags of each asset's last materialisation."""
    found = {}
    for record in instance.get_asset_records(keys):
        last = record.asset_entry.last_materialization
        made = last.asset_materialization if last else None
        found[record.asset_entry.asset_key] = dict((made.tags if made else None) or {})
    return found


def _lost(locked: Locked | None, reasons: Sequence[str]) -> list[str]:
    """What of an item is gone or altered."""
    if locked is None:
        return [UNLOCKED]
    return [reason for reason in reasons if reason.startswith("changed outs")]


def _of_lost(address: str, lost: str) -> dict[str, Any]:
    """The metadata of an asset whose output is gone."""
    return {
        "outcome": MetadataValue.text("lost: the output is gone or altered"),
        "why": MetadataValue.text(lost),
        "what to do": MetadataValue.text(f"dvc checkout {address}, or make it again"),
    }


def provenance(
    graph: Graph, address: str, lock: Mapping[str, Locked], reasons: Sequence[str]
) -> dict[str, str]:
    """The tags by which Dagster knows what an asset was made from, according to dvc.lock."""
    locked = lock.get(address)
    # Dagster has no mark for a lost output. A code version that no code has makes it out of date.
    lost = _lost(locked, reasons)
    if locked is None:
        return {DATA_VERSION: UNLOCKED, CODE_VERSION: LOST}

    tags = {
        DATA_VERSION: graph.data_version(address, locked),
        "dagster/data_version_is_user_provided": "true",
        CODE_VERSION: LOST if lost else graph.locked_code_version(locked),
    }
    for upstream in sorted(graph.items[address].upstream):
        key = asset_key(graph.items[upstream]).to_user_string()
        altered = any(
            f"{reason} ".startswith(f"changed deps: {path} ")
            for path in _read_from(graph, upstream, locked)
            for reason in reasons
        )
        there = graph.data_version(upstream, lock[upstream]) if upstream in lock else UNLOCKED
        tags[INPUT_VERSION + key] = UNKNOWN_VERSION if altered else there
        # the input was not seen through an event of Dagster's
        tags[f"dagster/input_event_pointer/{key}"] = "NULL"
    return tags


def _read_from(graph: Graph, upstream: str, locked: Locked) -> Iterator[str]:
    """The dependency paths through which an item reads the outputs of `upstream`."""
    outputs = graph.items[upstream].outputs
    for path in locked.dependencies:
        if any(overlap(path, out) for out in outputs):
            yield path.rstrip("/")


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    """The part of a provenance that is compared: not through which event an input was seen."""
    return {
        name: value
        for name, value in tags.items()
        if name in (DATA_VERSION, CODE_VERSION) or name.startswith(INPUT_VERSION)
    }


def _report_reasons(instance: DagsterInstance, state: State, beside: AbstractSet[str]) -> None:
    """Report which file or parameter made an asset out of date, and when that is over. Dagster's
    own mark only says "code" or "upstream data".
    """
    for address, item in state.graph.items.items():
        if address in beside:
            continue
        key = asset_key(item)
        records = instance.fetch_observations(key, limit=1).records
        last = records[0].asset_observation if records else None
        before = last.metadata.get(OUT_OF_DATE) if last else None
        shown = str(before.value) if before else ""
        now = "; ".join(map(plainly, state.stale.get(address, ())))

        made = instance.get_latest_materialization_event(key) if now or shown else None
        if made is None:
            continue
        if shown and made.timestamp > records[0].timestamp:
            shown = ""  # a newer materialisation hides the observation
        if shown == now or (not now and shown in ("", NOT_ANY_MORE)):
            continue
        text = MetadataValue.text(now or NOT_ANY_MORE)
        instance.report_runless_asset_event(AssetObservation(key, metadata={OUT_OF_DATE: text}))


def plainly(reason: str) -> str:
    """A reason of DVC's in plain words: "changed deps: stage.py modified" is "stage.py modified"."""
    kind, _, rest = reason.partition(": ")
    if kind == "changed outs":
        return f"output {rest}"
    return rest if kind == "changed deps" else reason


def _report_findings(instance: DagsterInstance, state: State, beside: AbstractSet[str]) -> None:
    """Report the findings of `make check` for each asset whose stored result differs."""
    concerned = findings.by_item(state.graph, state.findings)
    for address, item in state.graph.items.items():
        verdicts = findings.verdicts(state.graph.root, concerned.get(address, ()))
        if address in beside or not verdicts:
            continue
        last = checks.last_told(instance, item, findings.CHECK)
        stored = str(last.metadata[checks.FOUND].value) if last else findings.NOTHING
        for evaluation in checks.evaluations(item, verdicts, ""):
            if evaluation.metadata[checks.FOUND].value != stored:
                instance.report_runless_asset_event(evaluation)
