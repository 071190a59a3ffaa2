"""Starts each run as a process of its own, knows whether it is alive, and ends it.

With Dagster's own launcher the code server starts runs, and only the server that started a run can
check and end it. When that server dies, its runs can't be ended any more, and a run whose process
dies counts as running for ever. Here each run is noted with its process (tag `needlework/worker`).
Run monitoring asks for its health, and lets a run that lost its process go on in a new one, which
does not repeat finished items. Daemon, webserver and code server may be restarted meanwhile. The
cost: on Ctrl-C such runs are ended by whoever started the daemon. `make ui` does so; after a plain
`dagster dev` they go on to their end.

Dagster's run retries were tried instead: their daemon sometimes reads of a failure before the
failed run is marked so, and then never retries it.
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
                f"Run {run.run_id} does not name its code. Start it from the code location."
            )
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        self._start(run, "execute_run", serialize_value(arguments))

    @property
    def supports_resume_run(self) -> bool:
        """So that run monitoring resumes runs."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start another process for a run that lost its own. A run from a terminal fails instead."""
        run = context.dagster_run
        if of_a_terminal(run):
            self._instance.report_run_failed(
                run,
                "Its process is gone, and it was not started by the daemon. Start it again: what "
                "was finished is not repeated.",
            )
            return
        assert run.job_code_origin is not None
        arguments = ResumeRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        self._start(run, "resume_run", serialize_value(arguments))

    def _start(self, run: DagsterRun, *arguments: str) -> None:
        """Start the process in the project's folder, and note it on the run."""
        assert run.job_code_origin is not None
        pointer = run.job_code_origin.repository_origin.code_pointer
        self._reap()
        worker = held(
            [sys.executable, "-m", "dagster", "api", *arguments],
            getattr(pointer, "working_directory", None),
        )
        self._workers.append(worker)
        note_worker(self._instance, run.run_id, worker.pid)
        begin(worker)

    def terminate(self, run_id: str) -> bool:
        """Send SIGTERM to the run's process, which ends what it started. A run whose process is gone
        is marked as cancelled.
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
                "Its process is on another machine or in another container: end it there. If that "
                "machine or container is gone, terminate the run again, with force.",
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
        """Whether the run's process is running. A run that has not noted one yet counts as running."""
        self._reap()
        worker = run.tags.get(WORKER, "")
        return (
            CheckRunHealthResult(WorkerStatus.FAILED, f"its process is gone ({worker})")
            if gone(worker)
            else CheckRunHealthResult(WorkerStatus.RUNNING)
        )

    def _reap(self) -> None:
        """Collect the exit codes of ended processes, or they stay zombies."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]


def held(command: Sequence[str], folder: str | None = None) -> subprocess.Popen[bytes]:
    """A process that waits for `begin` and then becomes the command. It ends if this process dies
    before.

    So a run's process is noted before it begins. Otherwise a daemon killed in between leaves an
    unknown process, and the next daemon starts a second one beside it.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
        cwd=folder,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def begin(process: subprocess.Popen[bytes]) -> None:
    """Let a held process become its command."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(b"go\n")


def note_worker(instance: DagsterInstance, run_id: str, pid: int) -> None:
    """Note its process on the run."""
    if named := identity(pid):
        instance.add_run_tags(run_id, {WORKER: named})
