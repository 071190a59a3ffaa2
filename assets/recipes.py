"""Recipes: how many tokens each domain gives from its long and from its short documents.

A weight counts tokens, not documents. A recipe is solved, not hoped for: its budget is split over
(domain, long or short) by formula, then each part is filled to its last token but half a document,
in a random order keyed by document. A part that runs out starts over in another order, up to
`max_repeats` times; a domain ends when its budget is full, never before, for what the corpus cannot
give is refused with the most it can. Source of the recipes: Fu et al. 2024, section 3; of the keep
ratio and of the raised domains: the code they released.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from assets.domains import MIXTURES
from assets.randomness import digest
from core.errors import UserError
from core.params import Config

Part = tuple[str, bool]
"""A domain and whether its long (True) or its short (False) documents are meant."""
Weights = str | dict[str, Annotated[float, Field(ge=0)]]
"""Shares of tokens by domain: a name of assets/domains.py, "natural" for the corpus as it is, or a
map.
"""


class Recipe(Config):
    """One way to choose documents. What is None here is as mixed_dataset says for all recipes."""

    cut: Annotated[int, Field(ge=2)]
    """Documents are cut into pieces of at most this many tokens, and a piece then counts as a
    document.
    """
    long_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Wanted share of tokens in long documents; None keeps what is there. A domain already above it
    keeps its own.
    """
    keep_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """The other way to say it: short documents stay with this probability, long ones always
    (released code: 0.1).
    """
    across_domains: bool = False
    """False: this holds inside each domain, the mixture is kept. True: it holds for the pool, which
    drifts.
    """
    as_far_as_possible: bool = False
    """A domain that cannot reach `long_share` gives all it has, as shares.csv tells; False: the
    recipe is refused.
    """
    max_repeats: Annotated[int, Field(ge=1)] = 4
    """A piece is used at most this many times."""
    duplicates_across_domains: Literal["drop", "keep"] = "drop"
    """drop: a text that stands in several domains trains in the first of them only, by the order of
    raw_corpus.domains. A domain of weight 0 takes no text from another. keep: it trains in each.
    """
    weights: Weights | None = None
    raised: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Domains whose weight is set to this before all are brought to a sum of 1: the *_up recipes
    raise one to 0.6.
    """
    token_budget: Annotated[int, Field(ge=1)] | None = None
    long_over: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "Recipe":
        if self.long_share is not None and self.keep_ratio is not None:
            raise ValueError("long_share and keep_ratio say the same thing in two ways: set one")
        return self


class MixedDatasetConfig(Config):
    """The recipes, and what they share where they don't say otherwise."""

    seed: int = 0
    weights: Weights = "slimpajama"
    token_budget: Annotated[int, Field(ge=1)]
    """Tokens of each recipe."""
    long_over: Annotated[int, Field(ge=1)]
    """A document is long above this many tokens (the paper: 4,096, the base context)."""
    recipes: dict[str, Recipe]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """A recipe with everything decided."""

    recipe: Recipe
    seed: int
    weights: Weights
    token_budget: int
    long_over: int


def of_recipe(recipe: Recipe, shared: MixedDatasetConfig) -> Mixing:
    """The recipe's own values, or those all recipes share."""
    return Mixing(
        recipe=recipe,
        seed=shared.seed if recipe.seed is None else recipe.seed,
        weights=shared.weights if recipe.weights is None else recipe.weights,
        token_budget=recipe.token_budget or shared.token_budget,
        long_over=recipe.long_over or shared.long_over,
    )


