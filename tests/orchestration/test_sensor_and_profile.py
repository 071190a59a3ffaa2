"""The change sensor asks for exactly what is out of date; a profile is put in place whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, SensorResult, build_sensor_context
from dvc_world import git

from orchestration.automation import RUN_KEY_TAG
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import GraphError
from orchestration.profile import put_in_place

GRAPH = """
stages:
  copy:
    foreach: ${copy.domains}
    do:
      cmd: python -c "import shutil; shutil.copytree('${item.source}', 'data/copy/${key}')"
      deps: ["${item.source}"]
      outs: ["data/copy/${key}"]
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
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for arguments in (("init", "--no-scm", "--quiet"), ("repro", "--quiet")):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True,
                       env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"})
    return tmp_path


def tick(world: Path, instance: DagsterInstance, cursor: str | None) -> SensorResult:
    """One look of the sensor."""
    definitions = build_definitions(world)
    sensor = definitions.resolve_sensor_def("changes") if hasattr(definitions, "resolve_sensor_def") \
        else definitions.get_sensor_def("changes")
    result = sensor(build_sensor_context(instance=instance, cursor=cursor, definitions=definitions))
    assert isinstance(result, SensorResult)
    return result


def test_the_sensor_asks_for_one_run_of_what_changed_and_again_when_it_changes_back(world: Path) -> None:
    source = world / "sources" / "book" / "documents"
    keys = []
    with DagsterInstance.ephemeral() as instance:
        result = tick(world, instance, None)
        assert not result.run_requests and result.skip_reason is not None
        for text in ("x", "y", "x"):
            source.write_text(text)
            result = tick(world, instance, result.cursor)
            assert [request.asset_selection for request in result.run_requests or []] == [[AssetKey(["copy", "book"])]]
            keys += [request.run_key for request in result.run_requests or []]
    assert len(set(keys)) == 3


def test_a_burst_of_changes_is_one_run_and_a_change_of_nothing_none(world: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = tick(world, instance, None)
        for name in ("book", "c4"):
            for text in ("x", "y", "z"):
                (world / "sources" / name / "documents").write_text(text)
        result = tick(world, instance, result.cursor)
        assert [set(request.asset_selection or []) for request in result.run_requests or []] == [
            {AssetKey(["copy", "book"]), AssetKey(["copy", "c4"])}]
        for name in ("book", "c4"):
            (world / "sources" / name / "documents").write_text(name)
        assert not tick(world, instance, result.cursor).run_requests


def test_a_deleted_output_is_made_again_and_shown_as_lost_until_then(world: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = tick(world, instance, None)
        shutil.rmtree(world / "data/copy/c4")
        result = tick(world, instance, result.cursor)
        assert [request.asset_selection for request in result.run_requests or []] == [[AssetKey(["copy", "c4"])]]
        event = instance.get_latest_materialization_event(AssetKey(["copy", "c4"]))
        assert event is not None and event.asset_materialization is not None
        assert "data/copy/c4 deleted" in (event.asset_materialization.description or "")


def test_an_output_lost_after_a_run_that_succeeded_is_a_run_of_its_own(world: Path) -> None:
    (world / "sources" / "book" / "documents").write_text("x")
    with DagsterInstance.ephemeral() as instance:
        first = tick(world, instance, None)
        key = (first.run_requests or [])[0].run_key
        job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
        assert job.execute_in_process(instance=instance, tags={RUN_KEY_TAG: str(key)}).success
        quiet = tick(world, instance, first.cursor)
        assert not quiet.run_requests
        shutil.rmtree(world / "data/copy/book")
        again = tick(world, instance, quiet.cursor)
        assert [request.run_key != key for request in again.run_requests or []] == [True]


def test_what_was_made_outside_dagster_is_told_to_it_once(world: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = tick(world, instance, None)
        event = instance.get_latest_materialization_event(AssetKey(["copy", "c4"]))
        assert event is not None
        tick(world, instance, result.cursor)
        assert instance.get_latest_materialization_event(AssetKey(["copy", "c4"])) == event


def test_the_sensor_is_off_until_someone_starts_it(world: Path) -> None:
    definitions = build_definitions(world)
    assert {sensor.name: sensor.default_status.value for sensor in definitions.sensors or []} == {
        "changes": "STOPPED", "outside": "RUNNING"}
    assert [schedule.default_status.value for schedule in definitions.schedules or []] == ["STOPPED"]
    assert definitions.resolve_job_def(WHOLE_GRAPH).name == WHOLE_GRAPH


def test_a_profile_takes_what_it_does_not_name_out_of_the_way(world: Path) -> None:
    (world / "profiles" / "one.yaml").write_text("copy: {domains: {c4: {source: sources/c4}}}\n")
    (world / "profiles" / "both.yaml").write_text(PARAMS)
    assert put_in_place(world, "one") == ["data/copy/book: removed, DVC's cache holds it"]
    assert sorted(path.name for path in (world / "data" / "copy").iterdir() if path.name != ".gitignore") == ["c4"]


def test_a_profile_that_is_not_there_or_broken_changes_nothing(world: Path) -> None:
    (world / "profiles" / "broken.yaml").write_text("copy: {}\n")
    for name in ("nowhere", "broken"):
        with pytest.raises(GraphError, match=name if name == "nowhere" else "domains"):
            put_in_place(world, name)
        assert (world / "params.yaml").read_text() == PARAMS


def test_edits_that_are_in_no_profile_and_no_commit_are_saved_and_numbered(world: Path) -> None:
    (world / "profiles" / "both.yaml").write_text(PARAMS)
    assert put_in_place(world, "both") == [], "params.yaml was a profile's text"
    for number, name in enumerate(("params.yaml", "params.2.yaml")):
        edited = f"# edit {number}\n{PARAMS}"
        (world / "params.yaml").write_text(edited)
        assert put_in_place(world, "both") == [
            f"params.yaml: held edits that were in no profile and no commit; saved as data.left-behind/{name}"]
        assert (world / "data.left-behind" / name).read_text() == edited
    assert (world / "data.left-behind" / "params.yaml").read_text() == f"# edit 0\n{PARAMS}"


def test_a_params_file_of_some_commit_is_not_saved_again_and_one_beside_it_is(world: Path) -> None:
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
