"""Lines of progress as numbers: what a stage prints about its long work, for Dagster to plot while
it is at work.

A stage says how far it is in a line of text (assets/progress.py), for it knows of no orchestrator.
Here such a line is read back and becomes an observation of its asset: an event with numbers, at
once in the run's log and on the asset's page, that says nothing of what the asset is made of and so
leaves versions and marks alone. The cost is a row in Dagster's database for each, hence the pauses
between them, which grow with the length of the work: some 2,500 rows for ten days.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dagster import AssetKey, AssetObservation, MetadataValue

LINE = re.compile(
    r"(?P<what>.+?): (?P<done>[\d,]+)(?:/(?P<total>[\d,]+) \(\d+%\))? (?P<unit>\S+), "
    r"(?P<rate>[\d,]+) (?P=unit)/s(?:, (?P<left>[\d,]+) s left)?(?:, (?P<note>.+))?"
)
NOTE = re.compile(
    r"(?P<name>[^\d\s].*?) (?P<value>[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?P<of>/[\d,]+)?%?",
    re.IGNORECASE,
)
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
    """The numbers in the note at the end: the step, the loss. A percentage is its number, 45 for 45
    %.
    """


def progress_of(line: str) -> Step | None:
    """What a line of progress says; None for any other line."""
    found = LINE.fullmatch(line.strip())
    if found is None:
        return None
    total, left = found["total"], found["left"]
    return Step(
        what=found["what"],
        done=_whole(found["done"]),
        total=_whole(total) if total else None,
        unit=found["unit"],
        rate=_whole(found["rate"]),
        left=_whole(left) if left else None,
        noted=dict(_noted(found["note"] or "")),
    )


def observation(key: AssetKey, step: Step, line: str) -> AssetObservation:
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
        description=line.strip(),
        metadata={
            **metadata,
            **{name: MetadataValue.float(number) for name, number in step.noted.items()},
        },
    )


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


def _noted(note: str) -> Iterator[tuple[str, float]]:
    for part in note.split(", "):
        found = NOTE.fullmatch(part.strip())
        if found is not None and math.isfinite(value := float(found["value"].replace(",", ""))):
            yield found["name"], value


def _whole(text: str) -> int:
    return int(text.replace(",", ""))
