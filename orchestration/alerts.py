"""Alerts to a webhook: failed runs, failed checks, stalled work, loss spikes.

NEEDLEWORK_ALERT_URL names the webhook; without it nothing is sent. Each alert is one POST of JSON,
`{"text": ...}`, the form that Slack, Mattermost and most others accept. A sensor reports failed
runs, also those whose process died. The step itself reports the rest. The cost: an alert waits up
to 5 s for the webhook, is not sent again after a failure, and never fails a run.

- A failed check is reported once for each version of the data.
- Work is stalled if it writes no line of progress for NEEDLEWORK_STALL_MINUTES (30). The time
  counts from the start for items in the pool `gpu`, and from the first line for the others. A stall
  is reported once; the next line ends it.
- A loss is a spike if it is not finite, or if it is above the median of the last 20 losses by more
  than 0.5 and by more than 10 times their median absolute deviation. Fewer than 10 losses give no
  limit. A spike is reported once; the first loss below the limit ends it.
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
    DagsterEvent,
    DagsterInstance,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from core.environment import ALERT_URL, STALL_MINUTES, number_of, text_of
from orchestration.checks import Verdict, newly_failed
from orchestration.costs import GPU
from orchestration.graph import Item
from orchestration.progress import Step

# A step waits for the webhook, so a dead one must not hold it up for long.
SECONDS_TO_ANSWER = 5.0
# Characters of an alert: a chat shows no more.
LONGEST = 2_000
# Losses to compare with, and the fewest of them that give a usable median.
LINES, FEWEST_LINES = 20, 10
# A spike's least distance from the median: in nats, and in median absolute deviations. Either alone
# would report noise: the first in an early, steep curve, the second in a flat one.
RISE, TIMES = 0.5, 10.0


def alert(text: str) -> bool:
    """Send one alert. Returns whether the webhook accepted it.

    Never raises. A failure is one line on stderr, without the URL, because the URL is a secret.
    """
    url = text_of(ALERT_URL)
    if not url:
        return False

    body = json.dumps({"text": text[:LONGEST]}).encode()
    try:
        # urlopen also reads file: and ftp: addresses.
        if not url.startswith(("http://", "https://")):
            raise ValueError("not an http address")
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
            return True
    except (OSError, ValueError, HTTPException) as error:
        # The text of some of these errors holds the URL, so only the status or the class is shown.
        why = getattr(error, "code", None) or type(getattr(error, "reason", error)).__name__
        print(f"An alert was not sent ({why}). See {ALERT_URL}.", file=sys.stderr, flush=True)
        return False


def failure_sensor() -> SensorDefinition:
    """A sensor that reports failed runs. It is on if a webhook is named."""
    is_on = bool(text_of(ALERT_URL))

    @run_failure_sensor(
        name="alerts",
        default_status=DefaultSensorStatus.RUNNING if is_on else DefaultSensorStatus.STOPPED,
        description=f"Reports each failed run to the webhook of {ALERT_URL}",
    )
    def alerts(context: RunFailureSensorContext) -> None:
        alert(words_of_failure(context))

    return alerts


def words_of_failure(context: RunFailureSensorContext) -> str:
    """The run, and the first line of each failed step's reason."""
    run = context.dagster_run
    lines = [f"Needlework: run {run.run_id[:8]} of {run.job_name} failed."]
    for event in context.get_step_failure_events():
        lines.append(f"{event.step_key}: {_first_line(reason(event) or event.message or '')}")

    # A run whose process died has no failed step.
    if len(lines) == 1:
        lines.append(_first_line(context.failure_event.message or ""))
    return "\n".join(lines)


def reason(event: DagsterEvent) -> str:
    """Why a step or a run failed; "" if Dagster stored no reason."""
    if event.is_run_failure:
        error = event.job_failure_data.error
        return error.message.strip() if error else ""

    # A step that raises `Failure` describes it for the user. Other exceptions have only a message.
    data = event.step_failure_data
    described = data.user_failure_data.description if data.user_failure_data else None
    return (described or (data.error.message if data.error else "")).strip()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def alert_of_checks(
    instance: DagsterInstance, item: Item, verdicts: Sequence[Verdict], version: str
) -> None:
    """Report the checks of an item that fail for the first time."""
    if text_of(ALERT_URL):
        for verdict in newly_failed(instance, item, verdicts, version):
            alert(f"Needlework: check {verdict.name} of {item.address} failed: {verdict}")


@dataclass(kw_only=True, slots=True)
class Losses:
    """The losses of one training, line by line."""

    _before: deque[float] = field(default_factory=lambda: deque(maxlen=LINES))
    _high: bool = False

    def spike(self, loss: float) -> str:
        """The words of an alert about this loss; "" if no new spike starts with it."""
        limit = self.limit()
        high = not math.isfinite(loss) or loss > limit
        new = high and not self._high
        self._high = high

        usual = f"usual were {median(self._before):.4g}" if self._before else "the first one"
        # A NaN in the window would make every later median NaN.
        if math.isfinite(loss):
            self._before.append(loss)
        return f"loss {loss:.4g}, {usual}" if new else ""

    def limit(self) -> float:
        """The highest loss that is no spike now; infinite until there are enough losses."""
        if len(self._before) < FEWEST_LINES:
            return math.inf
        usual = median(self._before)
        spread = median(abs(loss - usual) for loss in self._before)
        return usual + max(RISE, TIMES * spread)


class Watch:
    """A context that watches the progress of one item while it is made."""

    def __init__(
        self, item: Item, tell: Callable[[str], object] = alert, minutes: float | None = None
    ) -> None:
        self._item = item
        self._send = tell
        self._seconds = 60 * (minutes or number_of(STALL_MINUTES))
        self._losses: dict[str, Losses] = {}
        self._line = Event()
        self._ended = False
        self._last = ""
        self._thread: Thread | None = None

    def __enter__(self) -> "Watch":
        # Other items may never write a line of progress, so silence from the start says nothing.
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
        # Wakes the thread, which then sees that the item has ended.
        self._line.set()
        if self._thread:
            self._thread.join()

    def note(self, step: Step) -> None:
        """Take in one line of progress."""
        self._last = str(step)
        self._line.set()
        if self._thread is None:
            self._begin()

        if "loss" in step.noted:
            losses = self._losses.setdefault(step.what, Losses())
            if spike := losses.spike(step.noted["loss"]):
                self._send(f"Needlework: {self._item.address}: loss spike: {spike}. {step}")

    def _begin(self) -> None:
        # Without a webhook the default `alert` does nothing, so the thread would be of no use.
        if text_of(ALERT_URL) or self._send is not alert:
            self._thread = Thread(target=self._wait, daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        while not self._ended:
            if self._line.wait(self._seconds):
                self._line.clear()
                continue

            self._send(
                f"Needlework: {self._item.address}: no progress for {self._seconds / 60:g} "
                f"minutes. Its last: {self._last or 'none yet'}"
            )
            # One alert for each stall: the next line of progress starts the clock again.
            self._line.wait()
