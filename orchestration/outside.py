"""Report to Dagster what was made or lost outside it, so that the UI's marks agree with DVC.

A lost output, a fault in params.yaml and a project that can't be read fail the check `in_order` of
the assets that they concern, so their nodes are red.

DVC decides what an asset is made from; Dagster only knows what was reported. So the comparison
covers the data, the code and the inputs of each asset. With the data alone, an asset that new code
made again with the same bytes would stay marked as outdated. The cost: reading the last
materialisation of every asset, pictures included. So the comparison follows changes only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from orchestration.graph import IN_ORDER, Graph, Item, Locked, overlap
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.pictures import beside_the_logs
from orchestration.status import State
from orchestration.translation import asset_key

OUTSIDE = "outside"
UNKNOWN_VERSION = "unknown"
LOST = "output lost"
OUT_OF_DATE, NOT_ANY_MORE = "out of date", "no longer"
"""Key of an observation's metadata, and its value once the asset is up to date again."""
UNLOCKED = "not in dvc.lock"
DATA_VERSION, CODE_VERSION = "dagster/data_version", "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version/"
NOTHING: AbstractSet[str] = frozenset()

_reported: dict[Path, tuple[object, ...]] = {}
"""Project -> the mark of the last report."""


def report_once(
    instance: DagsterInstance, state: State, beside: AbstractSet[str] = NOTHING
) -> list[AssetKey]:
    """Report the state, unless it was reported and no event of an asset has followed.

    beside: items to leave out. Returns the assets whose materialisation was reported.
    """
    root = state.graph.root
    if _reported.get(root) == _mark(instance, state, beside):
        return []

    reported = report_outside_state(instance, state.graph, state.lock, state.stale, beside)
    _report_reasons(instance, state, beside)
    _report_order(instance, state, beside, reported)
    _reported[root] = _mark(instance, state, beside)
    return reported


def report_broken(instance: DagsterInstance, graph: Graph, cause: str) -> None:
    """Report on every asset that the project can't be read, unless it was reported.

    graph: the last that could be read. cause: a text for the user, with advice.
    """
    if _reported.get(graph.root) == _mark(instance, cause, NOTHING):
        return
    for item in graph.items.values():
        _report_check(instance, item, checks.in_order([cause]))
    _reported[graph.root] = _mark(instance, cause, NOTHING)


def _mark(
    instance: DagsterInstance, what: State | str, beside: AbstractSet[str]
) -> tuple[object, ...]:
    """What is reported, the items left out of it, the database, and its newest event."""
    # Every SQL storage has an id.
    database = instance.run_storage.get_run_storage_id()  # type: ignore[attr-defined]
    last = _last_event(instance, beside)
    # Without numbers nothing counts as reported: no two such marks are equal.
    return what, beside, database, object() if last is None else last


def _last_event(instance: DagsterInstance, beside: AbstractSet[str]) -> int | None:
    """Number of the newest asset event. None if there is none or the storage does not number them.

    beside: items of active runs. The number is 0 if there are any.
    """
    # A run adds events all the time, but none about the items that are compared meanwhile.
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
    """Report each asset whose provenance differs from its last materialisation. Returns their keys.

    These are: what was made without Dagster (`dvc repro`, `dvc checkout`, `dvc pull`, `dvc exp
    apply`), outputs that are gone or altered, and assets that dvc.lock no longer names (a commit
    from before they were made).
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
            lost = ", ".join(_lost(graph, address, lock, stale.get(address, ())))
            words, shown = f"No longer as it was made: {lost}", _of_lost(address, lost)
        else:
            # Before the materialisation: a check must not compare the item with itself.
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


def _lost(
    graph: Graph, address: str, lock: Mapping[str, Locked], reasons: Sequence[str]
) -> list[str]:
    """How the outputs of an item are gone or altered, in plain words."""
    if address not in lock:
        return ["dvc.lock does not name it"]
    outs = [reason for reason in reasons if reason.startswith("changed outs")]
    return preview.plain(graph.items[address], outs, lock[address], graph)


def _of_lost(address: str, lost: str) -> dict[str, Any]:
    """The metadata of an asset whose output is gone."""
    return {
        "outcome": MetadataValue.text("lost: the output is gone or altered"),
        "why": MetadataValue.text(lost),
        "what to do": MetadataValue.text(_way_back(address)),
    }


def _way_back(address: str) -> str:
    return f"dvc checkout {address}, or make it again"


def provenance(
    graph: Graph, address: str, lock: Mapping[str, Locked], reasons: Sequence[str]
) -> dict[str, str]:
    """The tags from which Dagster derives what an asset was made from, according to dvc.lock."""
    locked = lock.get(address)
    if locked is None:
        return {DATA_VERSION: UNLOCKED, CODE_VERSION: LOST}

    # Dagster has no mark for a lost output. A code version that no code has makes it out of date.
    lost = _lost(graph, address, lock, reasons)
    tags = {
        DATA_VERSION: graph.data_version(address, locked),
        "dagster/data_version_is_user_provided": "true",
        CODE_VERSION: LOST if lost else graph.locked_code_version(locked),
    }
    for upstream in sorted(graph.items[address].upstream):
        key = asset_key(graph.items[upstream]).to_user_string()
        there = graph.data_version(upstream, lock[upstream]) if upstream in lock else UNLOCKED
        altered = _is_altered(_read_from(graph, upstream, locked), reasons)
        tags[INPUT_VERSION + key] = UNKNOWN_VERSION if altered else there
        # Dagster's word for an input that no event of its own reported.
        tags[f"dagster/input_event_pointer/{key}"] = "NULL"
    return tags


def _is_altered(paths: Iterable[str], reasons: Sequence[str]) -> bool:
    """Whether one of DVC's reasons is about one of these dependencies."""
    # The space after the path: data/a is no part of data/ab.
    starts = tuple(f"changed deps: {path} " for path in paths)
    return any(f"{reason} ".startswith(starts) for reason in reasons)


