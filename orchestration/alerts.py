"""What somebody should hear of at once goes to a webhook: failed runs, failed checks, stalled work,
loss spikes.

NEEDLEWORK_ALERT_URL names it; without it nothing is sent. Each alert is one POST of JSON,
`{"text": ...}`, as Slack, Mattermost and most others take it. Failed runs come from a sensor, so a
run whose process died is told of too. The rest comes from the step that sees it. The cost: an alert
waits up to 5 s for the webhook, is not repeated if that fails, and never fails a run.

- A failed check is told of once for each version of the data.
- Work stalls that writes no line of progress for NEEDLEWORK_STALL_MINUTES (30). Counted from the
  start for what is in the pool `gpu`, and from the first such line for the rest; told of once until
  a line comes.
- A loss spikes that is not a number, or above the median of the 20 lines of progress before it by
  more than 0.5 and more than 10 times their median distance from that median. It needs 10 lines
  before it. It is told of once until the loss is back below that.
"""

import json
import math
import sys
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from statistics import median
from threading import Event, Thread
from types import TracebackType

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from core.environment import ALERT_URL, STALL_MINUTES, number_of, text_of
from orchestration.checks import Verdict
from orchestration.costs import GPU
from orchestration.graph import Item
from orchestration.progress import Step
from orchestration.verdicts import last_verdict

SECONDS_TO_ANSWER = 5.0
LONGEST = 2_000
"""Characters of an alert: a chat shows no more."""
LINES, FEWEST_LINES = 20, 10
"""Of progress, that a loss is compared with."""
RISE, TIMES = 0.5, 10.0
"""A spike's least distance from their median: in nats, and in median distances."""


def alert(text: str) -> bool:
    """Send one alert; whether it was taken. Never raises; what went wrong is one line on stderr,
    without the URL, which is a secret.
    """
    url = text_of(ALERT_URL)
    if not url:
        return False
    body = json.dumps({"text": text[:LONGEST]}).encode()
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("not an http address")
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
            return True
    except (OSError, ValueError, HTTPException) as error:
        why = getattr(error, "code", None) or type(getattr(error, "reason", error)).__name__
        print(f"An alert was not sent ({why}). See {ALERT_URL}.", file=sys.stderr, flush=True)
        return False


def failure_sensor() -> SensorDefinition:
    """A sensor that tells of failed runs. On where there is a webhook."""

    @run_failure_sensor(
        name="alerts",
        default_status=DefaultSensorStatus.RUNNING
        if text_of(ALERT_URL)
        else DefaultSensorStatus.STOPPED,
        description=f"Tells the webhook of {ALERT_URL} of each failed run",
    )
    def alerts(context: RunFailureSensorContext) -> None:
        alert(words_of_failure(context))

    return alerts


def words_of_failure(context: RunFailureSensorContext) -> str:
    """The run, and the first line that each failed step says."""
    run = context.dagster_run
    lines = [f"Needlework: run {run.run_id[:8]} of {run.job_name} failed."]
    for event in context.get_step_failure_events():
        error = event.step_failure_data.user_failure_data
        told = error.description if error else None
        lines.append(f"{event.step_key}: {_first_line(told or event.message or '')}")
    if len(lines) == 1:
        lines.append(_first_line(context.failure_event.message or ""))
    return "\n".join(lines)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def newly_failed(
    instance: DagsterInstance, item: Item, verdicts: Sequence[Verdict], version: str
) -> list[Verdict]:
    """The checks that failed, and had not for this version of the data. To be asked before the
    verdicts are stored.
    """
    failed = [verdict for verdict in verdicts if verdict.made and not verdict.passed]
    known = {
        verdict.name: last_verdict(instance, item, verdict.name, version) for verdict in failed
    }
    return [verdict for verdict in failed if (told := known[verdict.name]) is None or told.passed]


def alert_of_checks(
    instance: DagsterInstance, item: Item, verdicts: Sequence[Verdict], version: str
) -> None:
    """Tell of the checks of an item that fail for the first time."""
    if text_of(ALERT_URL):
        for verdict in newly_failed(instance, item, verdicts, version):
            alert(
                f"Needlework: check {verdict.name} of {item.address} failed: expected "
                f"{verdict.expected}; found {verdict.found}. {verdict.advice}"
            )


@dataclass(kw_only=True, slots=True)
class Losses:
    """The losses of one piece of work, line by line."""

    _before: deque[float] = field(default_factory=lambda: deque(maxlen=LINES))
    _high: bool = False

    def spike(self, loss: float) -> str:
        """What to say of this loss; "" if it is no new spike."""
        limit = self.limit()
        high = not math.isfinite(loss) or loss > limit
        new, self._high = high and not self._high, high
        usual = f"usual were {median(self._before):.4g}" if self._before else "the first one"
        if math.isfinite(loss):
            self._before.append(loss)
        return f"loss {loss:.4g}, {usual}" if new else ""

    def limit(self) -> float:
        """What a loss must not exceed now."""
        if len(self._before) < FEWEST_LINES:
            return math.inf
        usual = median(self._before)
        spread = median(abs(loss - usual) for loss in self._before)
        return usual + max(RISE, TIMES * spread)


class Watch:
    """Watches the lines of one item's progress while it is made; a context."""

    def __init__(
        self, item: Item, tell: Callable[[str], object] = alert, minutes: float | None = None
    ) -> None:
        self._item, self._tell = item, tell
        self._seconds = 60 * (minutes or number_of(STALL_MINUTES))
        self._losses: dict[str, Losses] = {}
        self._line, self._ended, self._last = Event(), False, ""
        self._thread: Thread | None = None

    def __enter__(self) -> "Watch":
        if self._item.pool == GPU:
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._line.set()
        if self._thread:
            self._thread.join()

    def note(self, step: Step) -> None:
        """A line of progress has come."""
        self._last = str(step)
        self._line.set()
        if self._thread is None:
            self._begin()
        if "loss" in step.noted:
            losses = self._losses.setdefault(step.what, Losses())
            if told := losses.spike(step.noted["loss"]):
                self._tell(f"Needlework: {self._item.address}: loss spike: {told}. {step}")

    def _begin(self) -> None:
        if text_of(ALERT_URL) or self._tell is not alert:
            self._thread = Thread(target=self._wait, daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        while not self._ended:
            if self._line.wait(self._seconds):
                self._line.clear()
                continue
            self._tell(
                f"Needlework: {self._item.address}: no progress for {self._seconds / 60:g} "
                f"minutes. Its last: {self._last or 'none yet'}"
            )
            self._line.wait()
