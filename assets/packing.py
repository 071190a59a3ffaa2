"""Packing: from spans of tokens to rows of exactly `chunk_length` tokens, without padding.

There are two ways. Both look at lengths alone, and both drop one remainder shorter than a row.

concatenate, as in the paper: lay the spans end to end and cut at the end of every row. It is fast
and takes 40 bytes a piece. The cost: nearly every row begins and ends inside a document.

best_fit (assets/best_fit.py): keep a span whole where it fits into a row, and put copies of a text
into different rows. The cost: about 10 microseconds and 200 bytes a span.

Example: three documents A, B and C of 3, 4 and 1 tokens. These eight tokens fill two rows of 4:

    concatenate    row 0: A0 A1 A2 B0    row 1: B1 B2 B3 C0    B is cut
    best_fit       row 0: B0 B1 B2 B3    row 1: A0 A1 A2 C0    no document is cut

A layout has one entry for each piece. `concatenate` cuts B (span 1) into two pieces:

>>> lengths = np.array([3, 4, 1])
>>> rows = concatenate(lengths, chunk_length=4)
>>> for piece in zip(rows.span, rows.start, rows.stop, rows.row, rows.at):
...     print("span {}, tokens {}:{} -> row {}, place {}".format(*piece))
span 0, tokens 0:3 -> row 0, place 0
span 1, tokens 0:1 -> row 0, place 3
span 1, tokens 1:4 -> row 1, place 0
span 2, tokens 0:1 -> row 1, place 3
>>> cuts(rows, lengths, chunk_length=4)
1

`best_fit` needs one piece for each document:

>>> from assets.best_fit import best_fit
>>> rows = best_fit(lengths, chunk_length=4)
>>> rows.span.tolist(), rows.row.tolist(), rows.at.tolist()
([1, 0, 2], [0, 1, 1], [0, 0, 3])
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]
Texts = NDArray[np.int64] | NDArray[np.uint64]
"""One number for each span. Spans with the same number are copies of one text."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each piece goes, ordered by row and then by place. All arrays are int64[pieces].

    The pieces of a row fill it exactly, without gap and without overlap.
    """

    span: Lengths
    """The span that the piece belongs to."""
    start: Lengths
    """Its first token, counted from the beginning of the span."""
    stop: Lengths
    """The token after its last one."""
    row: Lengths
    """The row it goes to."""
    at: Lengths
    """Its first place in that row."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.row[-1]) + 1 if len(self.row) else 0

    @property
    def length(self) -> Lengths:
        """Tokens in each piece, int64[pieces]."""
        return self.stop - self.start


def concatenate(lengths: Lengths, chunk_length: int) -> Layout:
    """Lay the spans end to end and cut at the end of every row.

    lengths: tokens of each span, int64[spans]. The tokens after the last full row are dropped.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1]) // chunk_length * chunk_length

    # A piece ends where its span ends or where its row ends, whichever comes first.
    span_ends = offsets[offsets <= total]
    row_ends = np.arange(0, total + 1, chunk_length)
    edges = np.union1d(span_ends, row_ends)
    begin, end = edges[:-1], edges[1:]

    # side="right": several offsets are equal where spans are empty, and the last one has tokens.
    span = np.searchsorted(offsets, begin, side="right") - 1
    return Layout(
        span=span,
        start=begin - offsets[span],
        stop=end - offsets[span],
        row=begin // chunk_length,
        at=begin % chunk_length,
    )


def shuffled_rows(layout: Layout, order: NDArray[np.int64]) -> Layout:
    """The same rows in another order: row i of the result is row order[i] of `layout`."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    row = place[layout.row]

    by_row = np.argsort(row, kind="stable")  # stable: pieces keep their order inside a row
    return Layout(
        span=layout.span[by_row],
        start=layout.start[by_row],
        stop=layout.stop[by_row],
        row=row[by_row],
        at=layout.at[by_row],
    )


def spans_cut(layout: Layout, lengths: Lengths, chunk_length: int) -> int:
    """The number of spans that are in more pieces than necessary, or that lost some tokens.

    A span needs one piece for each row that it can fill, and one for its rest.
    """
    tokens = np.zeros(len(lengths), np.int64)
    np.add.at(tokens, layout.span, layout.length)

    lost_some = (tokens > 0) & (tokens < lengths)
    in_more_pieces = _extra_pieces(layout, lengths, chunk_length) > 0
    return int((lost_some | in_more_pieces).sum())


def cuts(layout: Layout, lengths: Lengths, chunk_length: int) -> int:
    """The number of pieces beyond those that the lengths of the spans require."""
    return int(_extra_pieces(layout, lengths, chunk_length).sum())


def copies_together(layout: Layout, texts: Texts) -> int:
    """The number of spans that share a row with an earlier copy of their text."""
    number = np.unique(texts, return_inverse=True)[1]

    # One integer for each (row, span): np.unique is much faster on integers than on pairs.
    present = np.unique(layout.row * len(texts) + layout.span)
    row, span = np.divmod(present, max(len(texts), 1))
    return len(present) - len(np.unique(row * len(texts) + number[span]))


def _extra_pieces(layout: Layout, lengths: Lengths, chunk_length: int) -> Lengths:
    """For each span the pieces beyond those that it needs, int64[spans]."""
    pieces = np.bincount(layout.span, minlength=len(lengths))
    needed = -(-lengths // chunk_length)  # rounded up
    return np.maximum(pieces - needed, 0)
