"""Progress of long work: a bar in a terminal, one line every few seconds in a log.

With NEEDLEWORK_PROGRESS=json each such line is a JSON object, which orchestration/progress.py reads
and shows live in Dagster. A stage knows of no orchestrator. The cost: its numbers travel as text,
and a line of JSON that a stage prints for another reason could be taken for one.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from core.environment import PROGRESS, text_of

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

# Live enough for the UI; a day of training is 17,000 lines.
SECONDS_BETWEEN_LOG_LINES = 5.0


class Progress:
    """Counts work done against a total and shows rate and time left on stderr.

    total: units in all, None when unknown. unit: what is counted, e.g. "tok" or "doc".
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._bar = _bar(what, total, unit) if sys.stderr.isatty() else None
        self._start = self._last_line = time.monotonic()
        self._done = 0
        self._noted: dict[str, float] = {}

    def add(self, count: int, **noted: float) -> None:
        """Count `count` more units. noted: current numbers by name, say loss=3.2."""
        self._done, self._noted = self._done + count, noted

        if self._bar is not None:
            self._bar.update(count)
            if noted:
                self._bar.set_postfix_str(_words(noted), refresh=False)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LOG_LINES:
            self._print_line()

    def close(self) -> None:
        """Show the final state."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        # Work may end within one tick of the clock.
        rate = self._done / max(self._last_line - self._start, 1e-9)
        left = max(self._total - self._done, 0) / rate if self._total and rate else None

        line = self._json(rate, left) if text_of(PROGRESS) == "json" else self._text(rate, left)
        print(line, file=sys.stderr, flush=True)

    def _json(self, rate: float, left: float | None) -> str:
        step = {
            "what": self._what,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "rate": round(rate),
            "left": None if left is None else round(left),
            "noted": self._noted,
        }
        return json.dumps({"progress": step}, ensure_ascii=False)

    def _text(self, rate: float, left: float | None) -> str:
        of = "" if self._total is None else f"/{self._total:,} ({self._share():.0%})"
        parts = [f"{self._done:,}{of} {self._unit}", f"{rate:,.0f} {self._unit}/s"]
        if left is not None:
            parts.append(f"{left:,.0f} s left")
        if self._noted:
            parts.append(_words(self._noted))
        return f"{self._what}: {', '.join(parts)}"

    def _share(self) -> float:
        return self._done / max(self._total or 0, 1)


def _words(noted: dict[str, float]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in noted.items())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _bar(what: str, total: int | None, unit: str) -> "tqdm[Any]":
    # Imported here: only a terminal needs it, and a small stage spends its time on imports.
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True)


def tracked(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield the items and show progress, one unit each."""
    progress = Progress(what, total, unit)
    for item in items:
        yield item
        progress.add(1)
    progress.close()
