"""The one step that makes whatever assets are selected.

A step for each asset would cost about 2 s of Dagster apiece, and a step for each stage would hold every item until the
whole stage before it is done; a single step knows every edge between items and keeps all processors busy. The cost:
Dagster's timeline shows one bar, and a retry is of the run (which finds what is done already). Assets still appear one
by one, as each is made.
"""

from collections.abc import Callable, Iterator

from dagster import AssetExecutionContext, AssetsDefinition, DataVersion, Failure, MaterializeResult, multi_asset

from orchestration.graph import Graph, GraphBusy, GraphError, read_status
from orchestration.metadata import describe
from orchestration.running import Finished, Line, Outcome, jobs, make
from orchestration.translation import asset_key, asset_specs

Watcher = Callable[[Line | Finished], None]


def graph_assets(graph: Graph, watch: Watcher) -> AssetsDefinition:
    """Every item as an asset, any of which can be selected."""

    @multi_asset(specs=asset_specs(graph), can_subset=True, name="dvc_repro")
    def dvc_repro(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
        selected = context.selected_asset_keys
        wanted = {address for address, item in graph.items.items() if asset_key(item) in selected}
        try:
            stale = read_status(graph.root)
        except (GraphBusy, GraphError) as error:
            raise Failure(str(error)) from None
        left_stale = graph.downstream(stale) - wanted
        context.log.info(f"{len(wanted & stale.keys())} of {len(wanted)} items are out of date")
        failed: list[Finished] = []
        for event in make(graph, wanted, stale, jobs()):
            watch(event)
            if isinstance(event, Line):
                context.log.info(f"{event.address}: {event.text}")
            elif event.outcome in (Outcome.FAILED, Outcome.SKIPPED):
                failed.append(event)
            else:
                yield result(graph, event, sorted(graph.items[event.address].upstream & left_stale))
        if failed:
            raise failure(failed)

    return dvc_repro


def result(graph: Graph, finished: Finished, stale_upstream: list[str]) -> MaterializeResult[None]:
    """One made item, its version taken from dvc.lock."""
    locked = finished.locked
    return MaterializeResult(
        asset_key=asset_key(graph.items[finished.address]),
        metadata=describe(graph, finished, stale_upstream),
        data_version=DataVersion(graph.data_version(finished.address, locked)) if locked else None,
    )


def failure(finished: list[Finished]) -> Failure:
    """The last lines of what failed, and what was not tried for it."""
    failed = [event for event in finished if event.outcome is Outcome.FAILED]
    skipped = [event.address for event in finished if event.outcome is Outcome.SKIPPED]
    told = [f"{event.address} failed. Its last lines:\n" + "\n".join(event.tail) for event in failed]
    if skipped:
        told.append(f"Not tried, for they read what failed: {', '.join(skipped)}")
    return Failure("\n\n".join(told), metadata={"failed": [event.address for event in failed], "not tried": skipped},
                   allow_retries=False)
