"""The one step that makes whatever assets are selected.

A step for each asset would cost about 2 s of Dagster apiece, and a step for each stage would hold
every item until the whole stage before it is done; a single step knows every edge between items and
keeps all processors busy. The cost: Dagster's timeline shows one bar, and a retry is of the run
(which finds what is done already). Assets still appear one by one, as each is made.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from orchestration import findings
from orchestration.checks import ACROSS, COSTLY, Verdict, look
from orchestration.graph import Graph, GraphBusy, GraphError, Locked, read_lock, read_status
from orchestration.guard import seconds_to_stop
from orchestration.launcher import note_worker
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.progress import Pace, observation, progress_of
from orchestration.running import SECONDS_BETWEEN_TRIES, Finished, Line, Outcome, jobs, make, pools
from orchestration.translation import asset_key, asset_specs
from orchestration.verdicts import check_specs, last_values, reasons_not_made, recall, results

ADVICE = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)
"""What DVC says after every item, for people at a terminal."""
Watcher = Callable[[Line | Finished], None]


def graph_assets(graph: Graph, watch: Watcher) -> AssetsDefinition:
    """Every item as an asset, any of which can be selected."""

    @multi_asset(
        specs=asset_specs(graph), check_specs=check_specs(graph), can_subset=True, name="dvc_repro"
    )
    def dvc_repro(
        context: AssetExecutionContext,
    ) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
        note_worker(context.instance, context.run.run_id, os.getpid())

        def tell(text: str) -> None:
            context.log.info(text)
            watch(Line("", text))

        selected = context.selected_asset_keys
        wanted = {address for address, item in graph.items.items() if asset_key(item) in selected}
        try:
            workers, places, _ = jobs(), pools(graph), seconds_to_stop()
            stale = status_once_free(graph.root, tell)
        except (GraphError, ValueError) as error:
            raise Failure(str(error), allow_retries=False) from None
        left_stale, lock, commit = (
            graph.downstream(stale) - wanted,
            read_lock(graph.root),
            revision(graph.root),
        )
        context.log.info(f"{len(wanted & stale.keys())} of {len(wanted)} items are out of date")
        failed: list[Finished] = []
        found_by_item = concerned(graph, tell)

        def settings(address: str) -> list[Verdict]:
            has_any = findings.has_settings(graph.root)
            return [findings.verdict(found_by_item.get(address, []))] if has_any else []

        verdicts = {
            address: recalled(context.instance, graph, address, lock) + settings(address)
            for item in map(graph.items.__getitem__, wanted)
            for address in item.upstream - wanted
        }
        barred = {address for address, found in verdicts.items() if not holds(found)}
        pace = Pace()

        def accept(finished: Finished) -> bool:
            address, item = finished.address, graph.items[finished.address]
            if finished.outcome is Outcome.UNCHANGED:
                found = recalled(context.instance, graph, address, lock, first=True)
            else:
                found = look(
                    graph.root,
                    item,
                    last_values(context.instance, item),
                    lambda name: name not in ACROSS,
                )
            verdicts[address] = found + settings(address)
            return holds(verdicts[address])

        for event in make(graph, wanted, stale, workers, places, barred, accept, found_by_item):
            watch(event)
            if isinstance(event, Line):
                step = progress_of(event.text)
                due = step is not None and pace.due(event.address, step, time.monotonic())
                if (
                    event.text.strip()
                    and not event.text.lstrip().startswith(ADVICE)
                    and (step is None or due)
                ):
                    context.log.info(f"{event.address}: {event.text}")
                if step is not None and due:
                    context.log_event(
                        observation(asset_key(graph.items[event.address]), step, event.text)
                    )
            elif event.outcome in (Outcome.FAILED, Outcome.SKIPPED):
                failed.append(event)
            else:
                if event.locked is not None:
                    lock[event.address] = event.locked
                shown = describe(
                    graph,
                    event.address,
                    lock,
                    outcome=event.outcome.value,
                    seconds=event.seconds,
                    left_stale=left_stale,
                    revision=commit,
                )
                if unmade := reasons_not_made(verdicts.get(event.address, [])):
                    shown["checks not made"] = MetadataValue.text(unmade)
                yield result(graph, event, shown, verdicts.get(event.address, []))
        for address in [
            address for address in graph.items if address in verdicts.keys() & wanted & lock.keys()
        ]:
            across = look(graph.root, graph.items[address], {}, ACROSS.__contains__)
            yield from results(
                graph.items[address], across, graph.data_version(address, lock[address])
            )
        if failed:
            raise failure(failed, verdicts)

    return dvc_repro


def concerned(graph: Graph, tell: Callable[[str], object]) -> dict[str, list[str]]:
    """The findings of `make check` by item. Each is also passed to `tell`."""
    found = findings.read_findings(graph)
    for text in found:
        tell(f"make check finds: {text}")
    return findings.by_item(graph, found)


def status_once_free(root: Path, tell: Callable[[str], object]) -> dict[str, list[str]]:
    """What is out of date, as soon as no other DVC process holds what is needed to say so. Raises
    GraphError.
    """
    waits = False
    while True:
        try:
            return read_status(root)
        except GraphBusy as busy:
            if not waits:
                tell(f"{busy} Waiting for it to end.")
            waits = True
            time.sleep(SECONDS_BETWEEN_TRIES)


def recalled(
    instance: DagsterInstance,
    graph: Graph,
    address: str,
    lock: Mapping[str, Locked],
    first: bool = False,
) -> list[Verdict]:
    """What holds of an item that is up to date. A costly check that passed for this version of the
    data is not looked at again; one that never was is if this is the first time that it can be told
    of.
    """
    item, locked = graph.items[address], lock.get(address)
    known = recall(instance, item, graph.data_version(address, locked)) if locked else {}
    left_out = {
        name for name in COSTLY if (known[name].passed if name in known else not first)
    } | ACROSS
    looked = look(graph.root, item, last_values(instance, item), lambda name: name not in left_out)
    return looked + [verdict for name, verdict in known.items() if name in left_out]


def holds(verdicts: Sequence[Verdict]) -> bool:
    """Whether anything may be made from the item. A check that was not made keeps nothing back."""
    return all(verdict.passed for verdict in verdicts if verdict.blocking and verdict.made)


def result(
    graph: Graph,
    finished: Finished,
    shown: Mapping[str, MetadataValue[Any]],
    verdicts: list[Verdict],
) -> MaterializeResult[None]:
    """One made item, its version taken from dvc.lock, with what was found of it."""
    locked, item = finished.locked, graph.items[finished.address]
    version = graph.data_version(finished.address, locked) if locked else ""
    return MaterializeResult(
        asset_key=asset_key(item),
        metadata=shown,
        check_results=results(item, verdicts, version),
        data_version=DataVersion(version) if version else None,
    )


def failure(finished: list[Finished], verdicts: Mapping[str, list[Verdict]]) -> Failure:
    """The last lines of what failed, the checks that did not hold, and what was not tried for
    either.
    """
    failed = [event for event in finished if event.outcome is Outcome.FAILED]
    skipped = [event.address for event in finished if event.outcome is Outcome.SKIPPED]
    told = [
        f"{event.address} failed. Its last lines:\n" + "\n".join(event.tail) for event in failed
    ]
    told += [
        f"{address}: check {verdict.name} did not hold: expected {verdict.expected}; found "
        f"{verdict.found}. "
        f"{verdict.advice}"
        for address, found in verdicts.items()
        for verdict in found
        if verdict.blocking and not verdict.passed
    ]
    if skipped:
        told.append(f"Not tried, for they read what failed: {', '.join(skipped)}")
    return Failure(
        "\n\n".join(told),
        metadata={"failed": [event.address for event in failed], "not tried": skipped},
        allow_retries=False,
    )
