"""Packing: where each piece of each span goes in rows of exactly `chunk_length` tokens. No padding,
in either way.

concatenate: spans laid end to end and chopped at every row's end, wherever that falls, as in the
paper. Nearly every row begins and ends inside a document.

best_fit: a span that fits a row stays whole where it can. Rows are filled one after the other, the
longest span that fits first (first-fit decreasing, as in arXiv 2404.10830). That paper pads what
stays open. Here one span of the row is exchanged for one or two others that fill the row exactly;
in a corpus of pages this closes all rows but a few in a thousand. What still stays open is filled
with one part of one longer span. A remainder too small for a useful part is widened first, and a
span that gave several parts gives no more, so that no span is shredded. Such a row costs one cut.

Copies of a text stand in different rows. If only copies are left for a row, pieces are exchanged
with other rows, at the price of a cut. In every corpus tried this separated copies that fit a row
and are at most half as many as there are rows. With more copies the greedy search may miss the only
arrangement that separates them.

Both ways lose one remainder shorter than a row, and both look at lengths alone. concatenate takes
40 bytes a piece. best_fit goes span by span in Python: about 200 bytes and 10 microseconds a span.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]
Texts = NDArray[np.int64] | NDArray[np.uint64]

ALONE = -1
"""The text of a span that has no copy."""
SHORTEST_PIECE = 64
"""Tokens. A shorter remainder of a row is widened before it is filled with a part of a span, where
that can be done; in rows of less than 2,048 tokens, a remainder of less than a 32nd."""
MOST_PIECES = 8
"""A span that fills remainders is cut into at most this many pieces,
unless there is no other span."""
DONORS_TRIED = 8
PAIRS_TRIED = 500
PLACES_TRIED = 4
"""How long to search for two spans that close a row, by sizes and by places of the row."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Pieces in order of row and place. Piece i: tokens start[i]:stop[i] of span span[i] stand in
    row row[i] from place at[i] on. All arrays int64, of one length; the pieces of a row tile it."""

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
    """Spans of these lengths end to end, chopped. What is left at the end and fills no row is in no
    piece."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1]) // chunk_length * chunk_length
    edges = np.union1d(offsets[offsets <= total], np.arange(0, total + 1, chunk_length))
    begin, end = edges[:-1], edges[1:]
    span = np.searchsorted(offsets, begin, side="right") - 1
    return Layout(
        span=span,
        start=begin - offsets[span],
        stop=end - offsets[span],
        row=begin // chunk_length,
        at=begin % chunk_length,
    )


