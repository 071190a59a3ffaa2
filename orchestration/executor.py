"""The executor `threads`: each step is a thread, which waits for the child process of its item.

Dagster's own executors run one step after the other (in process) or start a Python process for each
step (multiprocess). Such a process costs 2.6 s of CPU at its start, and then only waits for a
child. A thread costs next to no time. Dagster still does pools, retries, blocking checks and
cancellation. The cost: the imports from `dagster._core` are not public. So this is the only module
that has them, the minor version is pinned, and tests/orchestration/test_executor.py tests them.

A step writes its item's output to `step_log()`, which the UI shows as the step's own log.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    JobDefinition,
    executor,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.api import ExecuteRunWithPlanIterable, execute_run_iterator
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import (
    PlanExecutionContext,
    PlanOrchestrationContext,
    StepExecutionContext,
)
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.origin import (
    DEFAULT_DAGSTER_ENTRY_POINT,
    JobPythonOrigin,
    RepositoryPythonOrigin,
)
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.tags import MAX_RETRIES_TAG, REPOSITORY_LABEL_TAG

from orchestration.home import LOCATION, MODULE

# Between two checks for an interrupt and for a place in a pool. A check reads Dagster's database.
SECONDS_BETWEEN_CHECKS = 0.5
ENDED = {DagsterEventType.STEP_OUTPUT, DagsterEventType.STEP_SUCCESS}
_log: ContextVar[IO[str] | None] = ContextVar("step_log", default=None)

Scope = Callable[[DagsterInstance, str], AbstractContextManager[Callable[[], None]]]
"""(instance, run id) -> a context for the whole run, which yields what stops the children."""
Events = SimpleQueue[DagsterEvent | BaseException | str]
"""Messages from the threads: a step's event, an exception of Dagster's own code, or the key of a
step that has ended.
"""


def step_log() -> IO[str]:
    """The log of the running step, for its item's own output."""
    # Outside a step, as under another executor, Dagster captures stderr itself.
    return _log.get() or sys.stderr


def interrupted() -> BaseException:
    """The exception that a step raises after it was asked to end."""
    return DagsterExecutionInterruptedError("It was asked to end.")


def threads(workers: Callable[[], int], scope: Scope) -> ExecutorDefinition:
    """The executor definition. workers: gives the number of steps that run at once."""

    @executor(name="threads")
    def threads_executor(context: InitExecutorContext) -> Executor:
        return Threads(workers(), scope)

    return threads_executor


class Threads(Executor):
    """Runs the steps of a plan, as many at once as workers and places in pools allow."""

    def __init__(self, workers: int, scope: Scope) -> None:
        self._workers = workers
        self._scope = scope

    @property
    def retries(self) -> RetryMode:
        """Enabled, because assets may have a retry policy."""
        return RetryMode.ENABLED

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """The events of the whole run."""
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=partial(self._steps, plan_context.resume_from_failure),
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                retry_mode=plan_context.retry_mode,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
            ),
        )

    def _steps(
        self, resumed: bool, job_context: PlanExecutionContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        instance = job_context.instance
        run = job_context.dagster_run
        done = _ended_before(instance, run) if resumed else {}
        if resumed:
            # The lost process still holds its places in pools.
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)

        events = Events()
        running = set[str]()
        interrupted = False
        with (
            self._scope(instance, run.run_id) as stop,
            InstanceConcurrencyContext(instance, run) as slots,
            execution_plan.start(
                retry_mode=job_context.retry_mode,
                max_concurrent=self._workers,
                instance_concurrency_context=slots,
            ) as active,
            ThreadPoolExecutor(self._workers) as pool,
        ):
            try:
                while not active.is_complete and not interrupted:
                    for step in active.get_steps_to_execute():
                        # Dagster's own `rebuild_from_events` also repeats claims of pools, and
                        # fails at a place that another run holds (docs/log.md).
                        if step.key in done:
                            for event in done[step.key]:
                                active.handle_event(event)
                            continue
                        context = job_context.for_step(step, active.get_known_state())
                        running.add(step.key)
                        pool.submit(_work, job_context, context, events)

                    yield from active.concurrency_event_iterator(job_context)
                    yield from active.plan_events_iterator(job_context)
                    if running or not active.is_complete:
                        yield from _received(events, running, active, job_context)
                    interrupted = active.check_for_interrupts()
            finally:
                # The pool's `with` waits for its threads, and they wait for these children.
                stop()

            # Each step was asked to end. Its last events arrive until it has.
            while running:
                yield from _received(events, running, active, job_context)
            if interrupted:
                raise DagsterExecutionInterruptedError("The run was asked to end.")


