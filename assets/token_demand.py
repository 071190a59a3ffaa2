"""How many tokens each domain must bring for the recipes: the largest need of any of them, times a
margin.

A stage of its own, so that reading a corpus hangs on what is needed and not on how it is used:
another recipe that needs no more leaves data/token_demand/DOMAIN.json as it was, byte for byte, and
nothing is read again. Needs are of one pass; a recipe that repeats documents does with less. With
the weights "natural" a domain's share is known only when all of it is read, so all of it is. A text
that an earlier domain keeps is still counted here; the margin must cover that. As the first
stage it refuses a recipe that names a domain which is not there.

order.txt holds the domains in the order of params.yaml, which decides the domain that keeps a text.
DVC compares maps of parameters without their order, so dvc.yaml writes the domains into this
stage's command, which DVC compares letter by letter.
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
    """How far ahead of the recipes to read."""

    margin: Annotated[float, Field(ge=1)] | None
    """Candidates for each token that trains; null reads every source to its end."""
    bytes_per_token: Annotated[float, Field(gt=0)] = 3.68
    """Estimates tokens before there is a tokenizer (the released code's figure, for characters);
    the margin covers its error.
    """


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
    """Raises UserError, naming the recipe, where weights or raised domains are not those of
    raw_corpus."""
    for name, recipe in mixing.recipes.items():
        try:
            domain_weights(of_recipe(recipe, mixing), dict.fromkeys(domains, 1))
        except UserError as error:
            raise UserError(f"mixed_dataset.recipes.{name}: {error}") from None


def demand(
    domain: str, domains: list[str], mixings: list[Mixing], config: TokenDemandConfig
) -> Demand:
    """The largest need of any recipe, times the margin."""
    long_over = max((mixing.long_over for mixing in mixings), default=1)
    if (
        config.margin is None
        or not mixings
        or any(mixing.weights == "natural" for mixing in mixings)
    ):
        return Demand(
            tokens=None, long_tokens=0, long_over=long_over, bytes_per_token=config.bytes_per_token
        )
    needs = []
    for mixing in mixings:
        tokens = mixing.token_budget * domain_weights(mixing, dict.fromkeys(domains, 0))[domain]
        # With a keep ratio the share of long tokens follows from the corpus; it is never more than
        # all of them.
        share = 1.0 if mixing.recipe.keep_ratio is not None else mixing.recipe.long_share or 0.0
        needs.append((tokens, tokens * share))
    return Demand(
        tokens=config.margin * max(need for need, _ in needs),
        long_tokens=config.margin * max(need for _, need in needs),
        long_over=long_over,
        bytes_per_token=config.bytes_per_token,
    )


if __name__ == "__main__":
    del sys.argv[1:]  # the domains, which are read from params.yaml
    command(run)
