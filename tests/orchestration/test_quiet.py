"""What replaces parts of Dagster in `make ui` still fits, and Dagster does the same with it."""

import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec, module_from_spec

import pytest
from dagster import DagsterInstance, build_sensor_context

from orchestration.quiet import (
    HEARTBEAT,
    IN_ENVIRONMENT,
    MAKES_ENGINE,
    PARTS,
    SECONDS,
    STARTS_DAEMON,
    kept,
    named,
    slow_down,
)
from orchestration.sensors import instance_of

OWN_SECONDS = {name: named(name) for name in SECONDS}
"""Dagster's own, before any test here has changed them."""
THREADS = [
    ("dagster._daemon.auto_run_reexecution.event_log_consumer", "EventLogConsumerDaemon"),
    ("dagster._daemon.freshness", "FreshnessDaemon"),
]
"""What takes its interval from each variable of IN_ENVIRONMENT, when its module is imported."""


@pytest.fixture
def slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replacements are in place, for one test."""
    for name in (*SECONDS, *MAKES_ENGINE, STARTS_DAEMON):
        monkeypatch.setattr(name, named(name))
    for variable in IN_ENVIRONMENT:
        monkeypatch.setenv(variable, "1")
    slow_down()


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DagsterInstance]]:
    """Dagster twice, each with its SQLite files in a folder of its own."""
    with ExitStack() as stack:
        folders = [str(tmp_path_factory.mktemp(name)) for name in ("one", "other")]
        yield [stack.enter_context(DagsterInstance.local_temp(folder)) for folder in folders]


@pytest.mark.usefixtures("slowed")
def test_each_interval_is_one_that_dagster_has_and_is_longer() -> None:
    for name, seconds in SECONDS.items():
        assert named(name) == seconds > OWN_SECONDS[name]


def test_daemon_threads_take_intervals_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for (name, thread), (variable, seconds) in zip(THREADS, IN_ENVIRONMENT.items(), strict=True):
        monkeypatch.setenv(variable, seconds)
        spec = find_spec(name)
        assert spec and spec.loader
        imported_anew = module_from_spec(spec)
        spec.loader.exec_module(imported_anew)
        assert getattr(imported_anew, thread)().interval_seconds == int(seconds)


@pytest.mark.usefixtures("slowed")
def test_a_value_that_the_user_has_set_stays() -> None:
    assert {os.environ[variable] for variable in IN_ENVIRONMENT} == {"1"}


def test_the_daemon_starts_with_the_longer_heartbeat_interval() -> None:
    module, _, function = STARTS_DAEMON.rpartition(".")
    parameters = inspect.signature(named(STARTS_DAEMON)).parameters
    assert f" {function}(" in inspect.getsource(import_module(module))
    for name, seconds in HEARTBEAT.items():
        assert seconds > parameters[name].default


def test_each_part_has_a_command_line() -> None:
    for module, words in PARTS.values():
        assert callable(import_module(module).main)
        assert words


def test_a_file_has_one_engine_however_often_it_is_asked_for() -> None:
    made = list[str]()
    engine = kept(lambda file, **options: made.append(f"{file} {options}") or object())
    first = engine("a", poolclass=int)
    assert engine("a", poolclass=int) is first is engine("a", poolclass=int, connect_args={})
    assert engine("b", poolclass=int) is not first
    assert engine("a", poolclass=int, connect_args={"timeout": 30}) is not first
    assert len(made) == 3


@pytest.mark.usefixtures("slowed")
def test_two_databases_keep_what_is_put_into_each(
    databases: list[DagsterInstance],
) -> None:
    for instance, word in zip(databases, ("first", "second"), strict=True):
        instance.daemon_cursor_storage.set_cursor_values({"key": word})
        instance.add_dynamic_partitions("names", [word])
    for instance, word in zip(databases, ("first", "second"), strict=True):
        assert instance.daemon_cursor_storage.get_cursor_values({"key"}) == {"key": word}
        assert instance.get_dynamic_partitions("names") == [word]
        assert list(instance.all_instigator_state()) == []


def test_ticks_share_what_is_opened_for_the_first(
    databases: list[DagsterInstance],
) -> None:
    one, other = databases
    first = instance_of(build_sensor_context(instance=one))
    assert first.get_ref() == one.get_ref()
    assert instance_of(build_sensor_context(instance=one)) is first
    assert instance_of(build_sensor_context(instance=other)).get_ref() == other.get_ref()
    with DagsterInstance.ephemeral() as nowhere:
        assert instance_of(build_sensor_context(instance=nowhere)) is nowhere
