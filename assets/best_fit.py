"""Best fit: rows in which documents stay whole, and copies of a text are in different rows.

Rows are filled one after the other, the longest span that fits first (first-fit decreasing, as in
arXiv 2404.10830). That paper pads the rest of a row. Here every row is full:

1. A span longer than a row gives full rows. Its rest is treated like a short span.
2. If no span fits into the room that is left, one span of the row is exchanged for one or two
   others that fill the row exactly. In a corpus of web pages this closes all rows but a few in a
   thousand.
3. Otherwise a part of a longer span fills the room. Such a row costs one cut. If the part would be
   very short, the room is widened first. A span that has given several parts gives no more, so no
   span is cut into crumbs.

Copies of a text go to different rows. If only copies are left for a row, pieces are exchanged
between rows afterwards, at the price of a cut. In every corpus we tried, this separated all copies
that fit into a row and are at most half as many as the rows. With more copies, the greedy search
may miss the only arrangement that separates them.

The cost: the search handles spans one by one in Python, with about 200 bytes and 10 microseconds a
span. assets/packing.py has an example and the faster way.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from assets.packing import Layout, Lengths, Texts

ALONE = -1
"""The text number of a span that has no copy."""
SHORTEST_PIECE = 64
"""Tokens. A smaller room is widened before a part of a span fills it, because a part of a few
tokens teaches nothing. In rows of less than 2,048 tokens the limit is a 32nd of the row."""
MOST_PIECES = 8
"""A span that fills rooms is cut into at most this many pieces, unless no other span is left."""

# Limits of the search. Higher values close a few more rows and take longer.
DONORS_TRIED = 8  # spans that have given enough parts, before one of them gives again
PAIRS_TRIED = 500  # sizes of the first of two spans
PLACES_TRIED = 4  # pieces of the row that are exchanged for two spans


def best_fit(lengths: Lengths, chunk_length: int, texts: Texts | None = None) -> Layout:
    """Rows in which few spans are cut. A span longer than a row gives full rows and a rest.

    lengths: tokens of each span, int64[spans].
    texts: the text number of each span, integer[spans]. Spans with the same number are copies and
    go to different rows where possible. None: there are no copies.
    """
    text = _copied(texts, len(lengths))
    rows = _Rows(chunk_length)
    rows.add_full_rows(lengths, text)
    rows.add_rests(lengths, text)

    for _ in range(int(lengths.sum()) // chunk_length - len(rows.rows)):
        rows.fill()
    rows.separate_copies()

    return _placed(_joined(_columns(rows.rows)))


@dataclass(slots=True, eq=False)
class _Piece:
    """Tokens start:start + size of a span. Pieces are compared by identity, which is fast."""

    span: int
    """The number of the span."""
    start: int
    """The first token, counted from the beginning of the span."""
    size: int
    """Tokens."""
    text: int
    """The text number of its span, or ALONE."""

    def split(self, size: int) -> tuple["_Piece", "_Piece"]:
        """Two pieces in place of this one. The first has that size."""
        head = _Piece(self.span, self.start, size, self.text)
        rest = _Piece(self.span, self.start + size, self.size - size, self.text)
        return head, rest


_Row = list[_Piece]
_Barred = AbstractSet[int]
"""Text numbers that must not be taken, because the row has them already."""
_size = attrgetter("size")
"""Sorts pieces. Written in C, so it is faster than a function here."""


def _texts_of(row: _Row) -> set[int]:
    """The copied texts of a row."""
    return {piece.text for piece in row} - {ALONE}


def _copied(texts: Texts | None, spans: int) -> list[int]:
    """The text number of each span, or ALONE if no other span has that text."""
    if texts is None:
        return [ALONE] * spans
    _, number, count = np.unique(texts, return_inverse=True, return_counts=True)
    return np.where(count[number] > 1, number, ALONE).tolist()


class _Stock:
    """The pieces that are in no row yet, grouped by size."""

    def __init__(self) -> None:
        self._sizes: list[int] = []  # the sizes present, ascending
        self._pieces: dict[int, _Row] = {}  # the pieces of each size

    def put(self, piece: _Piece) -> None:
        """Add a piece."""
        size = piece.size
        if size not in self._pieces:
            insort(self._sizes, size)
            self._pieces[size] = []
        self._pieces[size].append(piece)

    def put_all(self, pieces: _Row) -> None:
        """Add many pieces. The sizes are sorted once."""
        for piece in pieces:
            self._pieces.setdefault(piece.size, []).append(piece)
        self._sizes = sorted(self._pieces)

    def longest(self, at_most: int, barred: _Barred) -> _Piece | None:
        """Take the longest piece of at most that size whose text is not barred.

        None if there is none. Of several pieces of one size, the one that was put last.
        """
        for place in range(bisect_right(self._sizes, at_most) - 1, -1, -1):
            piece = self._taken(self._sizes[place], barred)
            if piece is not None:
                return piece
        return None

    def exactly(self, size: int, barred: _Barred) -> _Piece | None:
        """Take a piece of that size whose text is not barred."""
        return self._taken(size, barred) if size in self._pieces else None

    def pair(self, total: int, barred: _Barred) -> _Row | None:
        """Take two pieces of that size together, of different texts that are not barred."""
        # The first is the larger of the two, so no pair of sizes is tried twice.
        first = bisect_left(self._sizes, (total + 1) // 2)
        for size in self._sizes[first : first + PAIRS_TRIED]:
            if total - size not in self._pieces:
                continue
            one = self._taken(size, barred)
            if one is None:
                continue

            two = self.exactly(total - size, barred | ({one.text} - {ALONE}))
            if two is not None:
                return [one, two]
            self.put(one)
        return None

    def _taken(self, size: int, barred: _Barred) -> _Piece | None:
        """Take a piece of that size, which must be present, unless all its texts are barred."""
        pieces = self._pieces[size]
        # From the end: removing the last element of a list moves no other.
        for number in range(len(pieces) - 1, -1, -1):
            if pieces[number].text in barred:
                continue
            piece = pieces.pop(number)
            if not pieces:
                del self._pieces[size]
                del self._sizes[bisect_left(self._sizes, size)]
            return piece
        return None


class _Rows:
    """Rows that are filled one after the other, and the stock that they are filled from."""

    def __init__(self, chunk_length: int) -> None:
        self.rows: list[_Row] = []
        self._texts: list[set[int]] = []  # the copied texts of each row
        self._chunk_length = chunk_length
        self._shortest = max(min(SHORTEST_PIECE, chunk_length // 32), 1)
        self._stock = _Stock()
        self._donor: _Piece | None = None  # the rest of the span that was cut last
        self._given: Counter[int] = Counter()  # parts that each span has given

    def add_full_rows(self, lengths: Lengths, text: list[int]) -> None:
        """Add the rows that long spans fill alone. text: the text number of each span."""
        counts = lengths // self._chunk_length
        for span in np.flatnonzero(counts).tolist():
            for number in range(int(counts[span])):
                start = number * self._chunk_length
                self._add([_Piece(span, start, self._chunk_length, text[span])])

    def add_rests(self, lengths: Lengths, text: list[int]) -> None:
        """Put what is left of each span after its full rows into the stock."""
        sizes = lengths % self._chunk_length
        starts = lengths - sizes
        pieces = []
        for span in np.flatnonzero(sizes).tolist():
            pieces.append(_Piece(span, int(starts[span]), int(sizes[span]), text[span]))
        self._stock.put_all(pieces)

    def fill(self) -> None:
        """Add the next row from the stock, which must hold enough tokens for it."""
        row: _Row = []
        texts: set[int] = set()
        room = self._chunk_length
        while room:
            piece = self._stock.longest(room, texts)
            if piece is None:
                if self._closed(row, texts, room):
                    break
                room, piece = self._cut(row, texts, room)
            if piece is None:
                # Only copies of texts in this row are left. separate_copies exchanges them later.
                piece = self._copy(room)

            row.append(piece)
            room -= piece.size
            if piece.text != ALONE:
                texts.add(piece.text)
        self._add(row)

    def separate_copies(self) -> None:
        """Exchange pieces between rows until no row holds two copies, or no exchange helps."""
        for number, row in enumerate(self.rows):
            # No copied text, or every piece has another one.
            if len(self._texts[number]) in (0, len(row)):
                continue
            for piece in _copies_in(row):
                self._move(piece, number)

    def _add(self, row: _Row) -> None:
        """Add a full row."""
        self.rows.append(row)
        self._texts.append(_texts_of(row))

    # Filling a row.

    def _closed(self, row: _Row, texts: set[int], room: int) -> bool:
        """Exchange one piece of the row for one or two of the stock that fill the row exactly.

        Returns whether that was possible.
        """
        # The last pieces come first. They are the smallest, and pieces of about their size are
        # common.
        for place in range(len(row) - 1, -1, -1):
            old = row[place]
            other = self._stock.exactly(old.size + room, texts - {old.text})
            if other is not None:
                self._stock.put(old)
                row[place] = other
                return True

        for place in range(len(row) - 1, max(len(row) - 1 - PLACES_TRIED, -1), -1):
            old = row[place]
            others = self._stock.pair(old.size + room, texts - {old.text})
            if others is not None:
                self._stock.put(old)
                row[place : place + 1] = others
                return True
        return False

    def _cut(self, row: _Row, texts: set[int], room: int) -> tuple[int, _Piece | None]:
        """The room to fill, and a part of a longer piece that fills it.

        If that part would be very short, the smallest piece of the row goes back to the stock
        first. The part is None if all pieces left are copies of texts in the row.
        """
        if room < self._shortest and len(row) > 1:
            smallest = min(row, key=_size)
            wider = room + smallest.size
            donor = self._next_donor(wider, texts)
            if donor is not None and donor.size >= wider:
                row.remove(smallest)
                texts.discard(smallest.text)
                self._stock.put(smallest)
                return wider, self._head(donor, wider)
            if donor is not None:
                self._stock.put(donor)

        donor = self._next_donor(room, texts)
        return room, None if donor is None else self._head(donor, room)

    def _next_donor(self, room: int, texts: set[int]) -> _Piece | None:
        """A piece that can give a part to fill the room.

        The rest of the span that was cut last gives again if it may, so few spans are cut.
        """
        last, self._donor = self._donor, None
        if last is not None:
            if self._gives_again(last, room, texts):
                return last
            self._stock.put(last)
        return self._fresh_donor(texts)

    def _gives_again(self, last: _Piece, room: int, texts: set[int]) -> bool:
        """Whether the rest of the span that was cut last gives the next part too."""
        if last.text in texts:
            return False
        if last.size <= room:
            return True  # it is used up whole
        return last.size >= room + self._shortest and not self._is_spent(last)

    def _fresh_donor(self, texts: set[int]) -> _Piece | None:
        """The longest piece whose span may still give. If there is none, one that has given."""
        spent: _Row = []
        found = self._stock.longest(self._chunk_length, texts)
        while found is not None and self._is_spent(found) and len(spent) < DONORS_TRIED:
            spent.append(found)
            found = self._stock.longest(found.size, texts)

        if found is None and spent:
            found = spent.pop()
        for piece in spent:
            self._stock.put(piece)
        return found

    def _is_spent(self, piece: _Piece) -> bool:
        """Whether its span has given enough parts."""
        # A part of a copied text bars all its copies from the row, so such a span gives once.
        most = MOST_PIECES if piece.text == ALONE else 2
        return self._given[piece.span] >= most - 1

    def _head(self, piece: _Piece, size: int) -> _Piece:
        """The first `size` tokens of a piece. The rest becomes the next donor."""
        if piece.size <= size:
            return piece
        head, self._donor = piece.split(size)
        self._given[piece.span] += 1
        return head

    def _copy(self, room: int) -> _Piece:
        """The longest piece of the stock, of any text, or as much of it as the room takes."""
        piece = self._stock.longest(self._chunk_length, set())
        assert piece is not None, "the stock holds enough for every row"
        if piece.size > room:
            piece, rest = piece.split(room)
            self._stock.put(rest)
        return piece

    # Separating copies.

    def _move(self, piece: _Piece, number: int) -> None:
        """Exchange a piece of row `number`, or parts of it, for pieces of rows without its text.

        It ends as soon as no other span of the row has that text.
        """
        # The rows after this one come last: they are not separated yet.
        others = [*range(number - 1, -1, -1), *range(number + 1, len(self.rows))]
        for other in others:
            if piece not in _copies_in(self.rows[number]):
                return
            if piece.text in self._texts[other] and _holds_copy(self.rows[other], piece):
                continue

            taken = _take_out(self.rows[other], self._texts[number], piece.size)
            if taken:
                piece = self._exchange(piece, number, other, taken)

    def _exchange(self, piece: _Piece, number: int, other: int, taken: _Row) -> _Piece:
        """Move a piece from row `number` to row `other`, and the pieces `taken` back.

        If these are smaller, only a part of the piece moves. Returns the part that stays, or the
        piece if all of it moves.
        """
        row = self.rows[number]
        row.remove(piece)
        row += taken

        size = sum(back.size for back in taken)
        stays = piece
        if size < piece.size:
            piece, stays = piece.split(size)
            row.append(stays)
        self.rows[other].append(piece)

        for changed in (number, other):
            self._texts[changed] = _texts_of(self.rows[changed])
        return stays


def _copies_in(row: _Row) -> _Row:
    """The pieces of a row whose text another span of the row has too, the shortest first."""
    spans: dict[int, set[int]] = {}
    for piece in row:
        spans.setdefault(piece.text, set()).add(piece.span)

    copies = []
    for piece in row:
        if piece.text != ALONE and len(spans[piece.text]) > 1:
            copies.append(piece)
    return sorted(copies, key=_size)


def _holds_copy(row: _Row, piece: _Piece) -> bool:
    """Whether a row holds a piece of another span with the same text."""
    return any(there.text == piece.text and there.span != piece.span for there in row)


def _take_out(row: _Row, barred: _Barred, size: int) -> _Row:
    """Take pieces of together `size` tokens out of a row, or fewer if it has no more.

    Only pieces whose texts are not barred. One piece of exactly that size is best. Otherwise the
    largest come first, and the last one is cut.
    """
    free = [piece for piece in row if piece.text not in barred]
    free.sort(key=_size)

    taken = [piece for piece in free if piece.size == size][:1]
    left = 0 if taken else size
    while left and free:
        piece = free.pop()
        if piece.size > left:
            row.remove(piece)
            piece, rest = piece.split(left)
            row += [piece, rest]
        taken.append(piece)
        left -= piece.size

    for piece in taken:
        row.remove(piece)
    return taken


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The pieces of all rows as arrays, without their place in the row. All int64[pieces]."""

    span: Lengths
    """The span that the piece belongs to."""
    start: Lengths
    """Its first token, counted from the beginning of the span."""
    stop: Lengths
    """The token after its last one."""
    row: Lengths
    """The row it is in. Rows are in the order in which they were filled."""

    def take(self, order: Lengths) -> "_Columns":
        """The pieces with those numbers, in that order."""
        return _Columns(
            span=self.span[order],
            start=self.start[order],
            stop=self.stop[order],
            row=self.row[order],
        )


