"""The sensor `outside`, the sensor `changes`, and the schedule `nightly`.

The sensors ask DVC. Dagster's automation conditions were not used: they work in waves, need
observations, and see new code only after a reload. The cost is the `stat` of every file at each
tick (status.py), and one `status` if a file has changed (0.3 s, and the hashing of the changes).

`outside` runs nothing and is on: it reports what was made or lost outside Dagster (outside.py).
`changes` and `nightly` are off until someone starts them. Both request one run of what is out of
date (run_request.py). The sensor's cursor and the tick's log say what is due and why. The tick's
message says what waits for a person.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)
from dagster._utils.schedules import is_valid_cron_schedule

from core.environment import NIGHTLY, TICK_SECONDS, VariableError, number_of, text_of
from orchestration.active import (
    Broken,
    NotNow,
    ProjectStatus,
    active_runs,
    listed,
    project_status,
)
from orchestration.costs import budget
from orchestration.graph import Graph, GraphError
from orchestration.home import ask_for_reload
from orchestration.hub_pins import move_pins
from orchestration.outside import OUTSIDE, report_broken, report_once
from orchestration.run_request import answer, note_what_is_left
from orchestration.status import State

LOCALTIME = Path("/etc/localtime")

_instances: list[DagsterInstance] = []
"""The instance of the last tick, if any."""


def instance_of(context: SensorEvaluationContext) -> DagsterInstance:
    """The Dagster instance of a tick, kept for the next one."""
    # Dagster opens one for each tick, and reads all revisions of its database: 0.14 s of CPU.
    ref = context.instance_ref
    if ref is None:
        return context.instance

    for kept in _instances:
        if kept.get_ref() == ref:
            return kept
    _instances[:] = [DagsterInstance.from_ref(ref)]
    return _instances[0]


def seconds_between_ticks() -> int:
    """NEEDLEWORK_TICK_SECONDS, or 30. Values below the daemon's 5 s act as 5. Raises GraphError."""
    try:
        return int(number_of(TICK_SECONDS))
    except VariableError as error:
        raise GraphError(str(error)) from None


def nightly_at() -> str:
    """NEEDLEWORK_NIGHTLY, or 3 o'clock. Raises GraphError."""
    value = text_of(NIGHTLY)
    # Dagster checks it too, but its error does not name the variable.
    if not is_valid_cron_schedule(value):
        raise GraphError(
            f"{NIGHTLY} is {value!r}: write a cron expression (minute, hour, day of the month, "
            f"month, day of the week), as in {NIGHTLY.default!r}, which is every day at 3:00."
        )
    return value


def time_zone() -> str:
    """The machine's time zone by name, from TZ or /etc/localtime. UTC if neither names one."""
    # /etc/localtime is a link into a folder zoneinfo/, where the path is the name.
    linked = str(LOCALTIME.resolve()).partition("zoneinfo/")[2]

    # TZ may begin with a colon (tzset(3)), or be a rule, which Dagster does not accept.
    for name in (os.environ.get("TZ", "").removeprefix(":"), linked):
        with suppress(ValueError, OSError, ZoneInfoNotFoundError):
            return ZoneInfo(name).key
    return "UTC"


def reported(instance: DagsterInstance, loaded: Graph) -> tuple[ProjectStatus, list[AssetKey]]:
    """The project's status, once Dagster has it, and the assets that it was new for.

    Raises NotNow.
    """
    try:
        now = project_status(instance, loaded.root)
    except Broken as error:
        report_broken(instance, loaded, str(error))
        raise
    return now, report_once(instance, now.state, now.beside)


def truth_sensor(loaded: Graph) -> SensorDefinition:
    """The sensor `outside`. loaded: the graph as the code location knows it."""
    loaded_digest = loaded.digest()

    @sensor(
        name=OUTSIDE,
        minimum_interval_seconds=seconds_between_ticks(),
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Shows what `dvc repro`, `dvc checkout` or a deleted file did outside Dagster; runs "
            "nothing"
        ),
    )
    def outside(context: SensorEvaluationContext) -> SkipReason:
        instance = instance_of(context)
        try:
            now, keys = reported(instance, loaded)
        except NotNow as error:
            return SkipReason(str(error))

        state, beside = now.state, now.beside
        # Here too, because `changes` may be off.
        note_what_is_left(instance, state, beside)
        names = ", ".join(key.to_user_string() for key in keys)
        words = f"Reported {names}." if names else "All as shown."
        if beside:
            words = f"{words} Left out while a run makes them: {listed(beside)}."
        if state.digest != loaded_digest:
            words = f"{words} {ask_for_reload()[1]}"
        return SkipReason(with_findings(words, state))

    return outside


def change_sensor(loaded: Graph, job: Any) -> SensorDefinition:
    """The sensor `changes`. Raises GraphError."""
    # A wrong budget stops the load of the project, and not each tick.
    check_budget()

    @sensor(
        name="changes",
        job=job,
        minimum_interval_seconds=seconds_between_ticks(),
        default_status=DefaultSensorStatus.STOPPED,
        description="Makes what changed code, parameters or sources have put out of date",
    )
    def changes(context: SensorEvaluationContext) -> SensorResult:
        instance = instance_of(context)
        try:
            # Here too, because the sensor `outside` may be off.
            now, _ = reported(instance, loaded)
            found = answer(instance, loaded, now)
        except NotNow as error:
            return SensorResult(skip_reason=SkipReason(str(error)))

        context.log.info(found.text)
        if found.request:
            return SensorResult(run_requests=[found.request], cursor=found.text)
        skip = SkipReason(with_findings(found.skip, now.state))
        return SensorResult(skip_reason=skip, cursor=found.text)

    return changes


def nightly_schedule(loaded: Graph, job: Any) -> ScheduleDefinition:
    """The schedule `nightly`: the same as `changes`, once a night. Raises GraphError."""
    zone = time_zone()

    @schedule(
        name="nightly",
        job=job,
        cron_schedule=nightly_at(),
        execution_timezone=zone,
        default_status=DefaultScheduleStatus.STOPPED,
        description=(
            "Makes what is out of date, once a night (NEEDLEWORK_NIGHTLY, a cron expression, in "
            f"the machine's time zone, {zone}; TZ sets another); before that, moves the pins of "
            "sources that follow a branch of the Hub"
        ),
    )
    def nightly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        instance = context.instance
        try:
            now = project_status(instance, loaded.root, patient=True)
            # An active run may be reading what a pin names.
            if not active_runs(instance) and (moved := move_pins(now.state.graph)):
                context.log.info("\n".join(moved))
                # A moved pin makes its source out of date.
                now = project_status(instance, loaded.root, patient=True)
            found = answer(instance, loaded, now)
        except NotNow as error:
            return SkipReason(str(error))

        context.log.info(found.text)
        return found.request or SkipReason(with_findings(found.skip, now.state))

    return nightly


def check_budget() -> None:
    """Raise GraphError if NEEDLEWORK_BUDGET is wrong."""
    try:
        budget()
    except ValueError as error:
        raise GraphError(str(error)) from None


def with_findings(words: str, state: State) -> str:
    """A tick's message, with the findings of `make check`."""
    return " ".join([words, *(f"make check finds: {text}" for text in state.findings)])
