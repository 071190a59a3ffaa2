"""Recipes: how many tokens to take from the long and from the short documents of each domain.

A weight counts tokens, not documents. The budget of a recipe is divided by formula over parts; a
part is a domain's long documents, or its short ones. assets/pieces.py then fills each part. A part
with too few tokens starts over in another order, up to `max_repeats` times. If that is not enough,
the recipe is refused, with the most that the corpus can give.

The cost: a recipe gets what it asks for or nothing. A user with too little data must change a
number or set `as_far_as_possible`.

Sources: Fu et al. 2024, section 3, for the recipes; the code they released for the keep ratio and
the raised domains.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets.domains import MIXTURES
from assets.pieces import TOLERANCE
from core.errors import UserError
from core.params import Config

Part = tuple[str, bool]
"""A domain, and whether its long (True) or its short (False) documents are meant."""
Weights = str | dict[str, Annotated[float, Field(ge=0)]]
"""Shares of tokens by domain: a name in assets/domains.py, "natural" for the shares of the corpus,
or a map."""


Shares = Mapping[str, float]
"""A share, or a weight, of each domain."""
Wanted = dict[Part, float]
"""The tokens wanted of each part."""


class Recipe(Config):
    """One way to choose documents. A value that is None is the one of mixed_dataset."""

    cut: Annotated[int, Field(ge=2)]
    """Documents are cut into pieces of at most this many tokens. A piece counts as a document."""
    long_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Wanted share of tokens in long documents. None keeps the share of the corpus. A domain with a
    higher share keeps it."""
    keep_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """The same target in another form: short documents are kept with this probability, long ones
    always. The released code has 0.1."""
    across_domains: bool = False
    """False: the target holds inside each domain, and the mixture of domains is kept. True: it
    holds for all domains together, and the mixture changes."""
    as_far_as_possible: bool = False
    """True: a domain that cannot reach `long_share` gives all it has, and shares.csv shows the
    difference. False: the recipe is refused."""
    max_repeats: Annotated[int, Field(ge=1)] = 4
    """A piece is used at most this many times."""
    duplicates_across_domains: Literal["drop", "keep"] = "drop"
    """drop: only the first domain with a text trains on it, in the order of raw_corpus.domains. A
    domain of weight 0 takes no text from another. keep: every domain trains on it."""
    weights: Weights | None = None
    raised: dict[str, Annotated[float, Field(gt=0)]] = {}
    """New weights of some domains. Afterwards all weights are divided by their sum. The *_up
    recipes raise one domain to 0.6."""
    token_budget: Annotated[int, Field(ge=1)] | None = None
    """Tokens of this recipe."""
    long_over: Annotated[int, Field(ge=1)] | None = None
    """A document with more tokens is long."""
    seed: int | None = None
    """Decides which documents are chosen, and their order."""

    @model_validator(mode="after")
    def _one_target(self) -> "Recipe":
        # Both would be satisfied only by chance.
        if self.long_share is not None and self.keep_ratio is not None:
            raise ValueError("long_share and keep_ratio set the same target: set one of them")
        return self


class MixedDatasetConfig(Config):
    """The recipes, and the values that they share unless they set their own."""

    seed: int = 0
    """Decides which documents are chosen, and their order."""
    weights: Weights = "slimpajama"
    """Shares of tokens by domain."""
    token_budget: Annotated[int, Field(ge=1)]
    """Tokens of each recipe."""
    long_over: Annotated[int, Field(ge=1)]
    """A document with more tokens is long (the paper: 4,096, the base context)."""
    recipes: dict[str, Recipe]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """A recipe and every value it uses."""

    recipe: Recipe
    seed: int
    weights: Weights
    token_budget: int
    long_over: int


def of_recipe(recipe: Recipe, shared: MixedDatasetConfig) -> Mixing:
    """The recipe with its own values, or else the shared ones."""
    return Mixing(
        recipe=recipe,
        seed=shared.seed if recipe.seed is None else recipe.seed,
        weights=shared.weights if recipe.weights is None else recipe.weights,
        token_budget=recipe.token_budget or shared.token_budget,
        long_over=recipe.long_over or shared.long_over,
    )


def domain_weights(mixing: Mixing, tokens: Mapping[str, int]) -> dict[str, float]:
    """Share of tokens by domain, for the domains of `tokens`. The shares sum to 1.

    tokens: tokens of each domain; these are the weights if the recipe says "natural".
    Raises UserError for an unknown name, a missing share, or shares that sum to 0.
    """
    raised = mixing.recipe.raised
    weights = {**_unraised(mixing, tokens), **_known(f"raised = {dict(raised)}", raised, tokens)}

    named = f"mixed_dataset.weights = {mixing.weights!r}"
    missing = [domain for domain in tokens if domain not in weights]
    if missing:
        raise UserError(
            f"{named}: no share for {', '.join(missing)}. "
            "Use natural, or a map with every domain of raw_corpus.domains."
        )
    total = sum(weights[domain] for domain in tokens)
    if total <= 0:
        raise UserError(
            f"{named}: the shares of {', '.join(tokens)} sum to {total}. "
            "Give one of them a positive share."
        )
    return {domain: weights[domain] / total for domain in tokens}


def _unraised(mixing: Mixing, tokens: Mapping[str, int]) -> Shares:
    """The weights as the recipe names them, before some are raised. They need not sum to 1."""
    weights = mixing.weights
    if weights == "natural":
        return tokens
    if not isinstance(weights, str):
        return _known(f"mixed_dataset.weights = {weights!r}", weights, tokens)
    if weights not in MIXTURES:
        raise UserError(
            f"mixed_dataset.weights = {weights!r}: unknown. "
            f"Use natural, {', '.join(MIXTURES)}, or a map from domain to share."
        )
    return MIXTURES[weights]


