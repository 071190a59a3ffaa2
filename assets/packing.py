"""Packing: where each piece of each span goes in rows of exactly `chunk_length` tokens. No padding, in either way.

concatenate: spans laid end to end and chopped at every row's end, wherever that falls, as in the paper. Nearly every
row begins and ends inside a document.

best_fit: every span that fits a row stays whole where it can (best-fit decreasing, arXiv 2404.10830): longest first,
each into the fullest row with room for it. That paper pads what stays open; here the emptiest rows are taken apart to
fill the others, so that rows are full and only those few spans are cut.

Both lose one remainder shorter than a row. Both work on lengths alone: 40 bytes a piece, seconds for millions.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Pieces in order of row and place. Piece i: tokens start[i]:stop[i] of span span[i] stand in row row[i] from
    place at[i] on. All arrays int64, of one length; the pieces of a row tile it."""

    span: Lengths
    start: Lengths
    stop: Lengths
    row: Lengths
    at: Lengths

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.row[-1]) + 1 if len(self.row) else 0

    @property
    def length(self) -> Lengths:
        """Tokens in each piece."""
        return self.stop - self.start


def concatenate(lengths: Lengths, chunk_length: int) -> Layout:
    """Spans of these lengths end to end, chopped. What is left at the end and fills no row is in no piece."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1]) // chunk_length * chunk_length
    edges = np.union1d(offsets[offsets <= total], np.arange(0, total + 1, chunk_length))
    begin, end = edges[:-1], edges[1:]
    span = np.searchsorted(offsets, begin, side="right") - 1
    return Layout(span=span, start=begin - offsets[span], stop=end - offsets[span], row=begin // chunk_length,
                  at=begin % chunk_length)


def best_fit(lengths: Lengths, chunk_length: int) -> Layout:
    """As few spans cut as best-fit decreasing leaves; a span longer than a row gives whole rows and its rest."""
    whole = lengths // chunk_length
    spans = np.arange(len(lengths))
    own = np.repeat(spans, whole)
    nth = np.arange(len(own)) - np.repeat(np.cumsum(whole) - whole, whole)
    rest = np.flatnonzero(lengths % chunk_length)
    bins = _fullest_first(_best_fit_bins(rest, (lengths % chunk_length)[rest], chunk_length), lengths, chunk_length)
    rows = int(lengths.sum()) // chunk_length - len(own)
    pieces = [(nth * chunk_length, (nth + 1) * chunk_length, own, np.arange(len(own)))]
    filler = [span for spans_of_bin in bins[rows:] for span in spans_of_bin]
    filled = _filled(bins[:rows], filler, lengths, chunk_length)
    pieces.append((filled[:, 1], filled[:, 2], filled[:, 0], filled[:, 3] + len(own)))
    start, stop, span, row = (np.concatenate(columns).astype(np.int64) for columns in zip(*pieces, strict=True))
    order = np.lexsort((start, span, row))
    return _placed(span[order], start[order], stop[order], row[order])


def shuffled_rows(layout: Layout, order: NDArray[np.int64]) -> Layout:
    """The same rows, row order[i] now standing at i."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    row = place[layout.row]
    by_row = np.argsort(row, kind="stable")
    return Layout(span=layout.span[by_row], start=layout.start[by_row], stop=layout.stop[by_row], row=row[by_row],
                  at=layout.at[by_row])


def spans_cut(layout: Layout, lengths: Lengths, chunk_length: int) -> int:
    """How many spans that would fit a row stand in two, or lost a part to the remainder."""
    touched, tokens = np.unique(layout.span, return_counts=True)[0], np.zeros(len(lengths), np.int64)
    np.add.at(tokens, layout.span, layout.length)
    pieces = np.bincount(layout.span, minlength=len(lengths))
    fits = lengths[touched] <= chunk_length
    return int((fits & ((pieces[touched] > 1) | (tokens[touched] < lengths[touched]))).sum())


def _best_fit_bins(spans: Lengths, lengths: Lengths, chunk_length: int) -> list[list[int]]:
    """Best-fit decreasing: the spans of each bin. Spans of one length go together: after the first, the bin it went to
    is still the fullest with room, so it takes as many as fit."""
    waiting: dict[int, list[int]] = defaultdict(list)
    for span, length in zip(spans.tolist(), lengths.tolist(), strict=True):
        waiting[length].append(span)
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the rooms for which there is an open bin, ascending
    for length in sorted(waiting, reverse=True):
        todo = waiting[length][::-1]
        while todo:
            place = bisect_left(rooms, length)
            if place == len(rooms):
                number, room = len(bins), chunk_length
                bins.append([])
            else:
                room = rooms[place]
                number = open_bins[room].pop()
                if not open_bins[room]:
                    del rooms[place]
            count = min(len(todo), room // length)
            bins[number] += [todo.pop() for _ in range(count)]
            left = room - count * length
            if left:
                if not open_bins[left]:
                    insort(rooms, left)
                open_bins[left].append(number)
    return bins


def _fullest_first(bins: list[list[int]], lengths: Lengths, chunk_length: int) -> list[list[int]]:
    rests = (lengths % chunk_length).tolist()
    fill = np.array([sum(rests[span] for span in spans) for spans in bins], np.int64)
    return [bins[number] for number in np.argsort(-fill, kind="stable")]


def _filled(bins: list[list[int]], filler: list[int], lengths: Lengths, chunk_length: int) -> NDArray[np.int64]:
    """Columns span, start, stop, row: the bins as rows, their holes filled with the filler's tokens in order."""
    pieces: list[tuple[int, int, int, int]] = []
    position = 0  # how much of filler[0] is used
    stock = filler[::-1]
    for row, spans in enumerate(bins):
        hole = chunk_length
        for span in spans:
            size = int(lengths[span]) % chunk_length
            pieces.append((span, int(lengths[span]) - size, int(lengths[span]), row))
            hole -= size
        while hole:
            span = stock[-1]
            begin = int(lengths[span]) - int(lengths[span]) % chunk_length + position
            taken = min(hole, int(lengths[span]) - begin)
            pieces.append((span, begin, begin + taken, row))
            hole, position = hole - taken, position + taken
            if begin + taken == lengths[span]:
                stock.pop()
                position = 0
    return np.array(pieces, np.int64).reshape(-1, 4)


def _placed(span: Lengths, start: Lengths, stop: Lengths, row: Lengths) -> Layout:
    """Pieces in order of row, each put where the one before it in its row ends."""
    ends = np.cumsum(stop - start)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    before = np.zeros(len(row), np.int64)
    before[first] = np.diff((ends - (stop - start))[first], prepend=0)
    return Layout(span=span, start=start, stop=stop, row=row, at=ends - (stop - start) - np.cumsum(before))
