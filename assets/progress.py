"""Progress of long work: a bar in a terminal, one plain line every few seconds in a log (Dagster
shows those live).
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LOG_LINES = 5.0


class Progress:
    """Counts work done against a total and shows rate and time left on stderr.

    total: units in all, None when unknown. unit: what is counted, e.g. "tok" or "doc".
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._bar = _bar(what, total, unit) if sys.stderr.isatty() else None
        self._done, self._start, self._last_line, self._note = (
            0,
            time.monotonic(),
            time.monotonic(),
            "",
        )

    def add(self, count: int, note: str = "") -> None:
        """Count `count` more units; `note` (say, the loss) stands at the end of the line."""
        self._done, self._note = self._done + count, note
        if self._bar is not None:
            self._bar.update(count)
            if note:
                self._bar.set_postfix_str(note, refresh=False)
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
        rate = self._done / max(self._last_line - self._start, 1e-9)
        of = (
            f"/{self._total:,} ({self._done / max(self._total, 1):.0%})"
            if self._total is not None
            else ""
        )
        left = (
            f", {max(self._total - self._done, 0) / rate:,.0f} s left"
            if self._total and rate
            else ""
        )
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._what}: {self._done:,}{of} {self._unit}, {rate:,.0f} "
            f"{self._unit}/s{left}{note}",
            file=sys.stderr,
            flush=True,
        )


def _bar(what: str, total: int | None, unit: str) -> "tqdm[Any]":
    from tqdm import (
        tqdm,
    )  # here, for without a terminal it is not needed, and small stages are mostly imports

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True)


def tracked(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield the items, showing progress by one unit each."""
    progress = Progress(what, total, unit)
    for item in items:
        yield item
        progress.add(1)
    progress.close()