def _known(where: str, weights: Shares, domains: Mapping[str, int]) -> Shares:
    """The same weights. Raises UserError for a domain that is not there."""
    unknown = [domain for domain in weights if domain not in domains]
    if unknown:
        raise UserError(
            f"{where}: no domain {', '.join(unknown)}. There are: {', '.join(domains)}."
        )
    return weights


def solve(mixing: Mixing, weights: Shares, supply: Mapping[Part, int]) -> Wanted:
    """Tokens wanted of each part. They sum to the token budget.

    weights: share of tokens by domain, summing to 1.
    supply: tokens of each part, each document once.
    Raises UserError, with the most that can be reached, if `max_repeats` uses are not enough.
    """
    # The share of long tokens in each domain of the corpus.
    long_of = {}
    for domain in weights:
        long, short = supply[domain, True], supply[domain, False]
        long_of[domain] = long / max(long + short, 1)

    if mixing.recipe.across_domains:
        wanted = _across_domains(mixing, weights, long_of)
    else:
        wanted = _inside_domains(mixing, weights, long_of)

    reached: Wanted = {}
    for domain in weights:
        reached |= _within_reach(domain, wanted, supply, mixing)
    return reached


def _long_share(recipe: Recipe, own: float) -> float:
    """The share of long tokens to aim for, if the corpus has the share `own`."""
    if recipe.keep_ratio is not None:
        # Of the short tokens a share of keep_ratio is left.
        return own / (own + recipe.keep_ratio * (1 - own)) if own else 0.0
    return max(recipe.long_share or 0.0, own)


def _inside_domains(mixing: Mixing, weights: Shares, long_of: Shares) -> Wanted:
    """Tokens wanted of each part if the target holds inside each domain.

    long_of: the share of long tokens in each domain of the corpus.
    """
    wanted: Wanted = {}
    for domain, weight in weights.items():
        share = _long_share(mixing.recipe, long_of[domain])
        wanted[domain, True] = mixing.token_budget * weight * share
        wanted[domain, False] = mixing.token_budget * weight * (1 - share)
    return wanted


def _across_domains(mixing: Mixing, weights: Shares, long_of: Shares) -> Wanted:
    """Tokens wanted of each part if the target holds for all domains together.

    Each domain gives long tokens in proportion to those it has, and short tokens likewise. So a
    domain with many long documents gets a larger share than its weight.
    """
    # The share of long tokens in a mixture by `weights`.
    pooled = sum(weights[domain] * long_of[domain] for domain in weights)
    share = _long_share(mixing.recipe, pooled)
    if share != pooled and not 0 < pooled < 1:
        raise UserError(
            f"long_share = {share} across domains, but {pooled:.0%} of all tokens are in long "
            "documents, so there is nothing to exchange. "
            "Change mixed_dataset.long_over or the recipe's cut."
        )
    # One factor for the long tokens of all domains, and one for the short ones.
    raise_long = share / pooled if pooled else 1.0
    lower_short = (1 - share) / (1 - pooled) if pooled < 1 else 1.0

    wanted: Wanted = {}
    for domain, weight in weights.items():
        long = long_of[domain]
        wanted[domain, True] = mixing.token_budget * weight * (raise_long * long)
        wanted[domain, False] = mixing.token_budget * weight * (lower_short * (1 - long))
    return wanted


def _within_reach(
    domain: str, wanted: Mapping[Part, float], supply: Mapping[Part, int], mixing: Mixing
) -> Wanted:
    """The tokens of one domain's two parts, moved to what the corpus has if the recipe allows it.

    wanted: tokens of each part by the shares of the recipe.
    supply: tokens of each part, each document once.
    Raises UserError if the corpus has too few.
    """
    recipe = mixing.recipe
    most_long = supply[domain, True] * recipe.max_repeats
    most_short = supply[domain, False] * recipe.max_repeats
    long, short = wanted[domain, True], wanted[domain, False]

    # At least what the short documents cannot fill, at most what there is.
    if recipe.as_far_as_possible:
        budget = long + short
        long = min(max(long, budget - most_short), most_long)
        short = budget - long
    if _fits(long, most_long) and _fits(short, most_short):
        return {(domain, True): long, (domain, False): short}

    raise UserError(
        f"{domain}: {long:,.0f} tokens of documents over {mixing.long_over:,} and {short:,.0f} of "
        f"shorter ones wanted, but there are {supply[domain, True]:,} and "
        f"{supply[domain, False]:,}, used at most {recipe.max_repeats} times. "
        + _reachable(domain, long, short, most_long, most_short, mixing.token_budget)
    )


def _fits(wanted: float, most: int) -> bool:
    """Whether a part has enough tokens. Less than one token is a rounding error."""
    return wanted <= most * (1 + TOLERANCE) or wanted < 1


def _reachable(
    domain: str, long: float, short: float, most_long: int, most_short: int, token_budget: int
) -> str:
    """Advice: the largest budget with these shares, or the share that this budget allows."""
    of_long = most_long / long if long else 1.0
    of_short = most_short / short if short else 1.0
    largest = int(token_budget * min(of_long, of_short, 1.0))
    advice = f"With these shares the recipe reaches token_budget {largest:,}. "

    budget = long + short
    lowest = 1 - min(most_short / budget, 1)
    highest = min(most_long / budget, 1)
    if lowest <= highest:
        advice += (
            f"With this budget {domain} reaches a long share of {lowest:.3f} to {highest:.3f}: "
            "lower long_share, or set as_far_as_possible. "
        )
    return (
        advice + "Or raise max_repeats, or bring more documents (token_demand.margin, the source)."
    )
