"""One recipe applied to the corpus: which document spans train, how often, in what order. No token
is copied.

The artefact is an index of 30 bytes a span, so a further recipe costs seconds. It holds the
requested and the realised shares side by side. Held-out documents never enter, and that is checked
on what was chosen.

A text in two domains would train twice, so the later domain leaves it out
(`duplicates_across_domains`). This happens here because this is the first stage that sees all
domains: earlier stages handle each domain alone, in any order and in parallel, and a change of one
makes no other stale. The cost: the length histograms and the demand still count such a text twice.
duplicates.csv counts the documents and tokens that each domain left out, and for which domain. DVC
compares maps of parameters without their order, so this stage also depends on
data/token_demand/order.txt.

Memory: about 150 bytes for each document of the corpus.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.histogram import histogram
from assets.recipes import (
    MixedDatasetConfig,
    Mixing,
    Part,
    Pieces,
    Recipe,
    cut_documents,
    domain_weights,
    fill,
    keyed_order,
    of_recipe,
    solve,
)
from assets.token_store import TokenStore, open_tokens
from core.command import command
from core.errors import UserError
from core.params import names_of, read_params
from core.sealed import output

INDEX = "index.parquet"
DUPLICATES = "duplicates.csv"
CORPUS = Path("data/tokenized_corpus")
Rows = NDArray[np.int64]
"""Which documents of a domain, by their place in its store."""


def run(name: str) -> None:
    """Make data/mixed_dataset/NAME."""
    shared = read_params("mixed_dataset", MixedDatasetConfig)
    mixing = of_recipe(read_params(f"mixed_dataset.recipes.{name}", Recipe), shared)
    stores = {domain: open_tokens(CORPUS / domain) for domain in names_of("domain")}
    with output("mixed_dataset", name) as out:
        rows = {domain: np.flatnonzero(~store.heldout) for domain, store in stores.items()}
        weighing = weights_of(mixing, stores, rows)
        drop = mixing.recipe.duplicates_across_domains == "drop"
        claiming = [domain for domain in rows if drop and weighing[domain] > 0]
        rows, given_up = first_domain_only(stores, rows, claiming)
        given_up.to_csv(out.folder / DUPLICATES, index=False, lineterminator="\n")
        candidates = {
            domain: train_pieces(store, rows[domain], mixing.recipe.cut)
            for domain, store in stores.items()
        }
        weights = weights_of(mixing, stores, rows)
        try:
            chosen, wanted = choose(mixing, candidates, weights)
        except UserError as error:
            raise UserError(f"recipe {name!r}: {error}{_hint(given_up)}") from None
        check_heldout(chosen, stores)
        index = in_training_order(chosen, mixing.seed)
        pq.write_table(index, out.folder / INDEX, compression="zstd")
        table = shares(chosen, weights, wanted, mixing.token_budget)
        table.to_csv(out.folder / "shares.csv", index=False, lineterminator="\n")
        lengths(chosen).to_csv(out.folder / "lengths.csv", index=False, lineterminator="\n")
        total = table.iloc[-1]
        domains = table.iloc[:-1]
        out.facts = out.metrics = {
            "spans": index.num_rows,
            "tokens": int(total["tokens"]),
            "long_share": float(total["long_share"]),
            "largest_share_error": float((domains["realised"] - domains["requested"]).abs().max()),
            "duplicates_across_domains": int(given_up["documents"].sum()),
            "repeated_spans": index.num_rows - _distinct(index),
            "longest_span": _longest(index),
            "heldout_spans": 0,
        }


def weights_of(
    mixing: Mixing, stores: Mapping[str, TokenStore], rows: Mapping[str, Rows]
) -> dict[str, float]:
    """Share of tokens by domain, where these rows of each may train."""
    tokens = {domain: int(store.lengths[rows[domain]].sum()) for domain, store in stores.items()}
    return domain_weights(mixing, tokens)


def first_domain_only(
    stores: Mapping[str, TokenStore], rows: Mapping[str, Rows], domains: Sequence[str]
) -> tuple[dict[str, Rows], pd.DataFrame]:
    """The rows of each domain without those whose text stands in an earlier one of `domains`, too.

    Texts are equal where their ids are, which are hashes of them. The table has a row for each
    domain that gave documents up and each that keeps them: domain, kept_by, documents, tokens.
    """
    kept, given_up = dict(rows), []
    ids = [stores[domain].ids[rows[domain]] for domain in domains]
    number = np.repeat(np.arange(len(domains)), [len(own) for own in ids])
    joined = np.concatenate([*ids, np.empty(0, np.uint64)])
    _, first, text = np.unique(joined, return_index=True, return_inverse=True)
    keeper = number[first[text]]  # `first` is the first place of each id, so of the earliest domain
    for place, domain in enumerate(domains):
        own_keeper = keeper[number == place]
        for other in np.unique(own_keeper[own_keeper != place]).tolist():
            gone = rows[domain][own_keeper == other]
            tokens = int(stores[domain].lengths[gone].sum())
            given_up.append((domain, domains[other], len(gone), tokens))
        kept[domain] = rows[domain][own_keeper == place]
    return kept, pd.DataFrame(given_up, columns=["domain", "kept_by", "documents", "tokens"])


def _hint(given_up: pd.DataFrame) -> str:
    """What to add to a refusal where texts were given up."""
    if not len(given_up):
        return ""
    documents, tokens = int(given_up["documents"].sum()), int(given_up["tokens"].sum())
    return (
        f" {documents:,} documents ({tokens:,} tokens) count in an earlier domain only, as "
        "duplicates_across_domains = drop says."
    )


def train_pieces(store: TokenStore, rows: Rows, cut: int) -> Pieces:
    """These documents of a domain, cut. Held-out ones must not be among them; `run` leaves them
    out."""
    return cut_documents(store.ids[rows], rows, store.lengths[rows], cut)


def choose(
    mixing: Mixing, candidates: Mapping[str, Pieces], weights: Mapping[str, float]
) -> tuple[dict[Part, Pieces], dict[Part, float]]:
    """The spans of every part, and the tokens that were wanted of it."""
    parts = {
        (domain, is_long): pieces.take(
            np.flatnonzero((pieces.length > mixing.long_over) == is_long)
        )
        for domain, pieces in candidates.items()
        for is_long in (True, False)
    }
    wanted = solve(
        mixing, weights, {part: int(pieces.length.sum()) for part, pieces in parts.items()}
    )
    chosen = {}
    for (domain, is_long), budget in wanted.items():
        where = f"{domain}, {'long' if is_long else 'short'} documents"
        chosen[domain, is_long] = fill(
            parts[domain, is_long],
            budget,
            mixing.recipe.max_repeats,
            where,
            mixing.seed,
            domain,
            int(is_long),
        )
    return chosen, wanted


def check_heldout(chosen: Mapping[Part, Pieces], stores: Mapping[str, TokenStore]) -> None:
    """Raise RuntimeError if a held-out document is among the chosen: a fault of this program, not
    of the user."""
    for (domain, _), pieces in chosen.items():
        if stores[domain].heldout[pieces.document].any():
            raise RuntimeError(
                f"{domain}: held-out documents were chosen for training. Nothing was written."
            )


def lengths(chosen: Mapping[Part, Pieces]) -> pd.DataFrame:
    """Spans and tokens of each domain by length of the span, in bins of doubling width: the paper's
    figure 2."""
    tables = []
    for domain in dict.fromkeys(domain for domain, _ in chosen):
        table = histogram(
            np.concatenate([chosen[domain, is_long].length for is_long in (True, False)])
        )
        table.insert(0, "domain", domain)
        tables.append(table.rename(columns={"documents": "spans"}))
    return pd.concat(tables, ignore_index=True)


def in_training_order(chosen: Mapping[Part, Pieces], seed: int) -> pa.Table:
    """All spans, shuffled across domains: domain (dictionary), document (int32), start and stop
    (int64 tokens)."""
    chosen = dict(
        sorted(chosen.items())
    )  # copies are numbered in this order, which is not that of params.yaml
    domains = sorted({domain for domain, _ in chosen})
    parts = [(domains.index(domain), pieces) for (domain, _), pieces in chosen.items()]
    code = np.concatenate(
        [
            np.full(len(pieces.document), number, np.int8 if len(domains) < 128 else np.int16)
            for number, pieces in parts
        ]
    )
    spans = Pieces(
        **{
            name: np.concatenate([getattr(pieces, name) for _, pieces in parts])
            for name in ("identity", "document", "start", "stop")
        }
    )
    order = keyed_order(spans, seed, "order")
    ordered = spans.take(order)
    return pa.table(
        {
            "domain": pa.DictionaryArray.from_arrays(code[order], domains),
            "document": ordered.document.astype(np.int32),
            "start": ordered.start,
            "stop": ordered.stop,
        }
    )


def shares(
    chosen: Mapping[Part, Pieces],
    weights: Mapping[str, float],
    wanted: Mapping[Part, float],
    budget: int,
) -> pd.DataFrame:
    """Requested and realised, by domain and in all: domain shares of tokens and shares of tokens in
    long documents."""
    got = {part: int(pieces.length.sum()) for part, pieces in chosen.items()}
    total = max(sum(got.values()), 1)
    rows = []
    for domain in weights:
        tokens, asked = (
            got[domain, True] + got[domain, False],
            wanted[domain, True] + wanted[domain, False],
        )
        rows.append(
            {
                "domain": domain,
                "weight": weights[domain],
                "requested": asked / budget,
                "realised": tokens / total,
                "long_share_requested": wanted[domain, True] / max(asked, 1e-9),
                "long_share": got[domain, True] / max(tokens, 1),
                "tokens": tokens,
            }
        )
    rows.append(
        {
            "domain": "all",
            "weight": 1.0,
            "requested": sum(wanted.values()) / budget,
            "realised": sum(got.values()) / total,
            "long_share_requested": sum(
                tokens for (_, is_long), tokens in wanted.items() if is_long
            )
            / budget,
            "long_share": sum(tokens for (_, is_long), tokens in got.items() if is_long) / total,
            "tokens": sum(got.values()),
        }
    )
    return pd.DataFrame(rows).round(6)


def _distinct(index: pa.Table) -> int:
    return int(index.select(["domain", "document", "start"]).to_pandas().drop_duplicates().shape[0])


def _longest(index: pa.Table) -> int:
    return int((index["stop"].to_numpy() - index["start"].to_numpy()).max(initial=0))


if __name__ == "__main__":
    command(run, "recipe")
