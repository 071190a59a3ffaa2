"""Tally: what became of every record, so that nothing is lost silently.

A record is kept, skipped under a named reason, or left to another domain. Every reason has a limit,
a share of the records read. Past its limit the stage stops. Each skipped record is a row of
skipped.csv, written at once: there may be millions, and memory does not hold them.
"""

import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from assets.documents import FIELD_MISSING, NOT_A_STRING, OTHER_DOMAIN
from assets.records import OVERSIZE, Skipped
from assets.source_files import NAMED, shown
from core.errors import UserError
from core.params import Config

OTHERS = 8
"""Names of other domains to keep, for the message that no record is of the wanted domain."""
Share = Annotated[float, Field(ge=0, le=1)]
SkippedRow = tuple[str, str, int]
"""Reason, file, line or row number."""

EMPTY = Skipped(reason="empty")
TOO_LONG = Skipped(reason=OVERSIZE)
DUPLICATE = Skipped(reason="duplicates")
CONTAMINATED = Skipped(reason="contaminated")
LONE_SURROGATES = Skipped(reason="lone_surrogates", detail="replaced by question marks")
ZERO_BYTES = Skipped(reason="zero_bytes", detail="dropped from the text")


class Limits(Config):
    """The largest share of the records read that each reason may take."""

    broken_json: Share = 0.01
    field_missing: Share = 0.01
    undecodable: Share = 0.01
    text_not_a_string: Share = 0.01
    oversize: Share = 0.01
    empty: Share = 0.05
    contaminated: Share = 0.01
    duplicates: Share = 1.0
    no_domain: Share = 1.0
    """Records whose domain field is null, or holds something that is not a name."""
    lone_surrogates: Share = 1.0
    """Documents kept with question marks for lone surrogates, which UTF-8 cannot express."""
    zero_bytes: Share = 1.0
    """Documents kept without their zero bytes."""


def _no_counts() -> Counter[str]:
    """The counts before the first record."""
    # These are always in the metrics, even if they are 0.
    return Counter(documents=0, heldout=0, bytes=0, duplicates=0, empty=0, contaminated=0)


@dataclass(kw_only=True)
class Tally:
    """Counts of the records read so far."""

    list_skipped: Callable[[SkippedRow], object]
    """Receives a row for every record skipped or changed."""
    counts: Counter[str] = field(default_factory=_no_counts)
    parts: Counter[str] = field(default_factory=Counter)
    """Records read from each file, those of other domains included."""
    contaminated: Counter[str] = field(default_factory=Counter)
    """Contaminated records of each file that has some."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Files that were not read, and why."""
    first: dict[str, str] = field(default_factory=dict)
    """For each reason the place of its first record, and its detail."""
    others: set[str] = field(default_factory=set)
    """The first names of other domains."""

    def skip(self, skipped: Skipped, file: str, line: int) -> None:
        """Count a skipped record and list its place."""
        self._count("skipped", skipped, file, line)

    def change(self, changed: Skipped, file: str, line: int) -> None:
        """Count a document that is kept with a changed text, and list its place."""
        self._count("changed", changed, file, line)

    def leave(self, other: Skipped) -> None:
        """Count a record of another domain."""
        self.counts[OTHER_DOMAIN] += 1
        if len(self.others) < OTHERS:
            self.others.add(other.detail)

    def _count(self, what: str, found: Skipped, file: str, line: int) -> None:
        """Count, list and perhaps print a record. what: skipped or changed."""
        self.counts[found.reason] += 1
        self.list_skipped((found.reason, file, line))

        place = f"{file}, line {line}{': ' if found.detail else ''}{found.detail}"
        self.first.setdefault(found.reason, place)
        # Duplicates are normal in a corpus, so they are counted and not printed.
        if self.counts[found.reason] <= NAMED and found != DUPLICATE:
            print(f"{what}: {found.reason}: {place}", file=sys.stderr)

    @property
    def records(self) -> int:
        """Records read, without those of other domains."""
        return sum(self.parts.values()) - self.counts[OTHER_DOMAIN]


def check(tally: Tally, limits: Limits, source: Path, records: int, least: float = 0) -> None:
    """Raise UserError if a reason took more than its share of `records`.

    source: for the message. records: the number that the limits are shares of.
    least: a lower limit counts as this one.
    """
    for reason, limit in limits.model_dump().items():
        count = tally.counts[reason]
        # A quotient: 0.29 * 100 is less than 29, so 29 of 100 would be more than 0.29.
        if not count or count / records <= max(limit, least):
            continue

        # If every record lacks the field, its name in params.yaml is wrong, not the records.
        wrong_name = reason in (FIELD_MISSING, NOT_A_STRING) and count == tally.records
        cure = "Correct the field's name" if wrong_name else "Fix them, or raise the limit"
        raise UserError(
            f"{shown(source)}: {count:,} of {tally.records:,} records are {reason}, more than "
            f"raw_corpus.limits.{reason} = {limit}. The first: {tally.first[reason]}. {cure}."
        )


@contextmanager
def skipped_table(path: Path, left: Path) -> Iterator[Callable[[SkippedRow], object]]:
    """Write skipped.csv: yields a function that takes one row.

    left: if the body raises UserError, the table moves there and the message names it. The folder
    of `path` is removed then, and the user needs the list to fix the records.
    """
    left.unlink(missing_ok=True)
    rows = 0
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["reason", "file", "line"])

            def write(row: SkippedRow) -> None:
                nonlocal rows
                rows += 1
                writer.writerow(row)

            yield write
    except UserError as error:
        if not rows:
            raise
        left.parent.mkdir(parents=True, exist_ok=True)
        path.replace(left)
        raise UserError(f"{error} {left} lists the {rows:,} records skipped so far.") from None
