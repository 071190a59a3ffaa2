"""The checks as Dagster knows them: declared, told of, and remembered.

Apart from checks.py, which knows nothing of Dagster and says what must hold. Each result is stored with the version of
the data that it is about, so that what takes long to look at is looked at once for each version, and one that failed
still fails when the item is up to date and not looked at again.
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

from orchestration.checks import BLOCKING, CHECKS, COSTLY, Verdict
from orchestration.graph import Graph, Item
from orchestration.translation import asset_key

VERSION = "data version"


def check_specs(graph: Graph) -> list[AssetCheckSpec]:
    """The checks of every item; what each one means is its own first line."""
    return [AssetCheckSpec(check.__name__, asset=asset_key(item), description=(check.__doc__ or "").splitlines()[0],
                           blocking=check.__name__ in BLOCKING)
            for item in graph.items.values() for check in CHECKS.get(item.stage, ())]


def last_values(instance: DagsterInstance, item: Item) -> dict[str, float]:
    """By check, the number of the last run that passed it."""
    found = {}
    for check in CHECKS.get(item.stage, ()):
        told = _last(instance, item, check.__name__, {AssetCheckExecutionRecordStatus.SUCCEEDED})
        value = told.metadata.get("value") if told else None
        if value is not None and isinstance(value.value, float):
            found[check.__name__] = value.value
    return found


def recall(instance: DagsterInstance, item: Item, version: str) -> dict[str, Verdict]:
    """The last verdict of each costly check, where it is about this version of the data."""
    found = {}
    for name in COSTLY & {check.__name__ for check in CHECKS.get(item.stage, ())}:
        told = _last(instance, item, name,
                     {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED})
        words = {key: str(value.value) for key, value in told.metadata.items()} if told else {}
        if told and words.get(VERSION) == version:
            found[name] = Verdict(name=name, passed=told.passed, expected=words["expected"], found=words["found"],
                                  advice=words["what to do"], blocking=name in BLOCKING)
    return found


def _last(instance: DagsterInstance, item: Item, name: str, ended: set[AssetCheckExecutionRecordStatus]
          ) -> AssetCheckEvaluation | None:
    """What was told of a check when it last ended in one of these ways."""
    for record in instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(asset_key(item), name), limit=1, status=ended):
        if record.event and record.event.dagster_event:
            return record.event.dagster_event.asset_check_evaluation_data
    return None


def results(item: Item, verdicts: Sequence[Verdict], version: str) -> list[AssetCheckResult]:
    """What a run found of that version of the data."""
    return [AssetCheckResult(**_shown(asset_key(item), verdict, version)) for verdict in verdicts]


def evaluations(item: Item, verdicts: Sequence[Verdict], version: str) -> list[AssetCheckEvaluation]:
    """The same of an item that no run of Dagster's made."""
    return [AssetCheckEvaluation(**_shown(asset_key(item), verdict, version), blocking=verdict.blocking)
            for verdict in verdicts]


def _shown(key: AssetKey, verdict: Verdict, version: str) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {"expected": verdict.expected, "found": verdict.found, "what to do": verdict.advice,
                                VERSION: version}
    if verdict.value is not None:
        metadata["value"] = MetadataValue.float(verdict.value)
    return {"asset_key": key, "check_name": verdict.name, "passed": verdict.passed, "metadata": metadata,
            "severity": AssetCheckSeverity.ERROR if verdict.blocking else AssetCheckSeverity.WARN,
            "description": f"Expected {verdict.expected}; found {verdict.found}."
                           + ("" if verdict.passed else f" {verdict.advice}")}
