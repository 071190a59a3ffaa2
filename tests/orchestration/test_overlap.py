"""While one item is made, what has nothing to do with it is made, and told of, as ever."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dvc_world import dvc, make_world, materialize

from orchestration.automation import NotNow, look, look_beside_runs, report_once
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import GraphBusy, read_status

WAITS = """
import os, time
while item == "book" and not os.path.exists("go"): time.sleep(0.1)
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    root = make_world(tmp_path / "world")
    (root / "stage.py").write_text((root / "stage.py").read_text() + WAITS)
    return root


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as local:
        yield local


def test_runs_of_disjoint_items_overlap(world: Path, instance: DagsterInstance) -> None:
    begun, outcomes = Event(), list[str]()

    def make_book() -> None:
        job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
        _, events = run_here(job, instance, [AssetKey(["raw", "book"])])
        for event in events:
            if event.is_step_start:
                begun.set()
            if event.is_step_failure or event.is_run_failure:
                outcomes.append(str(event.event_specific_data))
        outcomes.append(event.event_type_value)

    run = Thread(target=make_book)
    run.start()
    begun.wait()
    while "raw@book" not in busy(world):
        pass
    seen, other = materialize(world, instance, "raw/c4", "mixed/short")
    assert other.success and seen == {"raw@c4": "ran", "mixed@short": "ran"}
    assert not outcomes  # the first one is still at work
    (world / "go").touch()
    run.join()
    assert outcomes == ["PIPELINE_SUCCESS"]
    with pytest.raises(KeyError):
        read_status(world)["raw@book"]


def busy(world: Path) -> set[str]:
    """What another process makes, or reads from."""
    found = set[str]()
    try:
        read_status(world, found)
    except GraphBusy:
        return set()
    return found


def test_a_tick_beside_a_run_tells_of_what_the_run_does_not_make(
    world: Path, instance: DagsterInstance
) -> None:
    (world / "go").touch()
    dvc(world, "repro")
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    selection = frozenset({AssetKey(["raw", "book"])})
    instance.create_run_for_job(job, status=DagsterRunStatus.STARTED, asset_selection=selection)
    state, beside = look_beside_runs(instance, world)
    assert beside == {"raw@book", "mixed@both", "report"}
    told = report_once(instance, state, beside)
    assert {key.to_user_string() for key in told} == {"raw/c4", "mixed/short"}
    with pytest.raises(NotNow, match="A run is active"):
        look(instance, world)  # of the sensor that would start another
    instance.create_run_for_job(job, status=DagsterRunStatus.STARTED)
    with pytest.raises(NotNow, match="A run is active"):
        look_beside_runs(instance, world)