def _work(job_context: PlanExecutionContext, context: StepExecutionContext, events: Events) -> None:
    """Run one step, in a thread, and send its events."""
    manager = job_context.instance.compute_log_manager
    key = context.step.key
    # Dagster keeps one log for each process. A key for each step gives each item its own log.
    log_file = create_compute_log_file_key()  # type: ignore[no-untyped-call]
    place = manager.build_log_key_for_run(job_context.run_id, log_file)
    try:
        with manager.open_log_stream(place, ComputeIOType.STDERR) as stream:
            _log.set(stream)  # type: ignore[arg-type]  # opened for text
            events.put(
                DagsterEvent.capture_logs(job_context, [key], place, CapturedLogContext(place))
            )
            for event in dagster_event_sequence_for_step(context):
                events.put(event)

        # The mark by which the UI stops to wait for more of the log.
        if isinstance(manager, LocalComputeLogManager):
            Path(manager.complete_artifact_path(place)).touch()  # type: ignore[no-untyped-call]
    except BaseException as error:
        events.put(error)
    finally:
        # The pool uses the thread again for another step.
        _log.set(None)
        events.put(key)


def _received(
    events: Events, running: set[str], active: ActiveExecution, job_context: PlanExecutionContext
) -> Iterator[DagsterEvent]:
    """The events from the threads. Waits a moment for the first. Raises the threads' exceptions."""
    # Only the first may be waited for: then the queue is emptied, so no event lags behind.
    timeout = SECONDS_BETWEEN_CHECKS
    with suppress(Empty):
        while True:
            message = events.get(timeout=timeout)
            timeout = 0.0
            if isinstance(message, DagsterEvent):
                yield message
                active.handle_event(message)
            elif isinstance(message, str):
                running.discard(message)
                active.verify_complete(job_context, message)
            # A step that was stopped raises this one. The run raises it once, at its end.
            elif not isinstance(message, DagsterExecutionInterruptedError):
                raise message


def run_here(
    job: JobDefinition,
    instance: DagsterInstance,
    selection: Collection[AssetKey] | None = None,
    run_config: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> tuple[str, Iterator[DagsterEvent]]:
    """Start a run in this process. Returns its id, and its events as they come.

    selection: some of the job's assets. root: the project's folder; the run then belongs to the
    location that `make ui` serves, so the home page shows it and can start it again.
    """
    # Not `execute_in_process`, which makes one step after the other.
    run = instance.create_run_for_job(
        job,
        asset_selection=frozenset(selection) if selection else None,
        run_config=run_config,
        # No retries by the daemon: whoever started the run at a terminal sees how it ends.
        tags={MAX_RETRIES_TAG: "0"} if root else None,
        remote_job_origin=RemoteJobOrigin(_repository(), job.name) if root else None,
        job_code_origin=_code_of(job.name, root) if root else None,
    )
    return run.run_id, execute_run_iterator(InMemoryJob(job), run, instance)


def of_a_terminal(run: DagsterRun) -> bool:
    """Whether a terminal started the run, not the daemon. Such a run ends with its terminal."""
    # `_repository` below makes the registered origin, and Dagster's server another one.
    origin = run.remote_job_origin
    return (
        run.job_code_origin is None
        or origin is None
        or isinstance(origin.repository_origin.code_location_origin, RegisteredCodeLocationOrigin)
    )


def note_location(instance: DagsterInstance, run_id: str) -> None:
    """Assign a run of Dagster's own command line to the location that `make ui` serves."""
    # Without the label, the home page leaves the run out.
    run = instance.get_run_by_id(run_id)
    if run is not None and run.remote_job_origin is None and REPOSITORY_LABEL_TAG not in run.tags:
        instance.add_run_tags(run_id, {REPOSITORY_LABEL_TAG: _repository().get_label()})


def _repository() -> RemoteRepositoryOrigin:
    return RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), "__repository__")


def _code_of(job: str, root: Path) -> JobPythonOrigin:
    """Where another process finds the job."""
    return JobPythonOrigin(
        job_name=job,
        repository_origin=RepositoryPythonOrigin(
            executable_path=sys.executable,
            code_pointer=ModuleCodePointer(MODULE, "defs", str(root.absolute())),
            entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
            container_image=None,
            container_context={},
        ),
    )


def _ended_before(instance: DagsterInstance, run: DagsterRun) -> dict[str, list[DagsterEvent]]:
    """Step key -> events of the steps that succeeded before the run lost its process."""
    found: dict[str, list[DagsterEvent]] = {}
    succeeded = set[str]()
    for entry in instance.all_logs(run.run_id, of_type=ENDED):
        if entry.step_key and entry.dagster_event:
            found.setdefault(entry.step_key, []).append(entry.dagster_event)
            if entry.dagster_event.event_type is DagsterEventType.STEP_SUCCESS:
                succeeded.add(entry.step_key)

    # A step with outputs alone was cut off before its end, so it runs again.
    return {key: found[key] for key in found if key in succeeded}
