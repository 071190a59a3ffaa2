"""Everything Dagster shows and runs, built from dvc.yaml.

dvc.yaml owns the graph, and Dagster gets it whole at load time: assets, jobs, sensors, schedule.
The cost: a change of dvc.yaml needs a reload of the code location. The sensor `outside` asks for
it.
"""

from pathlib import Path

from click import ClickException
from dagster import (
    AssetKey,
    AssetSelection,
    DagsterInvalidDefinitionError,
    Definitions,
    define_asset_job,
    definitions,
)

from orchestration.alerts import failure_sensor
from orchestration.cluster import chosen_executor
from orchestration.experiment import experiment_job
from orchestration.graph import Graph, GraphError, read_graph
from orchestration.home import note_failed_load
from orchestration.running import jobs
from orchestration.sensors import change_sensor, nightly_schedule, truth_sensor
from orchestration.status import stamp
from orchestration.step import Bridge
from orchestration.translation import asset_key, job_name

WHOLE_GRAPH = "whole_graph"


def build_definitions(root: Path) -> Definitions:
    """The definitions of the project in `root`. Raises GraphError.

    Its assets, a job for the whole graph, a job for each stage, the job `experiment`; the sensor
    `changes` and the schedule `nightly` (both off at first), the sensors `outside` and `alerts`.
    """
    # Dagster refuses what DVC allows: a stage called like one of our jobs, a group with a space.
    try:
        return _definitions(graph_now(root))
    except DagsterInvalidDefinitionError as error:
        raise GraphError(f"dvc.yaml: {error} Rename the stage or the group.") from None


_read: dict[Path, tuple[Graph, str]] = {}
"""Project -> its graph, and the stamp of the files that it was read from."""


def graph_now(root: Path) -> Graph:
    """The graph, read from DVC only if a file has changed. Raises GraphError.

    Dagster's commands load the definitions five times in one process, and DVC takes seconds each
    time. The cost: a change while the graph is read is missed here. The sensor `outside` compares
    the graph with the project at each tick, and then asks for a reload.
    """
    if known := _read.get(root):
        graph, mark = known
        if stamp(graph) == mark:
            return graph

    graph = read_graph(root)
    _read[root] = graph, stamp(graph)
    return graph


def _definitions(graph: Graph) -> Definitions:
    bridge = Bridge(graph)
    whole = define_asset_job(
        WHOLE_GRAPH, AssetSelection.all(), description="Every asset that is out of date"
    )

    stages: dict[str, list[AssetKey]] = {}
    for item in graph.items.values():
        stages.setdefault(job_name(item.stage), []).append(asset_key(item))
    of_stages = [
        define_asset_job(stage, AssetSelection.assets(*keys)) for stage, keys in stages.items()
    ]

    return Definitions(
        assets=bridge.assets(),
        jobs=[whole, experiment_job(graph.root), *of_stages],
        sensors=[change_sensor(graph, whole), truth_sensor(graph), failure_sensor()],
        schedules=[nightly_schedule(graph, whole)],
        # `jobs` is passed uncalled, so each run reads the variable NEEDLEWORK_JOBS again.
        executor=chosen_executor(jobs, bridge.scope),
    )


@definitions
def defs() -> Definitions:
    """The project in the current folder, as `dagster dev`, `dg dev` and the like load it."""
    try:
        return build_definitions(Path.cwd())
    except GraphError as error:
        note_failed_load()
        # Dagster's commands show this class without a traceback.
        raise ClickException(str(error)) from None