def _columns(rows: list[_Row]) -> _Columns:
    """The pieces of all rows, row by row."""
    pieces = [piece for row in rows for piece in row]
    count = len(pieces)
    start = np.fromiter((piece.start for piece in pieces), np.int64, count)
    return _Columns(
        span=np.fromiter((piece.span for piece in pieces), np.int64, count),
        start=start,
        stop=start + np.fromiter((piece.size for piece in pieces), np.int64, count),
        row=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
    )


def _joined(pieces: _Columns) -> _Columns:
    """The pieces ordered by row, span and start. Pieces that continue each other become one."""
    pieces = pieces.take(np.lexsort((pieces.start, pieces.span, pieces.row)))

    same_row = np.diff(pieces.row) == 0
    same_span = np.diff(pieces.span) == 0
    continues = same_row & same_span & (pieces.start[1:] == pieces.stop[:-1])
    first = np.append(True, ~continues)[: len(pieces.row)]  # cut: there may be no piece at all
    last = np.append(~continues, True)[: len(pieces.row)]
    return _Columns(
        span=pieces.span[first],
        start=pieces.start[first],
        stop=pieces.stop[last],
        row=pieces.row[first],
    )


def _placed(pieces: _Columns) -> Layout:
    """The layout of pieces that are ordered by row: each begins where the one before it ends."""
    length = pieces.stop - pieces.start
    begins = np.cumsum(length) - length  # counted from the beginning of the first row

    # For each piece the beginning of its row: a step at the first piece of each row, summed up.
    first = np.flatnonzero(np.diff(pieces.row, prepend=-1))
    steps = np.zeros(len(length), np.int64)
    steps[first] = np.diff(begins[first], prepend=0)
    return Layout(
        span=pieces.span,
        start=pieces.start,
        stop=pieces.stop,
        row=pieces.row,
        at=begins - np.cumsum(steps),
    )
