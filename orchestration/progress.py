"""Turn the progress lines of a running item into observations, which Dagster plots live.

A stage does not know any orchestrator; it prints its progress as lines of JSON (core/progress.py).
Each line that is shown becomes an observation of the asset: an event with numbers, at once in the
run's log and on the asset's page. An observation does not change the asset's versions or marks. The
cost is one row in Dagster's database for each. So there are pauses between them, which grow with
the length of the work: some 2,500 rows for ten days.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dagster import AssetKey, AssetObservation, MetadataValue

# The prefix is tested first: it is cheap, and few lines of a log are JSON.
BEGIN = '{"progress": '
# A plot with two points a minute is live enough for work of hours.
SECONDS_BETWEEN = 30.0
SHARE_BETWEEN = 1 / 500
"""The pause as a share of the time since the work began, if that is longer than SECONDS_BETWEEN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The progress of one piece of work."""

    what: str
    done: int
    total: int | None
    unit: str
    rate: int
    """Units per second."""
    left: int | None
    """Remaining seconds, if the total is known."""
    noted: dict[str, float] = field(default_factory=dict)
    """Other current numbers: the step, the loss."""

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total:,} ({self.done / max(self.total, 1):.0%})"
        parts = [f"{self.done:,}{of} {self.unit}", f"{self.rate:,} {self.unit}/s"]
        if self.left is not None:
            parts.append(f"{self.left:,} s left")
        parts += [f"{name} {value:.4g}" for name, value in self.noted.items()]
        return f"{self.what}: {', '.join(parts)}"


def progress_of(line: str) -> Step | None:
    """The progress in a line. None for any other line."""
    if not line.startswith(BEGIN):
        return None
    try:
        step = Step(**json.loads(line)["progress"])
        return replace(step, noted={name: float(value) for name, value in step.noted.items()})
    except (ValueError, TypeError):
        # A cut line, or one of another version of the project: it goes to the log as text.
        return None


def observation(key: AssetKey, step: Step) -> AssetObservation:
    """The event that shows a step. Dagster plots each of its numbers over time."""
    numbers = {
        "done": step.done,
        "total": step.total,
        f"{step.unit}/s": step.rate,
        "seconds left": step.left,
    }

    metadata = dict[str, MetadataValue[Any]]()
    for name, number in numbers.items():
        if number is not None:
            metadata[name] = MetadataValue.int(number)
    for name, value in finite(step.noted).items():
        metadata[name] = MetadataValue.float(value)
    return AssetObservation(key, description=str(step), metadata=metadata)


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers that can be plotted. A loss may be NaN."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


@dataclass(kw_only=True, slots=True)
class Pace:
    """Decides which lines of a piece of work are shown: the first, the last, and some between."""

    _first: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def due(self, address: str, step: Step, now: float) -> bool:
        """Whether to show this line. If so, the next pause begins at `now` (seconds, any clock)."""
        work = (address, step.what)
        first = self._first.setdefault(work, now)
        last, done = self._last.get(work, (-math.inf, -1))
        pause = max(SECONDS_BETWEEN, (now - first) * SHARE_BETWEEN)
        # The last line is always shown, but once: a stage may repeat it.
        is_last = step.done == step.total and step.done != done
        if now - last < pause and not is_last:
            return False

        self._last[work] = now, step.done
        return True
