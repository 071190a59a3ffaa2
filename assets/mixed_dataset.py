"""One recipe applied to the corpus: which document spans train, how often, in what order. No token is copied.

The artefact is an index of 30 bytes a span, so a further recipe costs seconds. It holds the requested and the
realised shares side by side. Held-out documents never enter.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from assets.domains import MIXTURES
from assets.recipes import Part, Pieces, Recipe, budgets, cut_documents, fill, keyed_order
from assets.stage import Config, UserError, command, output, read_params
from assets.token_store import TokenStore, open_tokens

INDEX = "index.parquet"
CORPUS = Path("data/tokenized_corpus")


class MixedDatasetConfig(Config):
    """What all recipes share."""

    seed: int = 0
    weights: str | dict[str, Annotated[float, Field(ge=0)]] = "slimpajama"
    """Share of tokens by domain: a name of assets/domains.py, "natural" for the corpus as it is, or a map."""
    token_budget: Annotated[int, Field(ge=1)]
    """Tokens of each recipe."""
    long_over: Annotated[int, Field(ge=1)]
    """A document is long above this many tokens (the paper: 4,096, the base context)."""
    recipes: dict[str, Recipe]


class Domains(Config):
    """The part of raw_corpus that matters here: the domains' names."""

    model_config = {**Config.model_config, "extra": "ignore"}
    domains: dict[str, object]


def run(name: str) -> None:
    """Make data/mixed_dataset/NAME."""
    config = read_params("mixed_dataset", MixedDatasetConfig)
    recipe = read_params(f"mixed_dataset.recipes.{name}", Recipe)
    stores = {domain: open_tokens(CORPUS / domain) for domain in read_params("raw_corpus", Domains).domains}
    with output("mixed_dataset", name) as out:
        candidates = {domain: train_pieces(store, recipe.cut) for domain, store in stores.items()}
        weights = domain_weights(config.weights, {domain: int(p.length.sum()) for domain, p in candidates.items()})
        chosen, wanted = choose(recipe, config, candidates, weights)
        index = in_training_order(chosen, config.seed)
        pq.write_table(index, out.folder / INDEX, compression="zstd")
        table = shares(chosen, weights, wanted, config.token_budget)
        table.to_csv(out.folder / "shares.csv", index=False, lineterminator="\n")
        total = table.iloc[-1]
        out.facts = out.metrics = {
            "spans": index.num_rows, "tokens": int(total["tokens"]), "long_share": float(total["long_share"]),
            "repeated_spans": index.num_rows - _distinct(index), "longest_span": _longest(index)}


def train_pieces(store: TokenStore, cut: int) -> Pieces:
    """The training documents of a domain, cut; held-out ones are left out here and nowhere else."""
    rows = np.flatnonzero(np.array(store.split) == "train")
    identities = np.array([int(store.ids[row], 16) for row in rows], np.uint64)
    return cut_documents(identities, rows, store.lengths[rows], cut)


def domain_weights(wanted: str | dict[str, float], tokens: Mapping[str, int]) -> dict[str, float]:
    """Share of tokens by domain, summing to 1 over the domains that are there. Raises UserError on an unknown name."""
    if wanted == "natural":
        raw: Mapping[str, float] = tokens
    elif isinstance(wanted, str):
        if wanted not in MIXTURES:
            raise UserError(f"mixed_dataset.weights = {wanted!r}: known are natural, {', '.join(MIXTURES)}, or a map "
                            "from domain to share.")
        raw = MIXTURES[wanted]
    else:
        raw = wanted
    missing = [domain for domain in tokens if domain not in raw]
    if missing:
        raise UserError(f"mixed_dataset.weights = {wanted!r}: no share for {', '.join(missing)}. Use natural, or a map "
                        "with every domain of raw_corpus.domains.")
    total = sum(raw[domain] for domain in tokens)
    if total <= 0:
        raise UserError(f"mixed_dataset.weights = {wanted!r}: the shares of {', '.join(tokens)} sum to {total}. "
                        "Give at least one domain a share above 0, and at least one training document.")
    return {domain: raw[domain] / total for domain in tokens}


def choose(recipe: Recipe, config: MixedDatasetConfig, candidates: Mapping[str, Pieces], weights: Mapping[str, float]
           ) -> tuple[dict[Part, Pieces], dict[Part, float]]:
    """The spans of every part, and the tokens that were wanted of it."""
    long_shares = {domain: _long_share(pieces, config.long_over) for domain, pieces in candidates.items()}
    wanted = budgets(recipe, weights, long_shares, config.token_budget)
    chosen = {}
    for (domain, is_long), budget in wanted.items():
        pieces = candidates[domain]
        part = pieces.take(np.flatnonzero((pieces.length > config.long_over) == is_long))
        where = f"{domain}, {'long' if is_long else 'short'} documents"
        chosen[domain, is_long] = fill(part, budget, recipe.max_repeats, where, config.seed, domain, int(is_long))
    return chosen, wanted


def in_training_order(chosen: Mapping[Part, Pieces], seed: int) -> pa.Table:
    """All spans, shuffled across domains: domain (dictionary), document (int32), start and stop (int64 tokens)."""
    domains = sorted({domain for domain, _ in chosen})
    parts = [(domains.index(domain), pieces) for (domain, _), pieces in chosen.items()]
    code = np.concatenate([np.full(len(pieces.document), number, np.int8 if len(domains) < 128 else np.int16)
                           for number, pieces in parts])
    spans = Pieces(**{name: np.concatenate([getattr(pieces, name) for _, pieces in parts])
                      for name in ("identity", "document", "start", "stop")})
    order = keyed_order(spans, seed, "order")
    ordered = spans.take(order)
    return pa.table({
        "domain": pa.DictionaryArray.from_arrays(code[order], domains), "document": ordered.document.astype(np.int32),
        "start": ordered.start, "stop": ordered.stop})


def shares(chosen: Mapping[Part, Pieces], weights: Mapping[str, float], wanted: Mapping[Part, float], budget: int
           ) -> pd.DataFrame:
    """Requested and realised, by domain and in all: domain shares of tokens and shares of tokens in long documents."""
    got = {part: int(pieces.length.sum()) for part, pieces in chosen.items()}
    total = max(sum(got.values()), 1)
    rows = []
    for domain in weights:
        tokens, asked = got[domain, True] + got[domain, False], wanted[domain, True] + wanted[domain, False]
        rows.append({"domain": domain, "weight": weights[domain], "requested": asked / budget,
                     "realised": tokens / total, "long_share_requested": wanted[domain, True] / max(asked, 1e-9),
                     "long_share": got[domain, True] / max(tokens, 1), "tokens": tokens})
    rows.append({"domain": "all", "weight": 1.0, "requested": sum(wanted.values()) / budget,
                 "realised": sum(got.values()) / total,
                 "long_share_requested": sum(tokens for (_, is_long), tokens in wanted.items() if is_long) / budget,
                 "long_share": sum(tokens for (_, is_long), tokens in got.items() if is_long) / total,
                 "tokens": sum(got.values())})
    return pd.DataFrame(rows).round(6)


def _long_share(pieces: Pieces, long_over: int) -> float:
    length = pieces.length
    return float(length[length > long_over].sum() / max(int(length.sum()), 1))


def _distinct(index: pa.Table) -> int:
    return int(index.select(["domain", "document", "start"]).to_pandas().drop_duplicates().shape[0])


def _longest(index: pa.Table) -> int:
    return int((index["stop"].to_numpy() - index["start"].to_numpy()).max(initial=0))


if __name__ == "__main__":
    command(run, "recipe")
