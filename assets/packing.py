"""Packing: spans laid end to end and chopped every `chunk_length` tokens, wherever that falls, as in the paper.

No padding and no wasted token but one remainder shorter than a row; the cost is that a document may start in one row
and end in the next. The source spans of each row are kept, so training can mask across documents or not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from assets.token_store import Tokens


@dataclass(frozen=True, kw_only=True)
class Row:
    """One packed row: exactly `chunk_length` tokens, and which part of it came from which source."""

    tokens: Tokens
    sources: list[tuple[str, int, int]]
    """(source, start, end): tokens start:end of this row are one span of that source. They tile the row in order."""


def pack(spans: Iterable[tuple[str, Tokens]], chunk_length: int) -> Iterator[Row]:
    """Chop the spans' tokens into rows; what is left at the end and fills no row is not yielded."""
    held: list[Tokens] = []
    sources: list[tuple[str, int, int]] = []
    filled = 0
    for source, tokens in spans:
        position = 0
        while position < len(tokens):
            taken = tokens[position:position + chunk_length - filled]
            held.append(taken)
            sources.append((source, filled, filled + len(taken)))
            filled, position = filled + len(taken), position + len(taken)
            if filled == chunk_length:
                yield Row(tokens=np.concatenate(held), sources=sources)
                held, sources, filled = [], [], 0
