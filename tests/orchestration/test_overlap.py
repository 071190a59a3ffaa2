"""While one item is made, what has nothing to do with it is made, and told of, as ever."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    build_sensor_context,
)
from dvc_world import dvc, make_world, materialize

from orchestration.active import NotNow, items_of, project_status
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import GraphBusy, read_graph, read_status
from orchestration.outside import report_once
from orchestration.run_request import RUN_KEY

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


def test_a_run_makes_what_it_names_and_a_retry_only_its_steps(tmp_path: Path) -> None:
    graph = read_graph(make_world(tmp_path / "world"))
    book = frozenset([AssetKey(["raw", "book"])])
    for fields, made in (
        ({"job_name": WHOLE_GRAPH}, set(graph.items)),
        ({"job_name": "raw"}, {"raw@book", "raw@c4"}),
        ({"job_name": WHOLE_GRAPH, "asset_selection": book}, {"raw@book"}),
        ({"job_name": WHOLE_GRAPH, "step_keys_to_execute": ["report__all"]}, {"report"}),
        ({"job_name": "raw", "step_keys_to_execute": ["raw__c4"]}, {"raw@c4"}),
    ):
        assert items_of(DagsterRun(run_id="x", **fields), graph) == made
    assert items_of(DagsterRun(run_id="x", job_name=WHOLE_GRAPH), graph, book) == {"raw@book"}


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


def begin(world: Path, instance: DagsterInstance, *keys: str) -> str:
    """A run of these assets, or of all, that counts as active; its id."""
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    selection = frozenset(AssetKey(key.split("/")) for key in keys)
    run = instance.create_run_for_job(
        job, status=DagsterRunStatus.STARTED, asset_selection=selection or None
    )
    return run.run_id


def tick(world: Path, instance: DagsterInstance) -> SensorResult:
    """One tick of the sensor `changes`."""
    definitions = build_definitions(world)
    sensor = definitions.resolve_sensor_def("changes")
    result = sensor(build_sensor_context(instance=instance, definitions=definitions))
    assert isinstance(result, SensorResult)
    return result


def asked(result: SensorResult) -> set[str]:
    """The assets that a tick asks for."""
    requests = result.run_requests or []
    return {key.to_user_string() for request in requests for key in request.asset_selection or []}


def message(result: SensorResult) -> str:
    """Why a tick asks for nothing."""
    assert result.skip_reason is not None
    return result.skip_reason.skip_message or ""


def carry_out(
    world: Path, instance: DagsterInstance, request: RunRequest, status: DagsterRunStatus
) -> None:
    """The run that was asked for, ended in this way without making anything."""
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    assert request.run_key
    instance.create_run_for_job(
        job,
        status=status,
        asset_selection=frozenset(request.asset_selection or []),
        tags={**request.tags, RUN_KEY: request.run_key},
    )


def edit(world: Path, name: str) -> None:
    """Change a source."""
    with (world / "sources" / name / "documents").open("a") as file:
        file.write("another document\n")


@pytest.fixture
def made(world: Path) -> Path:
    """The project with everything made, by DVC alone."""
    (world / "go").touch()
    dvc(world, "repro")
    return world


def test_a_tick_beside_a_run_reports_what_the_run_does_not_make(
    made: Path, instance: DagsterInstance
) -> None:
    begin(made, instance, "raw/book")
    seen = project_status(instance, made)
    assert seen.beside == {"raw@book", "mixed@both", "report"}
    reported = report_once(instance, seen.state, seen.beside)
    assert {key.to_user_string() for key in reported} == {"raw/c4", "mixed/short"}
    begin(made, instance)
    with pytest.raises(NotNow, match="A run is active"):
        project_status(instance, made)


def test_a_tick_beside_a_run_compares_assets_after_a_change(
    made: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(made, instance, "raw/book")
    compared, records = list[int](), instance.get_asset_records

    def counted(keys: list[AssetKey]) -> object:
        compared.append(len(keys))
        return records(keys)

    monkeypatch.setattr(instance, "get_asset_records", counted)
    for _ in range(3):
        tick(made, instance)
    assert compared == [2]
    edit(made, "c4")
    tick(made, instance)
    assert compared == [2, 2]


def test_a_tick_beside_a_run_requests_unrelated_items(
    made: Path, instance: DagsterInstance
) -> None:
    begin(made, instance, "raw/book")
    assert not asked(tick(made, instance))
    for name in ("book", "c4"):
        edit(made, name)
    assert asked(tick(made, instance)) == {"raw/c4", "mixed/short"}
    begin(made, instance, "mixed/short")
    skipped = tick(made, instance)
    assert not asked(skipped), "the run would wait: mixed/short reads raw/c4"
    assert "waits for an active run" in message(skipped)
    begin(made, instance)
    assert message(tick(made, instance)) == "A run is active."


def test_a_failed_item_waits_for_a_change_and_the_rest_runs(
    made: Path, instance: DagsterInstance
) -> None:
    by_hand = instance.get_run_by_id(begin(made, instance, "raw/book"))
    assert by_hand is not None
    edit(made, "c4")
    first = (tick(made, instance).run_requests or [])[0]
    carry_out(made, instance, first, DagsterRunStatus.FAILURE)
    assert not asked(tick(made, instance))
    instance.report_run_canceled(by_hand)
    assert "ended as FAILURE" in message(tick(made, instance))
    (made / "data/raw/book/text").unlink()
    second = tick(made, instance)
    assert asked(second) == {"raw/book"}, "all else reads what failed"
    carry_out(made, instance, (second.run_requests or [])[0], DagsterRunStatus.SUCCESS)
    assert asked(tick(made, instance)) == {"raw/book"}, "a later success releases nothing else"
    edit(made, "book")
    everything = {"raw/book", "raw/c4", "mixed/short", "mixed/both", "report"}
    assert asked(tick(made, instance)) == everything
