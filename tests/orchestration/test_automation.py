"""Change sensor and nightly schedule ask for exactly what is out of date, and repeat no failed run
until something changes; a profile is put in place whole or not at all.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    RunsFilter,
    SensorResult,
    build_schedule_context,
    build_sensor_context,
)
from dvc_world import PARAMS as TWO_RECIPES
from dvc_world import dvc, empty_repository, git, make_world

from core.environment import RELOAD
from orchestration.active import READING
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import GraphError, read_graph, read_status
from orchestration.hub_pins import move_pins, printed
from orchestration.profile import put_in_place
from orchestration.run_request import LEFT

pytestmark = pytest.mark.slow

GRAPH = """
stages:
  copy:
    foreach: ${copy.domains}
    do:
      cmd: test ! -e disk-is-full && rm -rf data/copy/${key} && cp -r ${item.source} data/copy/${key}
      deps: ["${item.source}"]
      outs: [{"data/copy/${key}": {persist: true}}]
"""
PARAMS = "copy: {domains: {book: {source: sources/book}, c4: {source: sources/c4}}}\n"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A made world of two domains."""
    for name in ("book", "c4"):
        (tmp_path / "sources" / name).mkdir(parents=True)
        (tmp_path / "sources" / name / "documents").write_text(name)
    (tmp_path / "data" / "copy").mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text(PARAMS)
    shutil.copytree(empty_repository(scm=False), tmp_path, dirs_exist_ok=True)
    dvc(tmp_path, "repro", "--quiet")
    return tmp_path


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Dagster without a run; on disk, as a schedule needs it."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


def tick(
    world: Path, instance: DagsterInstance, definitions: Definitions | None = None
) -> SensorResult:
    """One look of the sensor; `definitions`: as the project was when it was loaded, if not just
    now.
    """
    definitions = definitions or build_definitions(world)
    sensor = definitions.resolve_sensor_def("changes")
    result = sensor(build_sensor_context(instance=instance, definitions=definitions))
    assert isinstance(result, SensorResult)
    return result


def night(world: Path, instance: DagsterInstance) -> RunRequest | None:
    """What the nightly schedule asks for."""
    answer = build_definitions(world).resolve_schedule_def("nightly")(
        build_schedule_context(instance=instance)
    )
    return answer if isinstance(answer, RunRequest) else None


def asked(result: SensorResult | RunRequest | None) -> set[str]:
    """The assets of the one run that is asked for, "copy/book"; none if no run is."""
    requests = (
        list(result.run_requests or [])
        if isinstance(result, SensorResult)
        else [result]
        if result
        else []
    )
    assert len(requests) <= 1
    return {key.to_user_string() for request in requests for key in request.asset_selection or []}


def carry_out(
    world: Path, instance: DagsterInstance, result: SensorResult | RunRequest | None
) -> bool:
    """The run that is asked for, as Dagster makes it: not with a key that a run has had. Whether it
    succeeded.
    """
    request = (result.run_requests or [])[0] if isinstance(result, SensorResult) else result
    assert request is not None and request.run_key
    tags = {**request.tags, "dagster/run_key": request.run_key}
    assert not instance.get_runs(RunsFilter(tags={"dagster/run_key": request.run_key}))
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    return job.execute_in_process(
        instance=instance, tags=tags, asset_selection=request.asset_selection, raise_on_error=False
    ).success


def change(world: Path, name: str, text: str) -> None:
    """A source's text."""
    (world / "sources" / name / "documents").write_text(text)


def fail(world: Path, instance: DagsterInstance) -> None:
    """A run for a change of book that failed for a reason outside the project, which has passed."""
    change(world, "book", "x")
    (world / "disk-is-full").touch()
    assert not carry_out(world, instance, tick(world, instance))
    (world / "disk-is-full").unlink()


def test_every_change_and_its_undoing_brings_a_run(world: Path, instance: DagsterInstance) -> None:
    result = tick(world, instance)
    assert not result.run_requests and result.skip_reason is not None
    for text in ("x", "y", "x"):
        change(world, "book", text)
        result = tick(world, instance)
        assert asked(result) == {"copy/book"} and carry_out(world, instance, result)
        assert not asked(tick(world, instance)) and not read_status(world)