def _read_from(graph: Graph, upstream: str, locked: Locked) -> Iterator[str]:
    """The dependency paths through which an item reads the outputs of `upstream`."""
    outputs = graph.items[upstream].outputs
    for path in locked.dependencies:
        if any(overlap(path, out) for out in outputs):
            yield path.rstrip("/")


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that are compared: all but the events through which inputs were seen."""
    return {
        name: value
        for name, value in tags.items()
        if name in (DATA_VERSION, CODE_VERSION) or name.startswith(INPUT_VERSION)
    }


def _report_reasons(instance: DagsterInstance, state: State, beside: AbstractSet[str]) -> None:
    """Report which file or parameter made an asset out of date, and that it no longer is.

    Dagster's own mark only says "code" or "upstream data".
    """
    for address, item in state.graph.items.items():
        if address in beside:
            continue
        key = asset_key(item)
        records = instance.fetch_observations(key, limit=1).records
        last = records[0].asset_observation if records else None
        before = last.metadata.get(OUT_OF_DATE) if last else None
        shown = str(before.value) if before else ""
        now = ""
        if reasons := state.stale.get(address):
            locked = state.lock.get(address)
            now = "; ".join(preview.plain(item, reasons, locked, state.graph))

        # One query for each asset, so only for those that have or had a reason.
        made = instance.get_latest_materialization_event(key) if now or shown else None
        if made is None:
            continue
        # A newer materialisation hides the observation on the asset's page.
        if shown and made.timestamp > records[0].timestamp:
            shown = ""
        if shown == now or (not now and shown in ("", NOT_ANY_MORE)):
            continue
        text = MetadataValue.text(now or NOT_ANY_MORE)
        instance.report_runless_asset_event(AssetObservation(key, metadata={OUT_OF_DATE: text}))


def _report_order(
    instance: DagsterInstance,
    state: State,
    beside: AbstractSet[str],
    reported: Sequence[AssetKey],
) -> None:
    """Report the check `in_order` of each asset: lost outputs, and the findings of `make check`.

    reported: assets with a new materialisation, which needs a result of its own.
    """
    faults = findings.by_item(state.graph, state.findings)
    for address, item in state.graph.items.items():
        if address in beside:
            continue
        key, locked = asset_key(item), state.lock.get(address)
        lost = _lost(state.graph, address, state.lock, state.stale.get(address, ()))
        # An asset that was never made has lost nothing.
        if lost and instance.get_latest_materialization_event(key) is None:
            lost = []

        causes = [f"{cause}." for cause in lost]
        advice = [f"{_way_back(address)}."] if lost else []
        if found := faults.get(address):
            causes += found
            advice.append(findings.ADVICE)
        verdict = checks.in_order(causes, " ".join(advice))
        version = state.graph.data_version(address, locked) if locked else ""
        _report_check(instance, item, verdict, version, key in reported)


def _report_check(
    instance: DagsterInstance,
    item: Item,
    verdict: checks.Verdict,
    version: str = "",
    always: bool = False,
) -> None:
    """Report the check `in_order` if its stored result differs, or always."""
    last = checks.last_reported(instance, item, IN_ORDER)
    stored = checks.noted(last, checks.FOUND) if last else checks.NO_FAULT
    if always or stored != verdict.found:
        for evaluation in checks.evaluations(item, [verdict], version):
            instance.report_runless_asset_event(evaluation)
