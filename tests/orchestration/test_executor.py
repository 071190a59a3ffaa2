"""What we rely on in Dagster's private parts: steps side by side, each with its own log; an
interrupt stops what is at work; a run that lost its process goes on where it was.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    Failure,
    RetryPolicy,
    asset,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster_server import executions, hold_back, until
from dvc_world import make_world, materialize

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import read_status

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A database on the disk."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_each_step_has_a_log_of_its_own(world: Path, home: Path) -> None:
    with DagsterInstance.local_temp(str(home)) as instance:
        _, run = materialize(world, instance)
        for event in run.events:
            if event.event_type is DagsterEventType.LOGS_CAPTURED:
                captured: Any = event.event_specific_data
                (step,) = captured.step_keys
                place = [run.run_id, "compute_logs", captured.file_key]
                manager = instance.compute_log_manager
                text, _ = manager.get_log_data_for_type(place, ComputeIOType.STDERR, 0, None)
                address = step.replace("report__all", "report").replace("__", "@")
                assert f"Running stage '{address}'" in (text or b"").decode()
                assert manager.is_capture_complete(place)


def test_an_interrupt_stops_the_items_and_cancels_the_run(world: Path, home: Path) -> None:
    hold_back(world)
    (world / "hold" / "raw-c4").touch()
    command = [sys.executable, "-m", "orchestration.demo"]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with subprocess.Popen(command, cwd=world, env=environment, text=True) as demo:
        until(lambda: "raw c4" in executions(world))
        demo.send_signal(signal.SIGTERM)
        assert demo.wait() != 0
    assert "raw@c4" in read_status(world)
    with DagsterInstance.local_temp(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.CANCELED


DIES = """
import os, pathlib, sys
from dagster import DagsterInstance
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
instance = DagsterInstance.local_temp(sys.argv[1])
job = build_definitions(pathlib.Path.cwd()).resolve_job_def(WHOLE_GRAPH)
for event in run_here(job, instance)[1]:
    if event.is_step_success and event.step_key == "raw__c4":
        os._exit(9)
"""


def test_a_resumed_run_repeats_no_step_that_had_ended(world: Path, home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", DIES, str(home)], cwd=world, env=environment)
    assert died.returncode == 9
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    with DagsterInstance.local_temp(str(home)) as instance:
        (run,) = instance.get_runs()
        events = execute_run_iterator(InMemoryJob(job), run, instance, resume_from_failure=True)
        started = [event.step_key for event in events if event.is_step_start]
        assert "raw__c4" not in started and "report__all" in started
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.SUCCESS
    assert not read_status(world)


def test_a_step_is_tried_again_as_its_policy_says(world: Path) -> None:
    tries = list[int]()

    @asset(retry_policy=RetryPolicy(max_retries=2))
    def flaky() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise Failure("not yet")

    executor = build_definitions(world).executor
    job = Definitions(assets=[flaky], executor=executor).resolve_implicit_global_asset_job_def()
    with DagsterInstance.ephemeral() as instance:
        _, events = run_here(job, instance, [AssetKey("flaky")])
        assert list(events)[-1].event_type is DagsterEventType.RUN_SUCCESS
    assert len(tries) == 3
