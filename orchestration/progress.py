"""Progress of a running item, for Dagster to plot live.

A stage prints how far it is as a line of JSON (core/progress.py), for it knows of no
orchestrator. Here such a line is read back and becomes an observation of its asset: an event with
numbers, at once in the run's log and on the asset's page, that says nothing of what the asset is
made of and so leaves versions and marks alone. The cost is a row in Dagster's database for each,
hence the pauses between them, which grow with the length of the work: some 2,500 rows for ten days.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dagster import AssetKey, AssetObservation, MetadataValue

BEGIN = '{"progress": '
SECONDS_BETWEEN = 30.0
SHARE_BETWEEN = 1 / 500
"""Of the time that the work has taken: the pause after it, where that is longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """How far a piece of work is."""

    what: str
    done: int
    total: int | None
    unit: str
    rate: int
    """Units a second."""
    left: int | None
    """Seconds, where the total is known."""
    noted: dict[str, float] = field(default_factory=dict)
    """Further numbers of now: the step, the loss."""

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total:,} ({self.done / max(self.total, 1):.0%})"
        parts = [f"{self.done:,}{of} {self.unit}", f"{self.rate:,} {self.unit}/s"]
        if self.left is not None:
            parts.append(f"{self.left:,} s left")
        parts += [f"{name} {value:.4g}" for name, value in self.noted.items()]
        return f"{self.what}: {', '.join(parts)}"


def progress_of(line: str) -> Step | None:
    """What a line of progress says; None for any other line."""
    if not line.startswith(BEGIN):
        return None
    try:
        step = Step(**json.loads(line)["progress"])
        return replace(step, noted={name: float(value) for name, value in step.noted.items()})
    except (ValueError, TypeError):
        return None


def observation(key: AssetKey, step: Step) -> AssetObservation:
    """The event that shows it: Dagster plots each number over time."""
    numbers = {
        "done": step.done,
        "total": step.total,
        f"{step.unit}/s": step.rate,
        "seconds left": step.left,
    }
    metadata = {
        name: MetadataValue.int(number) for name, number in numbers.items() if number is not None
    }
    return AssetObservation(
        key,
        description=str(step),
        metadata={
            **metadata,
            **{name: MetadataValue.float(number) for name, number in finite(step.noted).items()},
        },
    )


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those that can be plotted."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


@dataclass(kw_only=True, slots=True)
class Pace:
    """When a piece of work is shown again: its first line and its last one, and between them now
    and then.
    """

    _first: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def due(self, address: str, step: Step, now: float) -> bool:
        """Whether to show this line; if so, the next pause begins at `now` (seconds of any clock)."""
        work = (address, step.what)
        first = self._first.setdefault(work, now)
        last, done = self._last.get(work, (-math.inf, -1))
        pause = max(SECONDS_BETWEEN, (now - first) * SHARE_BETWEEN)
        if now - last < pause and (step.done != step.total or step.done == done):
            return False
        self._last[work] = now, step.done
        return True
