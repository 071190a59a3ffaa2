"""Recipes: how many tokens each domain gives from its long and from its short documents.

A weight counts tokens, not documents. A recipe is solved, not hoped for: its budget is split over (domain, long or
short) by formula, then each part is filled to its last token but half a document, in a random order keyed by
document. A part that runs out starts over, up to `max_repeats` times; what the corpus cannot give is refused with
the most it can. Source of the recipes: Fu et al. 2024, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from assets.randomness import digest
from assets.stage import Config, UserError

Part = tuple[str, bool]
"""A domain and whether its long (True) or its short (False) documents are meant."""


class Recipe(Config):
    """One way to choose documents."""

    cut: Annotated[int, Field(ge=2)]
    """Documents are cut into pieces of at most this many tokens, and a piece then counts as a document."""
    long_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Wanted share of tokens in long documents; None keeps what is there. A domain already above it keeps its own."""
    across_domains: bool = False
    """False: `long_share` holds inside each domain, the mixture is kept. True: it holds for the pool, which drifts."""
    max_repeats: Annotated[int, Field(ge=1)] = 4
    """A piece is used at most this many times."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Candidate spans of one domain: document[i], start[i]:stop[i] in tokens. All arrays have one length."""

    identity: NDArray[np.uint64]
    """The document's id as a number: what random draws are keyed by, so that they survive reordering."""
    document: NDArray[np.int64]
    """Its row in the token store."""
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def length(self) -> NDArray[np.int64]:
        """Tokens in each piece."""
        return self.stop - self.start

    def take(self, chosen: NDArray[np.int64]) -> "Pieces":
        """The pieces at those positions, in that order."""
        return Pieces(identity=self.identity[chosen], document=self.document[chosen], start=self.start[chosen],
                      stop=self.stop[chosen])


def cut_documents(identities: NDArray[np.uint64], documents: NDArray[np.int64], lengths: NDArray[np.int64], cut: int
                  ) -> Pieces:
    """Every document (its id, its row, its length in tokens) as consecutive pieces of at most `cut` tokens."""
    counts = -(-lengths // cut)
    owner = np.repeat(np.arange(len(documents)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * cut
    return Pieces(identity=identities[owner], document=documents[owner], start=start,
                  stop=np.minimum(start + cut, lengths[owner]))


def budgets(recipe: Recipe, weights: Mapping[str, float], long_shares: Mapping[str, float], tokens: int
            ) -> dict[Part, float]:
    """Tokens wanted of each part, summing to `tokens`.

    weights: share of tokens by domain, summing to 1. long_shares: share of each domain's tokens in long pieces as
    they are. Raises UserError where a pooled `long_share` is impossible because no domain has a long piece.
    """
    if recipe.across_domains and recipe.long_share is not None:
        return _pooled(recipe.long_share, weights, long_shares, tokens)
    wanted = {domain: max(share, recipe.long_share or 0.0) for domain, share in long_shares.items()}
    return {(domain, is_long): tokens * weight * (wanted[domain] if is_long else 1 - wanted[domain])
            for domain, weight in weights.items() for is_long in (True, False)}


def _pooled(long_share: float, weights: Mapping[str, float], long_shares: Mapping[str, float], tokens: int
            ) -> dict[Part, float]:
    """Long tokens come from each domain in proportion to what it has of them, short ones likewise: domains drift."""
    pooled = sum(weights[domain] * long_shares[domain] for domain in weights)
    if not 0 < pooled < 1:
        raise UserError(f"long_share = {long_share} across domains, but {pooled:.0%} of the pool's tokens are in long "
                        "documents: there is nothing to exchange. Change mixed_dataset.long_over or the recipe's cut.")
    wanted = max(long_share, pooled)
    return {(domain, is_long): tokens * weight * (
                wanted * long_shares[domain] / pooled if is_long
                else (1 - wanted) * (1 - long_shares[domain]) / (1 - pooled))
            for domain, weight in weights.items() for is_long in (True, False)}


def fill(pieces: Pieces, budget: float, max_repeats: int, where: str, *key: str | int) -> Pieces:
    """Pieces in random order, repeated where needed, whose tokens come nearest to `budget`.

    `key` names the draw (seed, domain, part); the order of a piece depends on it, on its document's id and on its
    start, never on the other pieces. Raises UserError, with the most there is, if `max_repeats` passes do not do.
    """
    available = int(pieces.length.sum()) * max_repeats
    if budget > available * (1 + 1e-9) and budget >= 1:
        raise UserError(f"{where}: {budget:,.0f} tokens wanted, but {len(pieces.document):,} pieces used at most "
                        f"{max_repeats} times give {available:,}. Lower mixed_dataset.token_budget or long_share, "
                        "raise max_repeats, or bring more documents.")
    chosen, left = [], budget
    for epoch in range(max_repeats):
        if left <= 0 or not len(pieces.document):
            break
        order = keyed_order(pieces, *key, epoch)
        mass = np.cumsum(pieces.length[order])
        count = _nearest(mass, left)
        chosen.append(order[:count])
        left -= int(mass[count - 1]) if count else 0
        if count < len(order):
            break
    return pieces.take(np.concatenate(chosen) if chosen else np.empty(0, np.int64))


def _nearest(mass: NDArray[np.int64], budget: float) -> int:
    """How many pieces to take so that their summed tokens come nearest to `budget`."""
    count = int(np.searchsorted(mass, budget))
    if count == len(mass):
        return count
    before = int(mass[count - 1]) if count else 0
    return count + 1 if int(mass[count]) - budget <= budget - before else count


def keyed_order(pieces: Pieces, *key: str | int) -> NDArray[np.int64]:
    """A random order of the pieces that is a pure function of `key` and of each piece. int64[pieces]."""
    base = np.uint64(digest(*key) & 0xFFFF_FFFF_FFFF_FFFF)
    with np.errstate(over="ignore"):
        mixed = _mix(base ^ _mix(pieces.identity))
        mixed = _mix(mixed + pieces.start.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15))
    return np.argsort(mixed, kind="stable")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers that scatters them (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))
