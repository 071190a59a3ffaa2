"""What stages found out about their artefacts, in Dagster's words.

A stage checks its own artefact and writes the findings into it as checks.json. dvc.yaml declares
them (`meta: checks`), so Dagster knows their names before anything is made, and here they are only
read. So they cost a small file an item, and stay true without a run: what failed still fails, and
what DVC brought back has its findings with it. An artefact from before there were such files has
no result.

One kind of check is made here, for it needs history: a declared `metric` may be at most `fall` below
the last run that was accepted. Each result is stored with the version of the data, so that an alert
is sent once for each version.
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
from orchestration.graph import DeclaredCheck, Item
from orchestration.metadata import is_number, numbers
from orchestration.translation import asset_key

FOUND, VERSION, VALUE = "found", "data version", "value"
"""In the metadata of a result."""
AGAIN = "Make it again: python -m orchestration.repro --force {}"
PASSED = {AssetCheckExecutionRecordStatus.SUCCEEDED}
ENDED = PASSED | {AssetCheckExecutionRecordStatus.FAILED}


@dataclass(frozen=True, kw_only=True)
class Verdict(Check):
    """A result, of a stage or from history."""

    value: float | None = None
    """A number to compare the next run with."""


def check_specs(item: Item) -> list[AssetCheckSpec]:
    """The checks that dvc.yaml declares for an item."""
    return [
        AssetCheckSpec(
            name,
            asset=asset_key(item),
            description=declared.description or None,
            blocking=declared.blocking,
        )
        for name, declared in item.checks.items()
    ]


def verdicts_of(instance: DagsterInstance, root: Path, item: Item) -> list[Verdict]:
    """All that holds of an item as it lies there now. To be asked before its materialisation is
    stored: a metric would be compared with itself."""
    compared = [
        compared_with_last(instance, root, item, name, declared)
        for name, declared in item.checks.items()
        if declared.metric
    ]
    return read_checks(root, item) + compared


def read_checks(root: Path, item: Item) -> list[Verdict]:
    """What the stage wrote, of the checks that dvc.yaml declares; nothing if it wrote no file. All
    of them fail if the file can't be read."""
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
    """Whether a metric is about as high as in the last accepted run."""
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

    The first run has nothing to be compared with, so it is accepted without having passed.
    """
    last = last_told(instance, item, name, PASSED)
    shown = last.metadata.get(VALUE) if last else None
    if shown is None:
        records = instance.fetch_materializations(asset_key(item), limit=1, ascending=True).records
        event = records[0].asset_materialization if records else None
        shown = event.metadata.get(metric) if event else None
    value = shown.value if shown else None
    return value if is_number(value) else None


def last_told(
    instance: DagsterInstance,
    item: Item,
    name: str,
    ended: set[AssetCheckExecutionRecordStatus] = ENDED,
) -> AssetCheckEvaluation | None:
    """What Dagster stored of a check when it last ended in one of these ways."""
    for record in instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(asset_key(item), name), limit=1, status=ended
    ):
        if record.event and record.event.dagster_event:
            return record.event.dagster_event.asset_check_evaluation_data
    return None


def newly_failed(
    instance: DagsterInstance, item: Item, verdicts: Sequence[Verdict], version: str
) -> list[Verdict]:
    """The checks that fail, and did not yet for this version of the data. To be asked before the
    verdicts are stored."""

    def known(name: str) -> bool:
        last = last_told(instance, item, name)
        return bool(last and not last.passed and last.metadata[VERSION].value == version)

    return [verdict for verdict in verdicts if verdict.failed and not known(verdict.name)]


def results(item: Item, verdicts: Sequence[Verdict], version: str) -> list[AssetCheckResult]:
    """The results of a step. A check that was not made has none."""
    made = [verdict for verdict in verdicts if verdict.passed is not None]
    return [AssetCheckResult(**_shown(item, verdict, version)) for verdict in made]


def evaluations(
    item: Item, verdicts: Sequence[Verdict], version: str
) -> list[AssetCheckEvaluation]:
    """The same for an item that was made outside Dagster."""
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
        "description": f"{words} {verdict.advice}" if verdict.failed else words,
    }


def reasons_not_made(verdicts: Sequence[Verdict]) -> str:
    """Why checks have no result, for the asset's page; "" if all have one."""
    return "\n".join(f"{each.name}: {each.found}" for each in verdicts if each.passed is None)


def what_blocks(verdicts: Sequence[Verdict]) -> str:
    """The failed checks because of which nothing is made from the item, a line each; "" if none."""
    blocking = [each for each in verdicts if each.blocking and each.failed]
    return "\n".join(f"Check {each.name} failed: {each}" for each in blocking)