def test_a_change_without_a_run_is_asked_for_with_the_same_key(
    world: Path, instance: DagsterInstance
) -> None:
    change(world, "book", "x")
    keys = {
        request.run_key for _ in range(2) for request in tick(world, instance).run_requests or []
    }
    assert len(keys) == 1, "two daemons, or one that died in between, would start two runs"


@pytest.mark.parametrize("first, second", [("sensor", "schedule"), ("schedule", "sensor")])
def test_neither_sensor_nor_schedule_repeats_a_failed_run(
    world: Path, instance: DagsterInstance, first: str, second: str
) -> None:
    look = {"sensor": tick, "schedule": night}
    change(world, "book", "x")
    (world / "disk-is-full").touch()
    assert not carry_out(world, instance, look[first](world, instance))
    assert not asked(look[second](world, instance)) and not asked(look[first](world, instance))
    skip = tick(world, instance).skip_reason
    assert skip is not None and "ended as FAILURE" in (skip.skip_message or "")
    change(world, "book", "y")
    assert asked(look[second](world, instance)) == {"copy/book"}


@pytest.mark.parametrize("way", ["sensor", "schedule"])
def test_a_change_that_failed_runs_again_when_it_comes_back(
    world: Path, instance: DagsterInstance, way: str
) -> None:
    look = {"sensor": tick, "schedule": night}[way]
    fail(world, instance)
    for text in ("y", "x"):
        change(world, "book", text)
        assert carry_out(world, instance, look(world, instance))


def test_a_change_back_after_a_failed_run_and_an_idle_look_runs(
    world: Path, instance: DagsterInstance
) -> None:
    fail(world, instance)
    assert not asked(tick(world, instance))
    change(world, "book", "book")
    assert not read_status(world) and not asked(tick(world, instance))
    change(world, "book", "x")
    assert asked(tick(world, instance)) == {"copy/book"}


def test_an_output_lost_after_a_repair_by_hand_is_brought_back(
    world: Path, instance: DagsterInstance
) -> None:
    fail(world, instance)
    assert not asked(tick(world, instance))
    dvc(world, "repro")
    assert not asked(tick(world, instance))
    for _ in range(2):
        shutil.rmtree(world / "data/copy/book")
        result = tick(world, instance)
        assert asked(result) == {"copy/book"} and carry_out(world, instance, result)


@pytest.mark.parametrize("noticed_by", ["changes", "outside", "nightly"])
def test_an_output_lost_after_a_failed_run_is_brought_back_once(
    world: Path, instance: DagsterInstance, noticed_by: str
) -> None:
    fail(world, instance)
    definitions = build_definitions(world)
    if noticed_by == "nightly":
        night(world, instance)
    else:
        definitions.resolve_sensor_def(noticed_by)(
            build_sensor_context(instance, definitions=definitions)
        )
    (world / "disk-is-full").touch()
    shutil.rmtree(world / "data/copy/c4")
    result = tick(world, instance)
    assert asked(result) == {"copy/c4"}, "what failed waits for a change"
    assert carry_out(world, instance, result)
    assert set(read_status(world)) == {"copy@book"}
    assert not asked(tick(world, instance)) and not asked(night(world, instance))


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_a_retry_that_ended_badly_too_is_not_repeated(
    world: Path, instance: DagsterInstance, status: DagsterRunStatus
) -> None:
    fail(world, instance)
    tick(world, instance)
    first = instance.get_runs()[0]
    shutil.rmtree(
        world / "data/copy/c4"
    )  # so that the retry leaves something else than the first left
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    assert LEFT in first.tags  # which Dagster hands on to a retry
    instance.create_run_for_job(job, tags=first.tags, status=status)
    assert not asked(tick(world, instance))
    change(world, "c4", "x")
    assert asked(tick(world, instance)) == {"copy/book", "copy/c4"}


def test_one_look_at_a_time_and_the_next_says_so(world: Path, instance: DagsterInstance) -> None:
    change(world, "book", "x")
    with READING:
        result = tick(world, instance)
        assert not asked(result) and result.skip_reason is not None
        assert "Still reading" in (result.skip_reason.skip_message or "")
    assert asked(tick(world, instance)) == {"copy/book"}


