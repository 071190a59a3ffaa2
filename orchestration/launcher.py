"""Starts each run as a process of its own, knows whether it is alive, and ends it.

Dagster's own launcher has the code server start runs, and only the server that started one can tell
whether it is alive and end it: when that server dies, its runs can't be ended any more, and one
whose process dies too counts as running for ever, so that nothing else ever starts. Here a run is
noted with its process (the tag `needlework/worker`); run monitoring asks, and has a run that lost
its process go on in a new one, which finds the items that were finished done. Daemon, webserver and
code server may die and come back meanwhile. The cost: on Ctrl-C such runs are ended by what started
the daemon (`make ui` does; after a plain `dagster dev` they go on to their end).

A new run instead, by Dagster's run retries, was tried: its daemon now and then reads of a failure
before the failed run is marked so, and then never retries it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._config import UserConfigSchema
from dagster._core.launcher import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from orchestration.executor import of_a_terminal
from orchestration.processes import gone, identity, pid_of

WORKER = "needlework/worker"


class ProcessRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Named in dagster.yaml; it takes no settings."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._workers: list[subprocess.Popen[bytes]] = []
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """For Dagster, which makes the same launcher again in other processes."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """No settings."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "ProcessRunLauncher":
        """For Dagster, from dagster.yaml."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process."""
        run = context.dagster_run
        if run.job_code_origin is None:
            raise ValueError(
                f"Run {run.run_id} does not say where its code is; start it from the code location."
            )
        self._start(
            run,
            [
                "execute_run",
                serialize_value(
                    ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
                ),
            ],
        )

    @property
    def supports_resume_run(self) -> bool:
        """So that run monitoring has a run go on."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start another process for a run that lost its own; one that a terminal had started ends
        here instead.
        """
        run = context.dagster_run
        if of_a_terminal(run):
            self._instance.report_run_failed(
                run,
                "Its process is gone, and it was not started by the daemon. Start it "
                "again: what was finished is found done.",
            )
            return
        assert run.job_code_origin is not None
        self._start(
            run,
            [
                "resume_run",
                serialize_value(
                    ResumeRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
                ),
            ],
        )

    def _start(self, run: DagsterRun, arguments: Sequence[str]) -> None:
        """In the project's folder, as the leader of a session, noted on the run."""
        assert run.job_code_origin is not None
        folder = getattr(
            run.job_code_origin.repository_origin.code_pointer, "working_directory", None
        )
        self._forget_ended()
        worker = held([sys.executable, "-m", "dagster", "api", *arguments], folder)
        self._workers.append(worker)
        note_worker(self._instance, run.run_id, worker.pid)
        begin(worker)

    def terminate(self, run_id: str) -> bool:
        """Ask the run's process to end, which ends what it started; a run whose process is gone
        ends here.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        worker = run.tags.get(WORKER, "")
        if gone(worker):
            self._instance.report_run_canceled(run, "Its process was gone already.")
            return True
        pid = pid_of(worker)
        if pid is None:
            self._instance.report_engine_event(
                "Its process is not known here: end it on the machine or in the container where it "
                "runs. If that is no "
                "more, terminate the run once more, with force.",
                run,
            )
            return False
        os.kill(pid, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """So that run monitoring asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is there; a run that has not noted one yet counts as alive."""
        self._forget_ended()
        worker = run.tags.get(WORKER, "")
        return (
            CheckRunHealthResult(WorkerStatus.FAILED, f"its process is gone ({worker})")
            if gone(worker)
            else CheckRunHealthResult(WorkerStatus.RUNNING)
        )

    def _forget_ended(self) -> None:
        """Ask about those that ended, or the kernel keeps them listed."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]


def held(command: Sequence[str], folder: str | None = None) -> subprocess.Popen[bytes]:
    """A process that waits for `begin` and then becomes the command; it ends if this one dies
    before.

    A run's process is noted before it begins. Without that, a daemon killed in between leaves a
    process that nobody knows, and the next daemon starts a second one beside it.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
        cwd=folder,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def begin(process: subprocess.Popen[bytes]) -> None:
    """Let a held process go on."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(b"go\n")


def note_worker(instance: DagsterInstance, run_id: str, pid: int) -> None:
    """Note on the run which process works on it."""
    if named := identity(pid):
        instance.add_run_tags(run_id, {WORKER: named})