def best_fit(lengths: Lengths, chunk_length: int, texts: Texts | None = None) -> Layout:
    """Few spans cut, and none shredded; a span longer than a row gives whole rows and its rest.

    texts: a number for each span, integer[spans]; spans of one number are copies of each other and
    stand in different rows as far as rows can be arranged so. None: there are no copies.
    """
    whole = lengths // chunk_length
    spans = np.arange(len(lengths))
    own = np.repeat(spans, whole)
    nth = np.arange(len(own)) - np.repeat(np.cumsum(whole) - whole, whole)

    rows = _Rows(chunk_length, _copied(texts, len(lengths)))
    for span, number in zip(own.tolist(), nth.tolist(), strict=True):
        rows.add([rows.piece(span, number * chunk_length, (number + 1) * chunk_length)])
    rest = np.flatnonzero(lengths % chunk_length)
    starts = (whole * chunk_length)[rest]
    rows.stock.put_all(
        [
            rows.piece(span, start, stop)
            for span, start, stop in zip(
                rest.tolist(), starts.tolist(), lengths[rest].tolist(), strict=True
            )
        ]
    )
    for _ in range(int(lengths.sum()) // chunk_length - len(own)):
        rows.fill()
    rows.part_copies()

    return _placed(*_joined(*rows.columns()))


def shuffled_rows(layout: Layout, order: NDArray[np.int64]) -> Layout:
    """The same rows, row order[i] now standing at i."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    row = place[layout.row]
    by_row = np.argsort(row, kind="stable")
    return Layout(
        span=layout.span[by_row],
        start=layout.start[by_row],
        stop=layout.stop[by_row],
        row=row[by_row],
        at=layout.at[by_row],
    )


def spans_cut(layout: Layout, lengths: Lengths, chunk_length: int) -> int:
    """How many spans stand in more pieces than their length needs, or lost a part to the remainder.
    A span needs one piece for each row that it could fill, and one for its rest."""
    tokens = np.zeros(len(lengths), np.int64)
    np.add.at(tokens, layout.span, layout.length)
    is_short = (tokens > 0) & (tokens < lengths)
    return int((is_short | (_needless(layout, lengths, chunk_length) > 0)).sum())


def cuts(layout: Layout, lengths: Lengths, chunk_length: int) -> int:
    """How many pieces there are beyond those that the spans' lengths need."""
    return int(_needless(layout, lengths, chunk_length).sum())


def copies_together(layout: Layout, texts: Texts) -> int:
    """How many spans stand in a row with a copy that comes before them. texts: as in `best_fit`."""
    number = np.unique(texts, return_inverse=True)[1]
    standing = np.unique(layout.row * len(texts) + layout.span)
    row, span = np.divmod(standing, max(len(texts), 1))
    return len(standing) - len(np.unique(row * len(texts) + number[span]))


def _needless(layout: Layout, lengths: Lengths, chunk_length: int) -> Lengths:
    """For each span how many pieces it has beyond those it needs, int64[spans]."""
    pieces = np.bincount(layout.span, minlength=len(lengths))
    return np.maximum(pieces - -(-lengths // chunk_length), 0)


def _copied(texts: Texts | None, spans: int) -> list[int]:
    """For each span the number of its text, or ALONE where no other span has that text."""
    if texts is None:
        return [ALONE] * spans
    _, number, count = np.unique(texts, return_inverse=True, return_counts=True)
    return np.where(count[number] > 1, number, ALONE).tolist()


class _Stock:
    """Pieces that are in no row yet, found by their size."""

    def __init__(self, size: list[int], text: list[int]) -> None:
        self._size = size
        self._text = text
        self._sizes: list[int] = []  # that are there, ascending
        self._pieces: dict[int, list[int]] = {}

    def put(self, piece: int) -> None:
        """Add a piece."""
        size = self._size[piece]
        if size not in self._pieces:
            insort(self._sizes, size)
            self._pieces[size] = []
        self._pieces[size].append(piece)

    def put_all(self, pieces: list[int]) -> None:
        """Add many pieces."""
        for piece in pieces:
            self._pieces.setdefault(self._size[piece], []).append(piece)
        self._sizes = sorted(self._pieces)

    def longest(self, at_most: int, barred: AbstractSet[int]) -> int | None:
        """Take out the longest piece of at most that size whose text is not barred."""
        for place in range(bisect_right(self._sizes, at_most) - 1, -1, -1):
            piece = self._taken(self._sizes[place], barred)
            if piece is not None:
                return piece
        return None

    def exactly(self, size: int, barred: AbstractSet[int]) -> int | None:
        """Take out a piece of that size whose text is not barred."""
        return self._taken(size, barred) if size in self._pieces else None

    def pair(self, total: int, barred: AbstractSet[int]) -> tuple[int, int] | None:
        """Take out two pieces of that size together, of different texts that are not barred."""
        first = bisect_left(self._sizes, (total + 1) // 2)
        for size in self._sizes[first : first + PAIRS_TRIED]:
            if total - size not in self._pieces:
                continue
            one = self._taken(size, barred)
            if one is None:
                continue
            two = self.exactly(total - size, barred | ({self._text[one]} - {ALONE}))
            if two is not None:
                return one, two
            self.put(one)
        return None

    def _taken(self, size: int, barred: AbstractSet[int]) -> int | None:
        pieces = self._pieces[size]
        for number in range(len(pieces) - 1, -1, -1):
            if self._text[pieces[number]] not in barred:
                piece = pieces.pop(number)
                if not pieces:
                    del self._pieces[size]
                    del self._sizes[bisect_left(self._sizes, size)]
                return piece
        return None


class _Rows:
    """Rows that are filled one after the other, each to its last place."""

    def __init__(self, chunk_length: int, copied: list[int]) -> None:
        self._chunk_length = chunk_length
        self._copied = copied
        self._shortest = max(min(SHORTEST_PIECE, chunk_length // 32), 1)
        self._span: list[int] = []  # of each piece, as the next lists
        self._start: list[int] = []
        self._size: list[int] = []
        self._text: list[int] = []
        self._rows: list[list[int]] = []
        self._texts: list[set[int]] = []  # copied texts in each row
        self._donor: int | None = None  # what is left of the span that was cut last
        self._given: Counter[int] = Counter()  # parts that each span gave
        self.stock = _Stock(self._size, self._text)

    def piece(self, span: int, start: int, stop: int) -> int:
        """The number of a new piece."""
        self._span.append(span)
        self._start.append(start)
        self._size.append(stop - start)
        self._text.append(self._copied[span])
        return len(self._span) - 1

    def add(self, row: list[int]) -> None:
        """A row that is full."""
        texts = {self._text[piece] for piece in row} - {ALONE}
        self._rows.append(row)
        self._texts.append(texts)

    def fill(self) -> None:
        """Add the next row, from the stock, which must hold enough tokens for it."""
        row: list[int] = []
        texts: set[int] = set()
        room = self._chunk_length
        while room:
            piece = self.stock.longest(room, texts)
            if piece is None and self._closed(row, texts, room):
                break
            if piece is None:
                room, piece = self._cut(row, texts, room)
            if piece is None:
                # Only copies of what is in the row are left; part_copies will exchange them.
                piece = self._copy(room)
            row.append(piece)
            room -= self._size[piece]
            if self._text[piece] != ALONE:
                texts.add(self._text[piece])
        self.add(row)

    def columns(self) -> tuple[Lengths, Lengths, Lengths, Lengths]:
        """Span, start, stop and row of every piece."""
        pieces = np.array([piece for row in self._rows for piece in row], np.int64)
        row = np.repeat(np.arange(len(self._rows)), [len(row) for row in self._rows])
        start = np.array(self._start, np.int64)[pieces]
        return (
            np.array(self._span, np.int64)[pieces],
            start,
            start + np.array(self._size, np.int64)[pieces],
            row,
        )

    def _closed(self, row: list[int], texts: set[int], room: int) -> bool:
        """Whether a piece of the row could be exchanged for one or two of the stock that fill the
        row exactly."""
        for place in range(len(row) - 1, -1, -1):
            old = row[place]
            other = self.stock.exactly(self._size[old] + room, texts - {self._text[old]})
            if other is not None:
                self.stock.put(old)
                row[place] = other
                return True
        for place in range(len(row) - 1, max(len(row) - 1 - PLACES_TRIED, -1), -1):
            old = row[place]
            others = self.stock.pair(self._size[old] + room, texts - {self._text[old]})
            if others is not None:
                self.stock.put(old)
                row[place : place + 1] = others
                return True
        return False

    def _cut(self, row: list[int], texts: set[int], room: int) -> tuple[int, int | None]:
        """The room to fill, and a part of a longer piece that fills it.

        If that part would be very short, the smallest piece of the row makes room first. The part
        is None if all spans left are copies of what is in the row.
        """
        if room < self._shortest and len(row) > 1:
            smallest = min(row, key=self._size.__getitem__)
            wider = room + self._size[smallest]
            donor = self._longer(wider, texts)
            if donor is not None and self._size[donor] >= wider:
                row.remove(smallest)
                texts.discard(self._text[smallest])
                self.stock.put(smallest)
                return wider, self._head(donor, wider)
            if donor is not None:
                self.stock.put(donor)
        donor = self._longer(room, texts)
        return room, None if donor is None else self._head(donor, room)

    def _longer(self, room: int, texts: set[int]) -> int | None:
        """A piece to fill the room from. The span that was cut last gives the next part too, so
        that few spans are cut, until it has given enough.
        """
        last, self._donor = self._donor, None
        if last is not None and self._text[last] not in texts:
            if self._size[last] <= room:
                return last
            if self._size[last] >= room + self._shortest and not self._is_spent(last):
                return last
        if last is not None:
            self.stock.put(last)

        spent = list[int]()
        found = self.stock.longest(self._chunk_length, texts)
        while found is not None and self._is_spent(found) and len(spent) < DONORS_TRIED:
            spent.append(found)
            found = self.stock.longest(self._size[found], texts)
        if found is None and spent:
            found = spent.pop()
        for piece in spent:
            self.stock.put(piece)
        return found

    def _is_spent(self, piece: int) -> bool:
        """Whether its span has given enough parts."""
        # A part of a copy keeps all other copies out of its row, so a copy gives one part only.
        most = MOST_PIECES if self._text[piece] == ALONE else 2
        return self._given[self._span[piece]] >= most - 1

    def _head(self, piece: int, size: int) -> int:
        """The beginning of a piece; its rest is the next to give a part."""
        if self._size[piece] <= size:
            return piece
        head, self._donor = self._parted(piece, size)
        self._given[self._span[piece]] += 1
        return head

    def _parted(self, piece: int, size: int) -> tuple[int, int]:
        """A piece as two, the first of that size."""
        span, start = self._span[piece], self._start[piece]
        middle, stop = start + size, start + self._size[piece]
        return self.piece(span, start, middle), self.piece(span, middle, stop)

    def _copy(self, room: int) -> int:
        """The longest piece of the stock, whatever its text, or as much of it as the room takes."""
        piece = self.stock.longest(self._chunk_length, set())
        assert piece is not None, "the stock holds enough for every row"
        if self._size[piece] > room:
            piece, rest = self._parted(piece, room)
            self.stock.put(rest)
        return piece

    def part_copies(self) -> None:
        """Exchange pieces between rows until no row holds two copies, or no exchange helps."""
        for number, row in enumerate(self._rows):
            if len(self._texts[number]) == len(row):
                continue
            for piece in self._copies_in(row):
                self._move(piece, number)

    def _copies_in(self, row: list[int]) -> list[int]:
        """The pieces of a row whose text another span of the row has too, the shortest first."""
        spans: dict[int, set[int]] = {}
        for piece in row:
            spans.setdefault(self._text[piece], set()).add(self._span[piece])
        copies = [
            piece
            for piece in row
            if self._text[piece] != ALONE and len(spans[self._text[piece]]) > 1
        ]
        return sorted(copies, key=self._size.__getitem__)

    def _move(self, piece: int, number: int) -> None:
        """Exchange a piece of row `number`, or parts of it, for pieces of rows without its text.

        Stops when the row has no other span of that text any more.
        """
        text = self._text[piece]
        for other in [*range(number - 1, -1, -1), *range(number + 1, len(self._rows))]:
            if piece not in self._copies_in(self._rows[number]):
                return
            if text in self._texts[other] and self._other_span(piece, other):
                continue
            taken = self._taken(other, self._texts[number], self._size[piece])
            size = sum(self._size[back] for back in taken)
            if not size:
                continue
            self._rows[number].remove(piece)
            self._rows[number] += taken
            if size < self._size[piece]:
                piece, rest = self._parted(piece, size)
                self._rows[number].append(rest)
                self._rows[other].append(piece)
                piece = rest
            else:
                self._rows[other].append(piece)
            self._count_texts(number)
            self._count_texts(other)

    def _other_span(self, piece: int, number: int) -> bool:
        """Whether a row holds a copy of the piece's span."""
        return any(
            self._text[there] == self._text[piece] and self._span[there] != self._span[piece]
            for there in self._rows[number]
        )

    def _taken(self, number: int, barred: AbstractSet[int], size: int) -> list[int]:
        """Take pieces of texts that are not barred out of a row, `size` tokens together, or all
        there are: one of exactly that size, else the largest first, and the last one is cut.
        """
        row = self._rows[number]
        free = sorted(
            (piece for piece in row if self._text[piece] not in barred), key=self._size.__getitem__
        )
        taken = [piece for piece in free if self._size[piece] == size][:1]
        left = 0 if taken else size
        while left and free:
            piece = free.pop()
            if self._size[piece] > left:
                row.remove(piece)
                piece, rest = self._parted(piece, left)
                row += [piece, rest]
            taken.append(piece)
            left -= self._size[piece]
        for piece in taken:
            row.remove(piece)
        return taken

    def _count_texts(self, number: int) -> None:
        """Update which copied texts are in a row."""
        self._texts[number] = {self._text[piece] for piece in self._rows[number]} - {ALONE}


def _joined(
    span: Lengths, start: Lengths, stop: Lengths, row: Lengths
) -> tuple[Lengths, Lengths, Lengths, Lengths]:
    """Pieces in order of row, span and start; those of a row that continue each other as one."""
    order = np.lexsort((start, span, row))
    span, start, stop, row = span[order], start[order], stop[order], row[order]
    continues = (np.diff(row) == 0) & (np.diff(span) == 0) & (start[1:] == stop[:-1])
    first = np.append(True, ~continues)[: len(row)]
    last = np.append(~continues, True)[: len(row)]
    return span[first], start[first], stop[last], row[first]


def _placed(span: Lengths, start: Lengths, stop: Lengths, row: Lengths) -> Layout:
    """Pieces in order of row, each put where the one before it in its row ends."""
    ends = np.cumsum(stop - start)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    before = np.zeros(len(row), np.int64)
    before[first] = np.diff((ends - (stop - start))[first], prepend=0)
    return Layout(
        span=span, start=start, stop=stop, row=row, at=ends - (stop - start) - np.cumsum(before)
    )