def test_without_a_reload_what_needs_new_items_waits(
    tmp_path: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RELOAD.name, raising=False)
    world = make_world(tmp_path / "world")
    dvc(world, "repro")
    loaded = build_definitions(world)
    params = yaml.safe_load(yaml.safe_dump(TWO_RECIPES))
    params["mixed"]["recipes"]["long"] = {"cut": 3, "domain": "book"}
    (world / "params.yaml").write_text(yaml.safe_dump(params))
    result = tick(world, instance, loaded)
    assert not asked(result) and result.skip_reason is not None
    assert "Reload the code location" in (result.skip_reason.skip_message or "")
    change(world, "book", "x")
    result = tick(world, instance, loaded)
    assert asked(result) == {"raw/book", "mixed/both"}, (
        "the report would be made without the new recipe"
    )
    assert carry_out(world, instance, result)
    assert not asked(tick(world, instance, loaded))
    assert asked(tick(world, instance)) == {"mixed/long", "report"}


def test_after_a_reload_everything_is_asked_for_at_once(
    world: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RELOAD.name, str(world / "reload"))
    loaded = build_definitions(world)
    (world / "params.yaml").write_text(PARAMS.replace("c4:", "wiki: {source: sources/c4}, c4:"))
    change(world, "book", "x")
    assert not asked(tick(world, instance, loaded)) and (world / "reload").exists()
    assert asked(tick(world, instance)) == {"copy/book", "copy/wiki"}


def test_a_silent_hub_is_a_message_and_the_pin_stays(world: Path) -> None:
    source = "hub: someone/corpus\nfollow: main\nrevision: " + 40 * "a" + "\n"
    (world / "sources" / "hub.yaml").write_text(source)
    (world / "params.yaml").write_text(PARAMS.replace("sources/c4", "sources/hub.yaml"))
    told = move_pins(read_graph(world), seconds=0)
    assert len(told) == 1 and "sources/hub.yaml" in told[0] and "keep their pins" in told[0]
    assert (world / "sources" / "hub.yaml").read_text() == source


def test_what_was_printed_before_the_end_is_not_lost() -> None:
    ended = subprocess.CompletedProcess([], 0, b"one\n", b"two\n")
    late = subprocess.TimeoutExpired([], 1.0, output=b"one\ntwo\n")
    assert printed(ended) == printed(late) == ["one", "two"]


