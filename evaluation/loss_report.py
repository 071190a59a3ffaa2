"""Held-out loss of one model by domain and position, the paper's table 5.

It answers whether long context costs anything at short context. Each document is read alone, from
its begin token to the last position that a band or point needs. So the first band holds the start
of every document; a later band holds tokens of long documents with that much context before them.
Points give figures 3 and 4. Loss by band is not retrieval: two models within 0.01 nats can differ
completely on the needle.

The sums of every document are written, so that two models can be compared document by document
(evaluation/comparison.py). A model with another tokenizer, or behind an endpoint, has no loss per
token of the corpus: its report is empty and gives the reason.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assets.agreement import disagreement
from assets.randomness import generator
from assets.token_store import TokenStore, open_tokens
from assets.tokenizer import load_tokenizer
from core.errors import UserError
from core.params import names_of
from core.progress import Progress
from core.sealed import write_json
from evaluation.bands import in_span, spans
from evaluation.loss_report_config import LossReportConfig
from evaluation.model_under_test import ModelUnderTest
from evaluation.report import report
from evaluation.scoring import token_losses
from training.model import make_reproducible

CORPUS = Path("data/tokenized_corpus")
TOKENIZER = Path("data/tokenizer")
COLUMNS = ["domain", "document", "band", "sum", "tokens"]


def measure(tested: ModelUnderTest, config: LossReportConfig, folder: Path) -> dict[str, Any]:
    """Write documents.csv, loss.csv and loss.json; returns the mean loss of each band and point."""
    domains = names_of("domain")
    make_reproducible(config.seed)
    reason = _why_not(tested)
    progress = Progress(tested.name, config.tokens_per_domain * len(domains), "tok")
    records: list[dict[str, Any]] = []
    if reason is None:
        for domain in domains:
            store = open_tokens(CORPUS / domain)
            records += of_domain(tested, domain, store, config, progress)
    progress.close()

    order = [span.name for span in spans(config.bands, config.points)]
    documents = pd.DataFrame(records, columns=COLUMNS).sort_values(
        "band", key=lambda names: names.map(order.index), kind="stable"
    )
    _write(documents, folder)

    sums = documents.groupby("band", sort=False)[["sum", "tokens"]].sum()
    metrics: dict[str, Any] = {}
    for band, loss in (sums["sum"] / sums["tokens"]).items():
        metrics[f"loss_{band}"] = round(loss, 5)
    if reason:
        metrics["not_measured"] = reason
    return metrics


def _write(documents: pd.DataFrame, folder: Path) -> None:
    """Write documents.csv, loss.csv and loss.json. documents: columns COLUMNS."""
    documents.round({"sum": 4}).to_csv(folder / "documents.csv", index=False, lineterminator="\n")
    table = by_domain(documents)
    table.to_csv(folder / "loss.csv", index=False, lineterminator="\n")
    losses = {}
    for key, part in table.groupby("domain", sort=False):
        losses[str(key)] = dict(zip(part["band"], part["loss"], strict=True))
    write_json(folder / "loss.json", losses)


def by_domain(documents: pd.DataFrame) -> pd.DataFrame:
    """One row per domain and band: mean loss in nats per token, and the number of tokens.

    documents: columns domain, document, band, sum, tokens.
    """
    sums = documents.groupby(["domain", "band"], sort=False, as_index=False)[
        ["sum", "tokens"]
    ].sum()
    sums["loss"] = (sums["sum"] / sums["tokens"]).round(5)
    return sums[["domain", "band", "loss", "tokens"]]


def _why_not(tested: ModelUnderTest) -> str | None:
    """Why this model has no loss per token of the corpus; None if it has."""
    if tested.model is None:
        return "an endpoint gives no probabilities"
    if not (TOKENIZER / "tokenizer.json").is_file():
        raise UserError(
            f"{TOKENIZER}: not there, and the loss is of its tokens. Make the corpus first: "
            "python -m orchestration.repro tokenized_corpus"
        )
    why = disagreement(tested.tokenizer, load_tokenizer(TOKENIZER), as_in_corpus=True)
    return f"its tokenizer is not that of data/tokenized_corpus: {why}" if why else None


def of_domain(
    tested: ModelUnderTest,
    domain: str,
    store: TokenStore,
    config: LossReportConfig,
    progress: Progress,
) -> list[dict[str, Any]]:
    """One record per document and span with a token in it: sum of losses in nats, and tokens."""
    assert tested.model is not None
    wanted = spans(config.bands, config.points)
    records = []
    for number in chosen_documents(domain, store, config):
        tokens = store.document(number)[: longest(config)].astype(np.int64)
        losses = token_losses(tested.model, tokens)
        for span in wanted:
            total, count = in_span(losses, span)
            if count:
                records.append(
                    {
                        "domain": domain,
                        "document": f"{int(store.ids[number]):016x}",
                        "band": span.name,
                        "sum": total,
                        "tokens": count,
                    }
                )
        progress.add(len(tokens))
    return records


def longest(config: LossReportConfig) -> int:
    """The last position that a band or point needs, in tokens."""
    return max([*config.bands, *config.points])


def chosen_documents(domain: str, store: TokenStore, config: LossReportConfig) -> list[int]:
    """Rows of held-out documents in a keyed random order, until `tokens_per_domain` are scored."""
    heldout = np.flatnonzero(store.heldout)
    order = generator(config.seed, "loss", domain).permutation(heldout)
    scored = np.cumsum(np.minimum(store.lengths[order], longest(config)))
    # With the document that reaches the number of tokens.
    count = int(np.searchsorted(scored, config.tokens_per_domain)) + 1
    return [int(row) for row in order[:count]]


if __name__ == "__main__":
    report("loss_report", LossReportConfig, measure)
