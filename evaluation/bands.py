"""Bands and points: the positions of a document at which the held-out loss is reported.

A band holds the tokens of a range of positions. A point is the last eighth before a position, of
documents that reach it. Their names stand in the reports' tables: "256-2048" is a band, "at 1024" a
point. So a reader of a table sees the positions, at the cost of parsing a name back here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINT = "at "


@dataclass(frozen=True, kw_only=True)
class Span:
    """Positions `low` to `high` of a document, `high` not included."""

    name: str
    low: int
    high: int
    whole: bool = False
    """Whether only documents that reach `high` count."""


def spans(bands: Sequence[int], points: Sequence[int]) -> list[Span]:
    """[256, 2048], [1024] -> the bands "0-256", "256-2048" and the point "at 1024".

    bands: their upper ends, in tokens, rising. points: positions.
    """
    found = []
    for low, high in zip((0, *bands[:-1]), bands, strict=True):
        found.append(
            Span(
                name=f"{low}-{high}",
                low=low,
                high=high,
            )
        )
    for point in points:
        # An eighth is long enough to average over, and short enough to be "at" the position.
        low = point - point // 8
        found.append(
            Span(
                name=f"{POINT}{point}",
                low=low,
                high=point,
                whole=True,
            )
        )
    return found


def is_point(name: str) -> bool:
    """Whether this is the name of a point, and not of a band: "at 1024", not "256-2048"."""
    return name.startswith(POINT)


def position_of(point: str) -> int:
    """ "at 1024" -> 1024."""
    return int(point.removeprefix(POINT))


def in_span(losses: NDArray[np.float32], span: Span) -> tuple[float, int]:
    """Sum of the losses in a span, in nats, and how many there are.

    losses: float32[length - 1]; entry i is the loss of the document's token i + 1.
    """
    if span.whole and len(losses) + 1 < span.high:
        return 0.0, 0
    part = losses[max(span.low - 1, 0) : span.high - 1]
    return float(part.sum(dtype=np.float64)), len(part)
