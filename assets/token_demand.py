"""Token demand: the tokens that each domain must supply for the recipes.

It is the largest need of any recipe, times a margin. It is a stage of its own, so that reading a
corpus depends on what is needed and not on the recipes: a new recipe that needs no more leaves
data/token_demand/DOMAIN.json as it was, byte for byte, and nothing is read again.

The cost is some tokens too many or too few:
- A recipe that repeats documents needs fewer. The demand is for each document once.
- A text that an earlier domain keeps is counted here too. The margin must cover that.
- With the weights "natural" a domain's share depends on all of its documents, so all are read.

This is the first stage, so it also refuses a recipe that names an unknown domain.

order.txt holds the domains in the order of params.yaml, which decides the domain that keeps a text.
DVC ignores the order of a map. So dvc.yaml writes the domains into the command of this stage, which
DVC compares as text.
"""

import sys
from typing import Annotated

from pydantic import Field

from assets.demand import Demand
from assets.recipes import MixedDatasetConfig, Mixing, domain_weights, of_recipe
from core.command import command
from core.errors import UserError
from core.params import Config, names_of, read_params
from core.sealed import output, write_json

ORDER = "order.txt"


class TokenDemandConfig(Config):
    """How much more to read than the recipes need."""

    margin: Annotated[float, Field(ge=1)] | None
    """Tokens to read for each token that trains. null: read every source to its end."""
    bytes_per_token: Annotated[float, Field(gt=0)] = 3.68
    """Estimates tokens before there is a tokenizer. It is the released code's number for
    characters. The margin covers its error."""


def run() -> None:
    """Make data/token_demand."""
    config = read_params("token_demand", TokenDemandConfig)
    mixing = read_params("mixed_dataset", MixedDatasetConfig)
    domains = names_of("domain")
    check_names(mixing, domains)
    mixings = [of_recipe(recipe, mixing) for recipe in mixing.recipes.values()]

    with output("token_demand") as out:
        for domain in domains:
            wanted = demand(domain, domains, mixings, config)
            write_json(out.folder / f"{domain}.json", wanted.model_dump())
            out.metrics[domain] = wanted.tokens
        (out.folder / ORDER).write_text("".join(f"{domain}\n" for domain in domains))


def check_names(mixing: MixedDatasetConfig, domains: list[str]) -> None:
    """Raise UserError, with the recipe, if its weights name other domains than raw_corpus."""
    for name, recipe in mixing.recipes.items():
        try:
            domain_weights(of_recipe(recipe, mixing), dict.fromkeys(domains, 1))
        except UserError as error:
            raise UserError(f"mixed_dataset.recipes.{name}: {error}") from None


def demand(
    domain: str, domains: list[str], mixings: list[Mixing], config: TokenDemandConfig
) -> Demand:
    """The largest need of any recipe, times the margin."""
    tokens: float | None = None
    long_tokens = 0.0
    natural = any(mixing.weights == "natural" for mixing in mixings)
    if config.margin is not None and mixings and not natural:
        needs = [_need(domain, domains, mixing) for mixing in mixings]
        tokens = config.margin * max(need for need, _ in needs)
        long_tokens = config.margin * max(need for _, need in needs)
    return Demand(
        tokens=tokens,
        long_tokens=long_tokens,
        long_over=max((mixing.long_over for mixing in mixings), default=1),
        bytes_per_token=config.bytes_per_token,
    )


def _need(domain: str, domains: list[str], mixing: Mixing) -> tuple[float, float]:
    """The tokens that one recipe takes from a domain, and those of them in long documents."""
    weights = domain_weights(mixing, dict.fromkeys(domains, 0))
    tokens = mixing.token_budget * weights[domain]
    if mixing.recipe.keep_ratio is not None:
        return tokens, tokens  # the corpus decides the share of long tokens: at most all of them
    return tokens, tokens * (mixing.recipe.long_share or 0.0)


if __name__ == "__main__":
    # The arguments are the domains, for DVC. They are read from params.yaml.
    del sys.argv[1:]
    command(run)