@pytest.mark.parametrize("value", ["every night", "0 3 * *", "61 3 * * *"])
def test_a_nightly_time_that_is_no_cron_is_one_message(
    world: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("NEEDLEWORK_NIGHTLY", value)
    with pytest.raises(GraphError, match="NEEDLEWORK_NIGHTLY is .*0 3"):
        build_definitions(world)


def test_the_night_is_in_local_time_and_empty_means_none(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_NIGHTLY", "")
    for zone, meant in (
        ("Asia/Tokyo", "Asia/Tokyo"),
        (":Asia/Tokyo", "Asia/Tokyo"),
        ("Nowhere/Land", None),
    ):
        monkeypatch.setenv("TZ", zone)
        nightly = build_definitions(world).resolve_schedule_def("nightly")
        assert nightly.cron_schedule == "0 3 * * *"
        assert nightly.execution_timezone and nightly.execution_timezone in (
            nightly.description or ""
        )
        assert meant in (None, nightly.execution_timezone)


def test_a_burst_is_one_run_and_a_change_of_nothing_none(
    world: Path, instance: DagsterInstance
) -> None:
    tick(world, instance)
    for name in ("book", "c4"):
        for text in ("x", "y", "z"):
            change(world, name, text)
    assert asked(tick(world, instance)) == {"copy/book", "copy/c4"}
    for name in ("book", "c4"):
        change(world, name, name)
    assert not tick(world, instance).run_requests


def test_a_deleted_output_is_shown_as_lost_and_made_again(
    world: Path, instance: DagsterInstance
) -> None:
    tick(world, instance)
    shutil.rmtree(world / "data/copy/c4")
    assert asked(tick(world, instance)) == {"copy/c4"}
    event = instance.get_latest_materialization_event(AssetKey(["copy", "c4"]))
    assert event is not None and event.asset_materialization is not None
    assert "its output data/copy/c4 is gone" in (event.asset_materialization.description or "")


def test_an_output_lost_after_a_good_run_is_a_run_of_its_own(
    world: Path, instance: DagsterInstance
) -> None:
    change(world, "book", "x")
    assert carry_out(world, instance, tick(world, instance))
    for _ in range(2):
        assert not tick(world, instance).run_requests
        shutil.rmtree(world / "data/copy/book")
        result = tick(world, instance)
        assert asked(result) == {"copy/book"} and carry_out(world, instance, result)


def test_what_was_made_outside_dagster_is_told_to_it_once(
    world: Path, instance: DagsterInstance
) -> None:
    tick(world, instance)
    event = instance.get_latest_materialization_event(AssetKey(["copy", "c4"]))
    assert event is not None
    tick(world, instance)
    assert instance.get_latest_materialization_event(AssetKey(["copy", "c4"])) == event


def test_the_sensor_is_off_until_someone_starts_it(world: Path) -> None:
    definitions = build_definitions(world)
    assert {sensor.name: sensor.default_status.value for sensor in definitions.sensors or []} == {
        "alerts": "STOPPED",
        "changes": "STOPPED",
        "outside": "RUNNING",
    }
    assert [schedule.default_status.value for schedule in definitions.schedules or []] == [
        "STOPPED"
    ]
    assert definitions.resolve_job_def(WHOLE_GRAPH).name == WHOLE_GRAPH


def test_a_profile_takes_what_it_does_not_name_out_of_the_way(world: Path) -> None:
    (world / "profiles" / "one.yaml").write_text("copy: {domains: {c4: {source: sources/c4}}}\n")
    (world / "profiles" / "both.yaml").write_text(PARAMS)
    assert put_in_place(world, "one") == ["data/copy/book: removed, DVC's cache holds it"]
    assert sorted(
        path.name for path in (world / "data" / "copy").iterdir() if path.name != ".gitignore"
    ) == ["c4"]


def test_a_profile_that_is_not_there_or_broken_changes_nothing(world: Path) -> None:
    (world / "profiles" / "broken.yaml").write_text("copy: {}\n")
    for name in ("nowhere", "broken"):
        with pytest.raises(GraphError, match=name if name == "nowhere" else "domains"):
            put_in_place(world, name)
        assert (world / "params.yaml").read_text() == PARAMS
    (world / "params.yaml").unlink()
    with pytest.raises(GraphError, match="domains"):
        put_in_place(world, "broken")
    assert not (world / "params.yaml").exists()


def test_edits_in_no_profile_or_commit_are_saved_and_numbered(world: Path) -> None:
    (world / "profiles" / "both.yaml").write_text(PARAMS)
    assert put_in_place(world, "both") == [], "params.yaml was a profile's text"
    for number, name in enumerate(("params.yaml", "params.2.yaml")):
        edited = f"# edit {number}\n{PARAMS}"
        (world / "params.yaml").write_text(edited)
        assert put_in_place(world, "both") == [
            "params.yaml: held edits that were in no profile and no commit; saved as "
            f"data.left-behind/{name}"
        ]
        assert (world / "data.left-behind" / name).read_text() == edited
    assert (world / "data.left-behind" / "params.yaml").read_text() == f"# edit 0\n{PARAMS}"


def test_committed_params_are_not_saved_again(world: Path) -> None:
    (world / "profiles" / "both.yaml").write_text(PARAMS)
    git(world, "init", "--quiet")
    for text in ("# committed\n", "# committed later\n"):
        (world / "params.yaml").write_text(text + PARAMS)
        git(world, "add", "params.yaml")
        git(world, "commit", "--quiet", "--message", "x")
    (world / "params.yaml").write_text("# committed\n" + PARAMS)
    assert put_in_place(world, "both") == []
    (world / "params.yaml").write_text("# never committed\n" + PARAMS)
    assert len(put_in_place(world, "both")) == 1
