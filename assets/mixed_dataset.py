"""Mixed dataset: which pieces of which documents train for one recipe, how often, in what order.

The result is an index of about 30 bytes a piece. No token is copied, so another recipe costs
seconds. Held-out documents are left out, and the stage checks this on the index itself.

A text in two domains would train twice, so the later domain leaves it out
(`duplicates_across_domains`). It happens here because this is the first stage that reads all
domains: the earlier stages handle each domain alone, and a change of one domain makes no other
stale. The cost: the length histograms and the demand still count such a text twice. duplicates.csv
counts what each domain left out, and for which domain.

Which domain comes first is decided by params.yaml. DVC ignores the order of a map, so this stage
also depends on data/token_demand/order.txt.

Memory: about 150 bytes for each document of the corpus.

Example: three documents of 5, 2 and 1 tokens, in all eight. With `cut: 3` the first becomes a long
piece of 3 tokens and a short one of 2, if documents over 2 tokens are long:

>>> ids = np.array([11, 22, 33], np.uint64)
>>> web = cut_documents(ids, np.array([0, 1, 2]), np.array([5, 2, 1]), cut=3)
>>> web.document.tolist(), web.start.tolist(), web.stop.tolist()
([0, 0, 1, 2], [0, 3, 0, 0], [3, 5, 2, 1])

3 of the 8 tokens are in long pieces. A recipe of 8 tokens asks for three quarters, so the long
piece is used twice:

>>> recipe = Recipe(cut=3, long_share=0.75)
>>> mixing = Mixing(recipe=recipe, seed=1, weights="natural", token_budget=8, long_over=2)
>>> chosen, wanted = choose(mixing, {"web": web}, {"web": 1.0})
>>> wanted
{('web', True): 6.0, ('web', False): 2.0}
>>> for piece in in_training_order(chosen, seed=1).to_pylist():
...     print("{domain}: document {document}, tokens {start}:{stop}".format(**piece))
web: document 0, tokens 0:3
web: document 0, tokens 3:5
web: document 0, tokens 0:3

assets/packing.py puts these pieces into rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.histogram import histogram
from assets.pieces import Pieces, cut_documents, fill, keyed_order
from assets.recipes import (
    MixedDatasetConfig,
    Mixing,
    Part,
    Recipe,
    domain_weights,
    of_recipe,
    solve,
)
from assets.token_store import TokenStore, open_tokens
from core.checks import Check
from core.command import command
from core.errors import UserError
from core.params import names_of, read_params
from core.sealed import output

INDEX = "index.parquet"
DUPLICATES = "duplicates.csv"
CORPUS = Path("data/tokenized_corpus")
ALL = "all"
"""The row of all domains together, in the table of shares."""
SHARE_TOLERANCE = 0.005
"""Of all tokens: by how much a domain's realised share may miss the requested one."""
LONG_TOLERANCE = 0.02
"""Of a domain's tokens: by how much its share of long documents may fall short."""
SMALL = 128
"""With fewer domains their numbers are int8 in the index."""
Numbers = NDArray[np.int64]
"""Some documents of a domain, by their number in its store."""
Documents = Mapping[str, Numbers]
"""Some documents of each domain."""
Stores = Mapping[str, TokenStore]
"""The token store of each domain."""
Chosen = Mapping[Part, Pieces]
"""The pieces of each part that train."""


