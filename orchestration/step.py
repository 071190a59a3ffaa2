"""The one step that makes whatever assets are selected.

A step for each asset would cost about 2 s of Dagster apiece, and a step for each stage would hold every item until the
whole stage before it is done; a single step knows every edge between items and keeps all processors busy. The cost:
Dagster's timeline shows one bar, and a retry is of the run (which finds what is done already). Assets still appear one
by one, as each is made.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from orchestration.checks import ACROSS, COSTLY, Verdict, look
from orchestration.graph import Graph, GraphBusy, GraphError, read_lock, read_status
from orchestration.launcher import note_worker
from orchestration.lineage import revision
from orchestration.metadata import describe
from orchestration.progress import Pace, observation, progress_of
from orchestration.running import Finished, Line, Outcome, jobs, make
from orchestration.translation import asset_key, asset_specs
from orchestration.verdicts import check_specs, last_values, results

ADVICE = ("To track the changes with git", "git add ", "To enable auto staging", "dvc config core.autostage",
          "Use `dvc push`")
"""What DVC says after every item, for people at a terminal."""
Watcher = Callable[[Line | Finished], None]


def graph_assets(graph: Graph, watch: Watcher) -> AssetsDefinition:
    """Every item as an asset, any of which can be selected."""

    @multi_asset(specs=asset_specs(graph), check_specs=check_specs(graph), can_subset=True, name="dvc_repro")
    def dvc_repro(context: AssetExecutionContext) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
        note_worker(context.instance, context.run.run_id, os.getpid())
        selected = context.selected_asset_keys
        wanted = {address for address, item in graph.items.items() if asset_key(item) in selected}
        try:
            stale = read_status(graph.root)
        except (GraphBusy, GraphError) as error:
            raise Failure(str(error)) from None
        left_stale, lock, commit = graph.downstream(stale) - wanted, read_lock(graph.root), revision(graph.root)
        context.log.info(f"{len(wanted & stale.keys())} of {len(wanted)} items are out of date")
        failed: list[Finished] = []
        verdicts: dict[str, list[Verdict]] = {}
        pace = Pace()

        def accept(finished: Finished) -> bool:
            item = graph.items[finished.address]
            left_out = ACROSS | COSTLY if finished.outcome is Outcome.UNCHANGED else ACROSS
            looked = look(graph.root, item, last_values(context.instance, item), lambda name: name not in left_out)
            verdicts[finished.address] = looked
            return all(verdict.passed for verdict in looked if verdict.blocking)

        for event in make(graph, wanted, stale, jobs(), accept):
            watch(event)
            if isinstance(event, Line):
                if event.text.strip() and not event.text.lstrip().startswith(ADVICE):
                    context.log.info(f"{event.address}: {event.text}")
                step = progress_of(event.text)
                if step is not None and pace.due(event.address, step, time.monotonic()):
                    context.log_event(observation(asset_key(graph.items[event.address]), step, event.text))
            elif event.outcome in (Outcome.FAILED, Outcome.SKIPPED):
                failed.append(event)
            else:
                if event.locked is not None:
                    lock[event.address] = event.locked
                shown = describe(graph, event.address, lock, outcome=event.outcome.value, seconds=event.seconds,
                                 left_stale=left_stale, revision=commit)
                yield result(graph, event, shown, verdicts.get(event.address, []))
        for address in verdicts:
            across = look(graph.root, graph.items[address], {}, ACROSS.__contains__)
            yield from results(graph.items[address], across)
        if failed:
            raise failure(failed, verdicts)

    return dvc_repro


def result(graph: Graph, finished: Finished, shown: Mapping[str, MetadataValue[Any]], verdicts: list[Verdict]
           ) -> MaterializeResult[None]:
    """One made item, its version taken from dvc.lock, with what was found of it."""
    locked, item = finished.locked, graph.items[finished.address]
    return MaterializeResult(
        asset_key=asset_key(item), metadata=shown,
        data_version=DataVersion(graph.data_version(finished.address, locked)) if locked else None,
        check_results=results(item, verdicts))


def failure(finished: list[Finished], verdicts: Mapping[str, list[Verdict]]) -> Failure:
    """The last lines of what failed, the checks that did not hold, and what was not tried for either."""
    failed = [event for event in finished if event.outcome is Outcome.FAILED]
    skipped = [event.address for event in finished if event.outcome is Outcome.SKIPPED]
    told = [f"{event.address} failed. Its last lines:\n" + "\n".join(event.tail) for event in failed]
    told += [f"{address}: check {verdict.name} did not hold: expected {verdict.expected}; found {verdict.found}. "
             f"{verdict.advice}" for address, found in verdicts.items() for verdict in found
             if verdict.blocking and not verdict.passed]
    if skipped:
        told.append(f"Not tried, for they read what failed: {', '.join(skipped)}")
    return Failure("\n\n".join(told), metadata={"failed": [event.address for event in failed], "not tried": skipped},
                   allow_retries=False)