def domain_weights(mixing: Mixing, tokens: Mapping[str, int]) -> dict[str, float]:
    """Share of tokens by domain, summing to 1 over the domains that are there. Raises UserError on
    an unknown name.

    tokens: what each domain holds, which is its weight where the weights are "natural".
    """
    wanted = mixing.weights
    if wanted == "natural":
        raw: Mapping[str, float] = tokens
    elif isinstance(wanted, str):
        if wanted not in MIXTURES:
            raise UserError(
                f"mixed_dataset.weights = {wanted!r}: known are natural, {', '.join(MIXTURES)}, or "
                "a map "
                "from domain to share."
            )
        raw = MIXTURES[wanted]
    else:
        raw = wanted
        strange = [domain for domain in wanted if domain not in tokens]
        if strange:
            raise UserError(
                f"mixed_dataset.weights = {wanted!r}: no domain {', '.join(strange)}. There are: "
                f"{', '.join(tokens)}."
            )
    unknown = [domain for domain in mixing.recipe.raised if domain not in tokens]
    if unknown:
        raise UserError(
            f"raised = {dict(mixing.recipe.raised)}: no domain {', '.join(unknown)}. There are: "
            f"{', '.join(tokens)}."
        )
    raised = {**raw, **mixing.recipe.raised}
    missing = [domain for domain in tokens if domain not in raised]
    if missing:
        raise UserError(
            f"mixed_dataset.weights = {wanted!r}: no share for {', '.join(missing)}. Use natural, "
            "or a map "
            "with every domain of raw_corpus.domains."
        )
    total = sum(raised[domain] for domain in tokens)
    if total <= 0:
        raise UserError(
            f"mixed_dataset.weights = {wanted!r}: the shares of {', '.join(tokens)} sum to "
            f"{total}. Give "
            "one of them a positive share."
        )
    return {domain: raised[domain] / total for domain in tokens}


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Candidate spans of one domain: document[i], start[i]:stop[i] in tokens. All arrays have one
    length.
    """

    identity: NDArray[np.uint64]
    """The document's id as a number: what random draws are keyed by, so that they survive
    reordering.
    """
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
        return Pieces(
            identity=self.identity[chosen],
            document=self.document[chosen],
            start=self.start[chosen],
            stop=self.stop[chosen],
        )


def cut_documents(
    identities: NDArray[np.uint64],
    documents: NDArray[np.int64],
    lengths: NDArray[np.int64],
    cut: int,
) -> Pieces:
    """Every document (its id, its row, its length in tokens) as consecutive pieces of at most `cut`
    tokens.
    """
    counts = -(-lengths // cut)
    owner = np.repeat(np.arange(len(documents)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * cut
    return Pieces(
        identity=identities[owner],
        document=documents[owner],
        start=start,
        stop=np.minimum(start + cut, lengths[owner]),
    )


def solve(
    mixing: Mixing, weights: Mapping[str, float], supply: Mapping[Part, int]
) -> dict[Part, float]:
    """Tokens wanted of each part, summing to the token budget.

    weights: share of tokens by domain, summing to 1. supply: tokens of each part in one pass.
    Raises UserError, with the most that can be reached, where `max_repeats` passes over the corpus
    don't give it.
    """
    recipe, tokens = mixing.recipe, mixing.token_budget
    own = {
        domain: supply[domain, True] / max(supply[domain, True] + supply[domain, False], 1)
        for domain in weights
    }
    if recipe.across_domains:
        wanted = _pooled(recipe, weights, own, tokens)
    else:
        wanted = {
            (domain, is_long): tokens * weight * (share if is_long else 1 - share)
            for domain, weight in weights.items()
            for share in [_long_share(recipe, own[domain])]
            for is_long in (True, False)
        }
    return {
        part: amount
        for domain in weights
        for part, amount in _within_reach(domain, wanted, supply, mixing).items()
    }


def _long_share(recipe: Recipe, own: float) -> float:
    """Share of long tokens to aim for, where there are `own` of them."""
    if recipe.keep_ratio is not None:
        return own / (own + recipe.keep_ratio * (1 - own)) if own else 0.0
    return max(recipe.long_share or 0.0, own)


def _pooled(
    recipe: Recipe, weights: Mapping[str, float], own: Mapping[str, float], tokens: int
) -> dict[Part, float]:
    """Long tokens come from each domain in proportion to what it has of them, short ones likewise:
    domains drift.
    """
    pooled = sum(weights[domain] * own[domain] for domain in weights)
    wanted = _long_share(recipe, pooled)
    if wanted != pooled and not 0 < pooled < 1:
        raise UserError(
            f"long_share = {wanted} across domains, but {pooled:.0%} of the pool's tokens are in "
            "long "
            "documents: there is nothing to exchange. Change mixed_dataset.long_over or the "
            "recipe's cut."
        )
    raise_long = wanted / pooled if pooled else 1.0
    lower_short = (1 - wanted) / (1 - pooled) if pooled < 1 else 1.0
    return {
        (domain, is_long): tokens
        * weight
        * (raise_long * own[domain] if is_long else lower_short * (1 - own[domain]))
        for domain, weight in weights.items()
        for is_long in (True, False)
    }


def _within_reach(
    domain: str, wanted: Mapping[Part, float], supply: Mapping[Part, int], mixing: Mixing
) -> dict[Part, float]:
    """One domain's two parts, moved to what there is where the recipe allows it. Raises UserError
    where it doesn't.
    """
    recipe = mixing.recipe
    most = {is_long: supply[domain, is_long] * recipe.max_repeats for is_long in (True, False)}
    long, short = wanted[domain, True], wanted[domain, False]
    budget = long + short
    if recipe.as_far_as_possible:
        long = min(max(long, budget - most[False]), most[True])
        short = budget - long
    if _fits(long, most[True]) and _fits(short, most[False]):
        return {(domain, True): long, (domain, False): short}
    raise UserError(
        f"{domain}: {long:,.0f} tokens of documents over {mixing.long_over:,} and {short:,.0f} of "
        "shorter ones wanted, "
        f"but there are {supply[domain, True]:,} and {supply[domain, False]:,}, used at most "
        f"{recipe.max_repeats} "
        "times. " + _reachable(domain, long, short, most, mixing.token_budget)
    )


def _fits(wanted: float, most: int) -> bool:
    return wanted <= most * (1 + 1e-9) or wanted < 1


def _reachable(
    domain: str, long: float, short: float, most: Mapping[bool, int], token_budget: int
) -> str:
    """The nearest that can be had: at this share a smaller budget, at this budget another share."""
    factor = min(most[True] / long if long else 1.0, most[False] / short if short else 1.0, 1.0)
    lowest, highest = 1 - min(most[False] / (long + short), 1), min(most[True] / (long + short), 1)
    advice = f"With these shares the recipe reaches token_budget {int(token_budget * factor):,}. "
    if lowest <= highest:
        advice += (
            f"With this budget {domain} reaches a long share of {lowest:.3f} to {highest:.3f}: "
            "lower "
            "long_share, or set as_far_as_possible. "
        )
    return (
        advice + "Or raise max_repeats, or bring more documents (token_demand.margin, the source)."
    )


def fill(pieces: Pieces, budget: float, max_repeats: int, where: str, *key: str | int) -> Pieces:
    """Pieces in random order, repeated where needed, whose tokens come nearest to `budget`.

    `key` names the draw (seed, domain, part); the order of a piece depends on it, on its document's
    id and on its start, never on the other pieces. Raises UserError, with the most there is, if
    `max_repeats` passes do not do.
    """
    available = int(pieces.length.sum()) * max_repeats
    if budget > available * (1 + 1e-9) and budget >= 1:
        raise UserError(
            f"{where}: {budget:,.0f} tokens wanted, but {len(pieces.document):,} pieces used at "
            "most "
            f"{max_repeats} times give {available:,}. Lower mixed_dataset.token_budget or "
            "long_share, "
            "raise max_repeats, or bring more documents."
        )
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
    """A random order of the pieces that is a pure function of `key` and of each piece.
    int64[pieces].

    Copies of a piece (a repeat; one text in two domains) are told apart by their number, in the
    order given: each draws for itself. By one draw they would stand side by side, and a long row
    would hold a document and its copy.
    """
    base = np.uint64(digest(*key) & 0xFFFF_FFFF_FFFF_FFFF)
    with np.errstate(over="ignore"):
        mixed = _mix(base ^ _mix(pieces.identity))
        mixed = _mix(mixed + pieces.start.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15))
    order = np.argsort(mixed, kind="stable")
    number = _numbers_in_runs(mixed[order])
    if not number.any():
        return order
    copies = order[number > 0]
    with np.errstate(over="ignore"):
        mixed[copies] = _mix(
            mixed[copies] + number[number > 0].astype(np.uint64) * np.uint64(0xD1B5_4A32_D192_ED03)
        )
    return np.argsort(mixed, kind="stable")


def _numbers_in_runs(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of the ascending `values`, how many equal ones stand before it. int64[values]."""
    place = np.arange(len(values))
    begins = np.diff(values, prepend=~values[:1]) != 0
    return place - np.maximum.accumulate(np.where(begins, place, 0))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers that scatters them (the finaliser of SplitMix64, Steele et al.
    2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))