def run(name: str) -> None:
    """Make data/mixed_dataset/NAME."""
    shared = read_params("mixed_dataset", MixedDatasetConfig)
    mixing = of_recipe(read_params(f"mixed_dataset.recipes.{name}", Recipe), shared)
    stores = {domain: open_tokens(CORPUS / domain) for domain in names_of("domain")}
    with output("mixed_dataset", name) as out:
        documents, left_out = training_documents(mixing, stores)
        _write_csv(left_out, out.folder / DUPLICATES)

        weights = weights_of(mixing, stores, documents)
        candidates = {
            domain: train_pieces(store, documents[domain], mixing.recipe.cut)
            for domain, store in stores.items()
        }
        try:
            chosen, wanted = choose(mixing, candidates, weights)
        except UserError as error:
            raise UserError(f"recipe {name!r}: {error}{_hint(left_out)}") from None

        index = in_training_order(chosen, mixing.seed)
        pq.write_table(index, out.folder / INDEX, compression="zstd")
        table = shares(chosen, weights, wanted, mixing.token_budget)
        _write_csv(table, out.folder / "shares.csv")
        _write_csv(lengths(chosen), out.folder / "lengths.csv")

        heldout = heldout_spans(index, {domain: store.heldout for domain, store in stores.items()})
        out.checks = [
            domain_shares(table),
            long_share(table, mixing.recipe),
            no_heldout(heldout),
        ]
        out.facts = out.metrics = _summary(index, table, left_out, sum(heldout.values()))


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table with the same line ends on every system."""
    table.to_csv(path, index=False, lineterminator="\n")


def _summary(
    index: pa.Table, table: pd.DataFrame, left_out: pd.DataFrame, heldout: int
) -> dict[str, float]:
    """The metrics of a recipe.

    table: as `shares` makes it. left_out: texts that a domain left to another. heldout: spans of
    held-out documents.
    """
    total = table.iloc[-1]
    return {
        "spans": index.num_rows,
        "tokens": int(total["tokens"]),
        "long_share": float(total["long_share"]),
        "largest_share_error": float(_missed(table).max()),
        "duplicates_across_domains": int(left_out["documents"].sum()),
        "repeated_spans": index.num_rows - _distinct(index),
        "longest_span": _longest(index),
        "heldout_spans": heldout,
    }


def training_documents(mixing: Mixing, stores: Stores) -> tuple[dict[str, Numbers], pd.DataFrame]:
    """The documents of each domain that may train, and a table of those that it left out.

    Held-out documents never train. Of a text in several domains only the first domain keeps its
    document, unless the recipe keeps duplicates.
    """
    documents = {domain: np.flatnonzero(~store.heldout) for domain, store in stores.items()}
    if mixing.recipe.duplicates_across_domains == "keep":
        return first_domain_only(stores, documents, [])

    # A domain of weight 0 does not train, so it must not keep a text from one that does.
    weights = weights_of(mixing, stores, documents)
    weighted = [domain for domain in documents if weights[domain] > 0]
    return first_domain_only(stores, documents, weighted)


def weights_of(mixing: Mixing, stores: Stores, documents: Documents) -> dict[str, float]:
    """Share of tokens by domain, if these documents of each domain may train.

    The shares sum to 1. Only "natural" weights depend on the documents.
    """
    tokens = {}
    for domain, store in stores.items():
        tokens[domain] = int(store.lengths[documents[domain]].sum())
    return domain_weights(mixing, tokens)


def first_domain_only(
    stores: Stores, documents: Documents, domains: Sequence[str]
) -> tuple[dict[str, Numbers], pd.DataFrame]:
    """The documents of each domain, without those whose text an earlier one of `domains` has too.

    Texts are equal if their ids are: an id is a hash of the text. The table has a row for each pair
    of a domain and an earlier one: domain, kept_by, documents, tokens.
    """
    # All ids in one array, in the order of the domains, and the domain's number beside each.
    ids = [stores[domain].ids[documents[domain]] for domain in domains]
    joined = np.concatenate([*ids, np.empty(0, np.uint64)])
    number = np.repeat(np.arange(len(domains)), [len(own) for own in ids])

    # `first` is the first place of each text, which is in the earliest domain that has it.
    _, first, text = np.unique(joined, return_index=True, return_inverse=True)
    keeper = number[first[text]]

    kept = dict(documents)
    left_out = []
    for place, domain in enumerate(domains):
        own_keeper = keeper[number == place]
        for other in np.unique(own_keeper[own_keeper != place]).tolist():
            gone = documents[domain][own_keeper == other]
            tokens = int(stores[domain].lengths[gone].sum())
            left_out.append((domain, domains[other], len(gone), tokens))
        kept[domain] = documents[domain][own_keeper == place]
    return kept, pd.DataFrame(left_out, columns=["domain", "kept_by", "documents", "tokens"])


def _hint(left_out: pd.DataFrame) -> str:
    """A sentence for the message of a refused recipe, if documents were left out."""
    if not len(left_out):
        return ""
    documents, tokens = int(left_out["documents"].sum()), int(left_out["tokens"].sum())
    return (
        f" {documents:,} documents ({tokens:,} tokens) count in an earlier domain only, because of "
        "duplicates_across_domains = drop."
    )


def train_pieces(store: TokenStore, documents: Numbers, cut: int) -> Pieces:
    """These documents of a domain, cut into pieces. Held-out documents must not be among them."""
    return cut_documents(store.ids[documents], documents, store.lengths[documents], cut)


def choose(
    mixing: Mixing, candidates: Mapping[str, Pieces], weights: Mapping[str, float]
) -> tuple[dict[Part, Pieces], dict[Part, float]]:
    """The pieces of every part that train, and the tokens that were wanted of it.

    candidates: all pieces of each domain.
    weights: share of tokens by domain, summing to 1.
    Raises UserError if the corpus has too few tokens for the recipe.
    """
    parts: dict[Part, Pieces] = {}
    for domain, pieces in candidates.items():
        long = pieces.length > mixing.long_over
        parts[domain, True] = pieces.take(np.flatnonzero(long))
        parts[domain, False] = pieces.take(np.flatnonzero(~long))
    supply = {part: int(pieces.length.sum()) for part, pieces in parts.items()}
    wanted = solve(mixing, weights, supply)

    chosen: dict[Part, Pieces] = {}
    for (domain, is_long), budget in wanted.items():
        where = f"{domain}, {'long' if is_long else 'short'} documents"
        key = (mixing.seed, domain, int(is_long))
        chosen[domain, is_long] = fill(
            parts[domain, is_long], budget, mixing.recipe.max_repeats, where, *key
        )
    return chosen, wanted


def heldout_spans(index: pa.Table, heldout: Mapping[str, NDArray[np.bool_]]) -> dict[str, int]:
    """The number of spans of held-out documents in the index, by domain.

    heldout: whether each document of the domain's store is held out, by domain.
    """
    domain, document = index["domain"].combine_chunks(), index["document"].to_numpy()
    code = domain.indices.to_numpy()
    return {
        name: int(heldout[name][document[code == number]].sum())
        for number, name in enumerate(domain.dictionary.to_pylist())
    }


def no_heldout(spans: Mapping[str, int]) -> Check:
    """Whether no held-out document trains. spans: those of held-out documents, by domain."""
    found = [f"{count:,} of {domain}" for domain, count in spans.items() if count]
    return Check(
        name="no_heldout",
        passed=not found,
        expected="0 spans of held-out documents",
        found=", ".join(found) or "0",
        advice="Do not train on it. Report it: this is a fault of Needlework.",
    )


def domain_shares(table: pd.DataFrame) -> Check:
    """Whether every domain has the share that the recipe gives it. table: as `shares` makes it."""
    missed = _missed(table).fillna(np.inf)  # NaN would be smaller than any limit
    worst = str(missed.idxmax())
    return Check(
        name="domain_shares",
        passed=bool(missed[worst] <= SHARE_TOLERANCE),
        expected=f"within {SHARE_TOLERANCE:.1%} of all tokens of what the recipe gives",
        found=f"{worst} misses by {missed[worst]:.2%}",
        advice="Raise mixed_dataset.token_budget: one document is too large a part of it.",
    )


def long_share(table: pd.DataFrame, recipe: Recipe) -> Check:
    """Whether every domain, or all together, has the long documents that the recipe asks for.

    The requested share in the table may be lower, because of as_far_as_possible. So the recipe's
    own long_share counts too. table: as `shares` makes it.
    """
    used = table[table["weight"] > 0].set_index("domain")
    own = used.index[used.index != ALL]
    held_to_recipe = [ALL] if recipe.across_domains else own
    wanted = used.loc[own, "long_share_requested"].to_dict()
    for name in held_to_recipe:
        wanted[name] = max(wanted.get(name, 0.0), recipe.long_share or 0.0)

    got = used["long_share"]
    # not (a >= b): a share that is NaN must fail
    short = [name for name in wanted if not got[name] >= wanted[name] - LONG_TOLERANCE]
    return Check(
        name="long_share",
        passed=not short,
        blocking=False,
        expected=f"at least the requested share, less {LONG_TOLERANCE:.0%}",
        found=", ".join(f"{name} {got[name]:.1%} of {wanted[name]:.1%}" for name in short)
        or "reached in every domain",
        advice="Give the domain more long documents, lower long_share, or accept what there is.",
    )


def _missed(table: pd.DataFrame) -> "pd.Series[float]":
    """The distance of the realised share from the requested one, by domain."""
    domains = table[table["domain"] != ALL].set_index("domain")
    return (domains["realised"] - domains["requested"]).abs()


def lengths(chosen: Chosen) -> pd.DataFrame:
    """Pieces and tokens of each domain by the length of the piece (the paper's figure 2)."""
    tables = []
    for domain in dict.fromkeys(domain for domain, _ in chosen):
        both = np.concatenate([chosen[domain, True].length, chosen[domain, False].length])
        table = histogram(both)
        table.insert(0, "domain", domain)
        tables.append(table.rename(columns={"documents": "spans"}))
    return pd.concat(tables, ignore_index=True)


def in_training_order(chosen: Chosen, seed: int) -> pa.Table:
    """All pieces, shuffled across domains.

    Columns: domain (dictionary), document (int32), start and stop (int64, tokens).
    """
    # Sorted: keyed_order numbers copies in this order, and params.yaml must not decide it.
    parts = sorted(chosen.items())
    domains = sorted({domain for domain, _ in chosen})
    kind = np.int8 if len(domains) < SMALL else np.int16
    code = np.concatenate(
        [
            np.full(len(pieces.document), domains.index(domain), kind)
            for (domain, _), pieces in parts
        ]
    )

    # One keyed order over all domains, so that neighbours come from different domains.
    spans = _all_pieces([pieces for _, pieces in parts])
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


def _all_pieces(parts: Sequence[Pieces]) -> Pieces:
    """The pieces of all parts, one part after the other."""
    return Pieces(
        identity=np.concatenate([pieces.identity for pieces in parts]),
        document=np.concatenate([pieces.document for pieces in parts]),
        start=np.concatenate([pieces.start for pieces in parts]),
        stop=np.concatenate([pieces.stop for pieces in parts]),
    )


def shares(
    chosen: Chosen,
    weights: Mapping[str, float],
    wanted: Mapping[Part, float],
    budget: int,
) -> pd.DataFrame:
    """Requested and realised shares of tokens, one row a domain and a last row for all of them.

    Columns: domain; weight, the share that the recipe's weights give it; requested and realised,
    the domain's share of all tokens; long_share_requested and long_share, the share of its tokens
    that is in long pieces; tokens.
    """
    # What was chosen differs from what was wanted by up to half a document in each part.
    got = {part: int(pieces.length.sum()) for part, pieces in chosen.items()}
    total = sum(got.values())

    rows = []
    for domain in weights:
        tokens = got[domain, True] + got[domain, False]
        asked = wanted[domain, True] + wanted[domain, False]
        rows.append(
            {
                "domain": domain,
                "weight": weights[domain],
                "requested": asked / budget,
                "realised": tokens / max(total, 1),
                "long_share_requested": wanted[domain, True] / max(asked, 1e-9),
                "long_share": got[domain, True] / max(tokens, 1),
                "tokens": tokens,
            }
        )

    long_wanted = sum(tokens for (_, is_long), tokens in wanted.items() if is_long)
    long_got = sum(tokens for (_, is_long), tokens in got.items() if is_long)
    rows.append(
        {
            "domain": ALL,
            "weight": 1.0,
            "requested": sum(wanted.values()) / budget,
            "realised": total / max(total, 1),
            "long_share_requested": long_wanted / budget,
            "long_share": long_got / max(total, 1),
            "tokens": total,
        }
    )
    return pd.DataFrame(rows).round(6)


def _distinct(index: pa.Table) -> int:
    """The number of different pieces. A start names a piece: all are cut at the same length."""
    keys = index.select(["domain", "document", "start"]).to_pandas()
    return len(keys.drop_duplicates())


def _longest(index: pa.Table) -> int:
    """Tokens in the longest piece."""
    return int((index["stop"].to_numpy() - index["start"].to_numpy()).max(initial=0))


if __name__ == "__main__":
    command(run, "recipe")
