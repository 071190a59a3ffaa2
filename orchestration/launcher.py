"""Start each run as a separate process, check whether it is alive, and end it.

With Dagster's own launcher the code server starts runs, and only the server that started a run can
check and end it. When that server dies, its runs can't be ended any more, and a run whose process
dies counts as running for ever. Here the process is noted on the run (tag `needlework/worker`). Run
monitoring checks its health and resumes a run that lost its process in a new one, which does not
repeat finished items. Daemon, webserver and code server may restart meanwhile. The cost: whoever
started the daemon must end the runs on Ctrl-C. `make ui` does so; after a plain `dagster dev` they
continue to their end.

Dagster's run retries were tried instead. Their daemon sometimes reads the event of a failure before
the run is marked as failed, and then never retries it.
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

# The tag names the process in a form that survives reboots and containers (processes.py).
WORKER = "needlework/worker"


class ProcessRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Named in dagster.yaml; it takes no settings."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._workers: list[subprocess.Popen[bytes]] = []
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Dagster builds the same launcher from this in other processes."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """No settings."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "ProcessRunLauncher":
        """Dagster calls it with the entry of dagster.yaml."""
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
        """Run monitoring resumes runs only if this is true."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start a new process for a run that lost its own. A run from a terminal fails instead."""
        run = context.dagster_run
        # A run from a terminal ends with its process. It must not continue in the background.
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
            # Only some kinds of pointer have a folder.
            getattr(pointer, "working_directory", None),
        )
        self._workers.append(worker)
        note_worker(self._instance, run.run_id, worker.pid)
        begin(worker)

    def terminate(self, run_id: str) -> bool:
        """Send SIGTERM to the run's process, which ends its children. Mark the run as cancelled if
        the process is gone.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False

        self._instance.report_run_canceling(run)
        worker = run.tags.get(WORKER, "")
        if gone(worker):
            # No process is left to report the end.
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
        """Run monitoring checks the health of runs only if this is true."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive. A run without a noted process counts as running."""
        self._reap()
        worker = run.tags.get(WORKER, "")
        if gone(worker):
            return CheckRunHealthResult(WorkerStatus.FAILED, f"its process is gone ({worker})")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _reap(self) -> None:
        """Collect the exit codes of ended processes; otherwise they stay zombies."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]


def held(command: Sequence[str], folder: str | None = None) -> subprocess.Popen[bytes]:
    """A process that waits for `begin` and then becomes the command, or ends if this one dies.

    So a run's process can be noted before it begins. Without this, a daemon killed in between
    leaves an unknown process, and the next daemon starts a second one beside it.
    """
    return subprocess.Popen(
        # `read` fails when the pipe closes, so the shell ends with a killed daemon.
        # `exec` keeps the process number that is noted.
        ["sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
        cwd=folder,
        stdin=subprocess.PIPE,
        # Ctrl-C in the daemon's terminal must not reach the run.
        start_new_session=True,
    )


def begin(process: subprocess.Popen[bytes]) -> None:
    """Let a held process become its command."""
    assert process.stdin is not None
    # The pipe is broken if the process was killed meanwhile; run monitoring finds that out.
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(b"go\n")


def note_worker(instance: DagsterInstance, run_id: str, pid: int) -> None:
    """Note the process on the run."""
    # There is no identity without /proc, or if the process has ended.
    if named := identity(pid):
        instance.add_run_tags(run_id, {WORKER: named})
