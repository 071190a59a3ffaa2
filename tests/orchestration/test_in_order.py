"""A lost output, and a project that can't be read, fail the check `in_order` of the assets that they
concern. It passes again once the cause is gone.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    SkipReason,
    build_sensor_context,
)
from dvc_world import dvc, make_world, materialize

from orchestration.definitions import build_definitions
from orchestration.graph import IN_ORDER

ASSETS = ("raw/book", "raw/c4", "mixed/short", "mixed/both", "report")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class Sensor:
    """The sensor that is always on, of a code location that was loaded once."""

    def __init__(self, world: Path, instance: DagsterInstance) -> None:
        self._definitions = build_definitions(world)
        self._instance = instance

    def tick(self) -> str:
        """What it says."""
        context = build_sensor_context(instance=self._instance, definitions=self._definitions)
        said = self._definitions.resolve_sensor_def("outside")(context)
        assert isinstance(said, SkipReason)
        return said.skip_message or ""


def failed(instance: DagsterInstance) -> dict[str, str]:
    """Asset -> the words of its check, for those whose last result is an error."""
    keys = {AssetCheckKey(AssetKey(name.split("/")), IN_ORDER): name for name in ASSETS}
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    found = dict[str, str]()
    for key, record in records.items():
        assert record.event and record.event.dagster_event
        result = record.event.dagster_event.asset_check_evaluation_data
        if not result.passed:
            assert result.severity is AssetCheckSeverity.ERROR
            found[keys[key]] = str(result.description)
    return found


def test_a_lost_output_is_an_error_until_it_is_back(world: Path, instance: DagsterInstance) -> None:
    _, run = materialize(world, instance)
    assert run.success
    sensor = Sensor(world, instance)
    for _ in range(2):  # made again from the cache, then by a run
        shutil.rmtree(world / "data/mixed/both")
        (world / "data/raw/c4/text").write_text("changed by hand\n")
        sensor.tick()
        found = failed(instance)
        assert found.keys() == {"mixed/both", "raw/c4"}
        assert "its output data/mixed/both is gone. dvc checkout" in found["mixed/both"]
        assert "dvc checkout mixed@both, or make it again." in found["mixed/both"]
        assert "its output data/raw/c4 changed" in found["raw/c4"]

        dvc(world, "checkout", "--force", "raw@c4")
        materialize(world, instance, "mixed/both")
        sensor.tick()
        assert not failed(instance)


def test_an_asset_that_was_never_made_has_lost_nothing(
    world: Path, instance: DagsterInstance
) -> None:
    Sensor(world, instance).tick()
    assert not failed(instance)


def test_what_a_commit_does_not_name_any_more_is_lost(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    (world / "dvc.lock").unlink()
    Sensor(world, instance).tick()
    assert failed(instance).keys() == set(ASSETS)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_a_project_that_can_not_be_read_fails_every_asset(
    world: Path, instance: DagsterInstance, name: str
) -> None:
    materialize(world, instance, "raw/book")
    sensor = Sensor(world, instance)
    whole = (world / name).read_text()
    (world / name).write_text(f"{whole}a: [1\n")
    for _ in range(2):
        assert name in sensor.tick()
    found = failed(instance)
    assert found.keys() == set(ASSETS), "those that were never made, too"
    assert all(name in words for words in found.values())
    before = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(AssetKey(["raw", "book"]), IN_ORDER), limit=9
    )
    assert len(before) == 2, "once by the run, and once for the fault"

    (world / name).write_text(whole)
    sensor.tick()
    assert not failed(instance)


def test_a_fault_stays_an_error_when_plain_dvc_makes_the_asset(
    world: Path, instance: DagsterInstance
) -> None:
    """The node shows the results of its latest materialisation alone."""
    (world / "evaluation").mkdir()
    (world / "evaluation/__init__.py").touch()
    (world / "evaluation/preflight.py").write_text(
        "print('[\"params.yaml: mixed.recipes.short.cut: no such cut.\"]')"
    )
    sensor = Sensor(world, instance)
    sensor.tick()
    dvc(world, "repro")
    sensor.tick()
    assert failed(instance).keys() == {"mixed/short"}
    key = AssetKey(["mixed", "short"])
    (last,) = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(key, IN_ORDER), limit=1
    )
    made = instance.get_latest_materialization_event(key)
    assert made is not None and last.event is not None
    assert last.event.timestamp >= made.timestamp
