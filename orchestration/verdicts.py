"""The checks as Dagster knows them: declared, told of, and remembered.

Apart from checks.py, which knows nothing of Dagster and says what must hold. Each result is stored
with the version of the data that it is about, so that what takes long to look at is looked at once
for each version, and one that failed still fails when the item is up to date and not looked at
again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    DagsterInstance,
    MetadataValue,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from orchestration import findings
from orchestration.checks import ACROSS, BLOCKING, CHECKS, COSTLY, NEEDLE_METRIC, Look, Verdict
from orchestration.graph import Graph, Item
from orchestration.translation import asset_key

VERSION = "data version"
FIRST_VALUE = {"needle_holds": NEEDLE_METRIC}
"""By check, the metric whose first value the second run is compared with."""


def check_specs(graph: Graph, item: Item) -> list[AssetCheckSpec]:
    """The checks that an item's own step makes; what each one means is its own first line."""
    checks = [check for check in CHECKS.get(item.stage, ()) if check.__name__ not in ACROSS]
    specs = [_spec(item, check) for check in checks]
    if findings.has_settings(graph.root):
        specs.append(
            AssetCheckSpec(
                findings.CHECK,
                asset=asset_key(item),
                description=findings.DESCRIPTION,
                blocking=True,
            )
        )
    return specs


def across_specs(graph: Graph) -> dict[str, list[AssetCheckSpec]]:
    """By stage, the checks that hold an item against another of its stage."""
    specs: dict[str, list[AssetCheckSpec]] = {}
    for item in graph.items.values():
        for check in CHECKS.get(item.stage, ()):
            if check.__name__ in ACROSS:
                specs.setdefault(item.stage, []).append(_spec(item, check))
    return specs


def _spec(item: Item, check: Look) -> AssetCheckSpec:
    return AssetCheckSpec(
        check.__name__,
        asset=asset_key(item),
        description=(check.__doc__ or "").splitlines()[0],
        blocking=check.__name__ in BLOCKING,
    )


def last_values(instance: DagsterInstance, item: Item) -> dict[str, float]:
    """By check, the number of the last run that passed it; if none did, that of the first run there
    is.

    The first run has nothing to be compared with, so it is accepted without having passed.
    """
    found = {}
    for check in CHECKS.get(item.stage, ()):
        told = _last(instance, item, check.__name__, {AssetCheckExecutionRecordStatus.SUCCEEDED})
        value = told.metadata.get("value") if told else None
        if value is None and check.__name__ in FIRST_VALUE:
            value = _first(instance, item, FIRST_VALUE[check.__name__])
        if value is not None and isinstance(value.value, float):
            found[check.__name__] = value.value
    return found


def _first(instance: DagsterInstance, item: Item, metric: str) -> MetadataValue[Any] | None:
    """That number of the first materialisation there is."""
    records = instance.fetch_materializations(asset_key(item), limit=1, ascending=True).records
    event = records[0].asset_materialization if records else None
    return event.metadata.get(metric) if event else None


def recall(instance: DagsterInstance, item: Item, version: str) -> dict[str, Verdict]:
    """The last verdict of each costly check, where it is about this version of the data."""
    found = {}
    for name in COSTLY & {check.__name__ for check in CHECKS.get(item.stage, ())}:
        told = last_verdict(instance, item, name, version)
        if told:
            found[name] = told
    return found


def last_verdict(
    instance: DagsterInstance, item: Item, name: str, version: str | None = None
) -> Verdict | None:
    """What a check last said; version: only if that was about this version of the data."""
    told = _last(
        instance,
        item,
        name,
        {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED},
    )
    if told is None:
        return None
    words = {key: str(value.value) for key, value in told.metadata.items()}
    if version is not None and words.get(VERSION) != version:
        return None
    return Verdict(
        name=name,
        passed=told.passed,
        expected=words["expected"],
        found=words["found"],
        advice=words["what to do"],
        blocking=name in BLOCKING,
    )


def _last(
    instance: DagsterInstance, item: Item, name: str, ended: set[AssetCheckExecutionRecordStatus]
) -> AssetCheckEvaluation | None:
    """What was told of a check when it last ended in one of these ways."""
    for record in instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(asset_key(item), name), limit=1, status=ended
    ):
        if record.event and record.event.dagster_event:
            return record.event.dagster_event.asset_check_evaluation_data
    return None


def results(item: Item, verdicts: Sequence[Verdict], version: str) -> list[AssetCheckResult]:
    """What a run found of that version of the data. A check that was not made has no result."""
    return [
        AssetCheckResult(**_shown(asset_key(item), verdict, version))
        for verdict in verdicts
        if verdict.made
    ]


def reasons_not_made(verdicts: Sequence[Verdict]) -> str:
    """Why checks have no result, for the asset's page; "" where all have one."""
    return "\n".join(f"{verdict.name}: {verdict.found}" for verdict in verdicts if not verdict.made)


def evaluations(
    item: Item, verdicts: Sequence[Verdict], version: str
) -> list[AssetCheckEvaluation]:
    """The same of an item that no run of Dagster's made."""
    return [
        AssetCheckEvaluation(**_shown(asset_key(item), verdict, version), blocking=verdict.blocking)
        for verdict in verdicts
        if verdict.made
    ]


def _shown(key: AssetKey, verdict: Verdict, version: str) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {
        "expected": verdict.expected,
        "found": verdict.found,
        "what to do": verdict.advice,
        VERSION: version,
    }
    if verdict.value is not None:
        metadata["value"] = MetadataValue.float(verdict.value)
    return {
        "asset_key": key,
        "check_name": verdict.name,
        "passed": verdict.passed,
        "metadata": metadata,
        "severity": AssetCheckSeverity.ERROR if verdict.blocking else AssetCheckSeverity.WARN,
        "description": f"Expected {verdict.expected}; found {verdict.found}."
        + ("" if verdict.passed else f" {verdict.advice}"),
    }
