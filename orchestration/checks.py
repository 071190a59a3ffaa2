"""Asset checks: the results that stages wrote about their artefacts, for Dagster.

A stage checks its own artefact and writes the results into it as checks.json. dvc.yaml declares the
checks (`meta: checks`), so Dagster knows their names before the first run. This module only reads
them. The cost is a small file for each item. The results hold without a run: a failed check still
fails, and an artefact that DVC restored brings its results. An old artefact without the file has no
result.

Two kinds of check run here. A declared `metric` may be at most `fall` below the last accepted run,
which needs history. And every asset has the check `in_order`: it fails if the output was lost or
changed outside (outside.py), if `make check` finds a fault (findings.py), or if the project can't
be read. Dagster colours the node of an asset by its checks alone, so without it a lost output would
stay green. Each result is stored with the data version, so each version causes one alert.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    DagsterInstance,
    MetadataValue,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from core.checks import CHECKS, Check
from orchestration.graph import IN_ORDER, DeclaredCheck, Item
from orchestration.metadata import is_number, numbers
from orchestration.translation import asset_key

# Keys in the metadata of a result. Stored results have them too, so a new name loses the history.
FOUND, VERSION, VALUE = "found", "data version", "value"
AGAIN = "Make it again: python -m orchestration.repro --force {}"
PASSED = {AssetCheckExecutionRecordStatus.SUCCEEDED}
ENDED = PASSED | {AssetCheckExecutionRecordStatus.FAILED}
DESCRIPTION = "The output is as it was made, and make check finds no fault in its settings."
NO_FAULT = "no fault"
"""The result of the check `in_order` if it passed."""


@dataclass(frozen=True, kw_only=True)
class Verdict(Check):
    """The result of one check, from a stage or from history."""

    value: float | None = None
    """A number to compare the next run with."""


def check_specs(item: Item) -> list[AssetCheckSpec]:
    """The check `in_order`, and those that dvc.yaml declares for an item."""
    ours = DeclaredCheck(description=DESCRIPTION, blocking=True)
    return [
        AssetCheckSpec(
            name,
            asset=asset_key(item),
            description=declared.description or None,
            blocking=declared.blocking,
        )
        for name, declared in {IN_ORDER: ours, **item.checks}.items()
    ]


def in_order(faults: Sequence[str], advice: str = "") -> Verdict:
    """The result of the check that every asset has. faults: sentences; it passes without any."""
    return Verdict(
        name=IN_ORDER,
        passed=not faults,
        expected="the output as it was made, and settings without a fault",
        found=" ".join(faults).rstrip(".") or NO_FAULT,
        advice=advice,
    )


def verdicts_of(instance: DagsterInstance, root: Path, item: Item) -> list[Verdict]:
    """The results of all checks of an item, for its artefact as it is now."""
    # Call this before the materialisation is stored, or a metric is compared with itself.
    compared = [
        compared_with_last(instance, root, item, name, declared)
        for name, declared in item.checks.items()
        if declared.metric
    ]
    return read_checks(root, item) + compared


def read_checks(root: Path, item: Item) -> list[Verdict]:
    """The results that the stage wrote, for the checks that dvc.yaml declares.

    Empty if the stage wrote no file. Every check fails if the file can't be read.
    """
    written = {name: each for name, each in item.checks.items() if not each.metric}
    # Among the outputs are folders and metrics files; only a folder can hold it.
    path = next((path for out in item.outputs if (path := root / out / CHECKS).is_file()), None)
    if not written or path is None:
        return []

    try:
        entries = {entry["name"]: entry for entry in json.loads(path.read_text())}
        return [
            # Dagster blocks by the declaration, so the page must say the same.
            Verdict(**entries[name] | {"blocking": declared.blocking})
            for name, declared in written.items()
            if name in entries
        ]
    except (OSError, ValueError, TypeError, LookupError) as error:
        return [
            Verdict(
                name=name,
                passed=False,
                expected=f"a result in {path}",
                found=f"{type(error).__name__}: {error}",
                advice=AGAIN.format(item.address),
                blocking=declared.blocking,
            )
            for name, declared in written.items()
        ]


def compared_with_last(
    instance: DagsterInstance, root: Path, item: Item, name: str, declared: DeclaredCheck
) -> Verdict:
    """Check that a metric has fallen by at most `declared.fall` since the last accepted run."""
    verdict = partial(Verdict, name=name, blocking=declared.blocking)
    metric = declared.metric
    now = dict(numbers(root / item.metrics[0])).get(metric, "missing")
    then = last_value(instance, item, name, metric)

    # A model behind an endpoint writes null: it gives no probabilities.
    if now is None:
        return verdict(
            passed=None, expected=metric, found=f"this model has no {metric}: nothing to compare"
        )
    if not is_number(now):
        again = AGAIN.format(item.address)
        return verdict(passed=False, expected=f"a number {metric}", found=str(now), advice=again)
    if then is None:
        first = f"no earlier run to compare with; the next one is compared with {now:.3f}"
        return verdict(passed=None, expected=metric, found=first)

    least = then - declared.fall
    return verdict(
        passed=now >= least,
        expected=f"at least {least:.3f}",
        found=f"{now:.3f}",
        advice="Compare the two runs' parameters and data versions on this asset's page.",
        value=float(now),
    )


def last_value(instance: DagsterInstance, item: Item, name: str, metric: str) -> float | None:
    """The number of the last run that passed the check; if none did, the metric of the first run.

    The first run has nothing to compare with, so it is accepted without a result.
    """
    last = last_reported(instance, item, name, PASSED)
    shown = last.metadata.get(VALUE) if last else None

    if shown is None:
        records = instance.fetch_materializations(asset_key(item), limit=1, ascending=True).records
        event = records[0].asset_materialization if records else None
        shown = event.metadata.get(metric) if event else None

    # Dagster's metadata may hold any type under this key.
    value = shown.value if shown else None
    return value if is_number(value) else None


def last_reported(
    instance: DagsterInstance,
    item: Item,
    name: str,
    ended: set[AssetCheckExecutionRecordStatus] = ENDED,
) -> AssetCheckEvaluation | None:
    """The last result of a check that Dagster stored with one of these statuses."""
    # A check that is planned in a running run has a record too, without a result.
    for record in instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(asset_key(item), name), limit=1, status=ended
    ):
        if record.event and record.event.dagster_event:
            return record.event.dagster_event.asset_check_evaluation_data
    return None


def noted(result: AssetCheckEvaluation, key: str) -> str:
    """A text in the metadata of a stored result. "" if it has none, as in one of an old version."""
    entry = result.metadata.get(key)
    return str(entry.value) if entry else ""


def newly_failed(
    instance: DagsterInstance, item: Item, verdicts: Sequence[Verdict], version: str
) -> list[Verdict]:
    """The checks that fail for the first time for this data version."""

    # Call this before the verdicts are stored, or every failure counts as known.
    def known(name: str) -> bool:
        last = last_reported(instance, item, name)
        return bool(last and not last.passed and noted(last, VERSION) == version)

    return [verdict for verdict in verdicts if verdict.failed and not known(verdict.name)]


def results(item: Item, verdicts: Sequence[Verdict], version: str) -> list[AssetCheckResult]:
    """The results for a step. A check without a result is left out."""
    made = [verdict for verdict in verdicts if verdict.passed is not None]
    return [AssetCheckResult(**_shown(item, verdict, version)) for verdict in made]


def evaluations(
    item: Item, verdicts: Sequence[Verdict], version: str
) -> list[AssetCheckEvaluation]:
    """The same results for an item that was made outside Dagster."""
    made = [verdict for verdict in verdicts if verdict.passed is not None]
    return [AssetCheckEvaluation(**_shown(item, verdict, version)) for verdict in made]


def _shown(item: Item, verdict: Verdict, version: str) -> Mapping[str, Any]:
    words = f"Expected {verdict.expected}; found {verdict.found}."
    metadata: dict[str, Any] = {
        "expected": verdict.expected,
        FOUND: verdict.found,
        "what to do": verdict.advice,
        VERSION: version,
    }
    if verdict.value is not None:
        metadata[VALUE] = MetadataValue.float(verdict.value)

    return {
        "asset_key": asset_key(item),
        "check_name": verdict.name,
        "passed": bool(verdict.passed),
        "metadata": metadata,
        "severity": AssetCheckSeverity.ERROR if verdict.blocking else AssetCheckSeverity.WARN,
        "description": f"{words} {verdict.advice}".rstrip() if verdict.failed else words,
    }


def reasons_not_made(verdicts: Sequence[Verdict]) -> str:
    """Why checks have no result, for the asset's page; "" if all have one."""
    return "\n".join(f"{each.name}: {each.found}" for each in verdicts if each.passed is None)


def what_blocks(verdicts: Sequence[Verdict]) -> str:
    """The failed checks that block everything downstream of the item, a line each; "" if none."""
    blocking = [each for each in verdicts if each.blocking and each.failed]
    return "\n".join(f"Check {each.name} failed: {each}" for each in blocking)
