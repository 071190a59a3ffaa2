"""Pieces of documents, and how a token budget is filled with them in a keyed random order.

Every draw is a function of the seed and of the piece itself. So a document that is added to the
corpus changes the place of no other, and the order of files does not matter. The cost: copies of a
piece would draw the same number and lie side by side, so they are numbered first.

All work is on arrays of one entry a piece. A corpus has millions of pieces.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.randomness import digest
from core.errors import UserError

Ids = NDArray[np.uint64]
Ints = NDArray[np.int64]

# Odd, so that a multiplication modulo 2^64 loses no bit. Two different ones, so that the start of a
# piece and the number of a copy do not move a draw in the same way.
START_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)
COPY_FACTOR = np.uint64(0xD1B5_4A32_D192_ED03)
LOW_64_BITS = 0xFFFF_FFFF_FFFF_FFFF

TOLERANCE = 1e-9
"""Budgets are floats: one may exceed the tokens that are there by this share, a rounding error."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Pieces of one domain's documents. Piece i is tokens start[i]:stop[i] of document[i]."""

    identity: Ids
    """The document's id. Random draws use it, so they do not depend on the document's place."""
    document: Ints
    """The document's number in the token store."""
    start: Ints
    """The first token of the piece, counted from the beginning of the document."""
    stop: Ints
    """The token after its last one."""

    @property
    def length(self) -> Ints:
        """Tokens in each piece, int64[pieces]."""
        return self.stop - self.start

    def take(self, chosen: Ints) -> "Pieces":
        """The pieces with those numbers, in that order."""
        return Pieces(
            identity=self.identity[chosen],
            document=self.document[chosen],
            start=self.start[chosen],
            stop=self.stop[chosen],
        )


def cut_documents(
    identities: Ids,
    documents: Ints,
    lengths: Ints,
    cut: int,
) -> Pieces:
    """Every document as consecutive pieces of at most `cut` tokens.

    identities: the id of each document.
    documents: its number in the token store.
    lengths: its tokens. A document of 0 tokens gives no piece.
    """
    counts = -(-lengths // cut)  # pieces of each document: rounded up
    owner = np.repeat(np.arange(len(documents)), counts)

    # The number of each piece in its document: 0, 1, 2, ... and again from 0.
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(counts.sum()) - first) * cut
    return Pieces(
        identity=identities[owner],
        document=documents[owner],
        start=start,
        stop=np.minimum(start + cut, lengths[owner]),
    )


def fill(pieces: Pieces, budget: float, max_repeats: int, where: str, *key: str | int) -> Pieces:
    """Pieces in random order whose tokens come nearest to `budget`, repeated if necessary.

    key: names the draw (seed, domain, part). The place of a piece in the order depends on the key,
    its document's id and its start, and never on the other pieces.
    where: the part, for the message.
    Raises UserError, with the most that there is, if `max_repeats` uses are not enough.
    """
    available = int(pieces.length.sum()) * max_repeats
    if budget > available * (1 + TOLERANCE) and budget >= 1:
        raise UserError(
            f"{where}: {budget:,.0f} tokens wanted, but {len(pieces.document):,} pieces used at "
            f"most {max_repeats} times give {available:,}. Lower mixed_dataset.token_budget or "
            "long_share, raise max_repeats, or bring more documents."
        )

    # Once over all pieces, and again in another order, until the budget is full.
    chosen = []
    left = budget
    for epoch in range(max_repeats):
        if left <= 0 or not len(pieces.document):
            break
        order = keyed_order(pieces, *key, epoch)
        tokens = np.cumsum(pieces.length[order])
        count = _nearest(tokens, left)
        chosen.append(order[:count])
        left -= int(tokens[count - 1]) if count else 0
        if count < len(order):
            break
    return pieces.take(np.concatenate(chosen) if chosen else np.empty(0, np.int64))


def _nearest(tokens: Ints, budget: float) -> int:
    """How many pieces to take so that their tokens come nearest to `budget`.

    tokens: the sum over the first pieces, for each piece.
    """
    count = int(np.searchsorted(tokens, budget))
    if count == len(tokens):
        return count
    before = int(tokens[count - 1]) if count else 0
    one_more = int(tokens[count])
    return count + 1 if one_more - budget <= budget - before else count


def keyed_order(pieces: Pieces, *key: str | int) -> Ints:
    """A random order of the pieces, decided by `key` and by each piece alone. int64[pieces].

    Copies of a piece (a repeat, or a text of two domains) are numbered in the order given, and each
    copy draws for itself. With one draw they would lie side by side, and a row would hold a
    document and its copy.
    """
    base = np.uint64(digest(*key) & LOW_64_BITS)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        draws = _mix(base ^ _mix(pieces.identity))
        draws = _mix(draws + pieces.start.astype(np.uint64) * START_FACTOR)
    order = np.argsort(draws, kind="stable")

    number = _numbers_in_runs(draws[order])
    if not number.any():
        return order  # there are no copies

    copies = order[number > 0]
    with np.errstate(over="ignore"):
        shift = number[number > 0].astype(np.uint64) * COPY_FACTOR
        draws[copies] = _mix(draws[copies] + shift)
    return np.argsort(draws, kind="stable")


def _numbers_in_runs(values: Ids) -> Ints:
    """For each of the ascending values, how many equal ones are before it. int64[values]."""
    place = np.arange(len(values))
    begins = np.diff(values, prepend=~values[:1]) != 0  # ~: the first value always begins a run
    return place - np.maximum.accumulate(np.where(begins, place, 0))


def _mix(values: Ids) -> Ids:
    """Scatter 64-bit numbers: the last step of SplitMix64 (Steele et al. 2014).

    It is a bijection, so two different ids never give the same number.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))
