"""Held-out loss of one model by domain and by position, the paper's table 5: does long context cost
anything short?

A document is read alone from its begin token, up to the last position asked; a token's band is its
position in its document. So the first band holds the start of every document, and a later one what
long documents say with that much context behind them. A point is the last eighth before a position,
of documents that reach it: figures 3 and 4. Loss by band is not retrieval: two models within 0.01
nats can differ wholly on the needle.

Every document's sums are kept, so that two models can be compared document by document
(evaluation/comparison.py). A model with another tokenizer, or behind an endpoint, has no loss per
token of ours: its report is empty and says why.
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
from evaluation.report import report
from evaluation.scoring import token_losses
from evaluation.subject import Subject
from training.model import make_reproducible

CORPUS = Path("data/tokenized_corpus")
TOKENIZER = Path("data/tokenizer")
COLUMNS = ["domain", "document", "band", "sum", "tokens"]


def measure(subject: Subject, config: LossReportConfig, folder: Path) -> dict[str, Any]:
    """Write documents.csv, loss.csv and loss.json; returns the mean loss of each band and point."""
    domains = names_of("domain")
    make_reproducible(config.seed)
    reason = _why_not(subject)
    progress = Progress(subject.name, config.tokens_per_domain * len(domains), "tok")
    records = (
        []
        if reason
        else [
            record
            for domain in domains
            for record in of_domain(subject, domain, open_tokens(CORPUS / domain), config, progress)
        ]
    )
    progress.close()
    order = [span.name for span in spans(config)]
    documents = pd.DataFrame(records, columns=COLUMNS).sort_values(
        "band", key=lambda names: names.map(order.index), kind="stable"
    )
    documents.round({"sum": 4}).to_csv(folder / "documents.csv", index=False, lineterminator="\n")
    table = by_domain(documents)
    table.to_csv(folder / "loss.csv", index=False, lineterminator="\n")
    write_json(
        folder / "loss.json",
        {
            str(domain): dict(zip(part["band"], part["loss"], strict=True))
            for domain, part in table.groupby("domain", sort=False)
        },
    )
    sums = documents.groupby("band", sort=False)[["sum", "tokens"]].sum()
    means = {
        f"loss_{band}": round(loss, 5) for band, loss in (sums["sum"] / sums["tokens"]).items()
    }
    return {**means, **({"not_measured": reason} if reason else {})}


def by_domain(documents: pd.DataFrame) -> pd.DataFrame:
    """A row a domain and band: mean loss in nats, and how many tokens it is of."""
    sums = documents.groupby(["domain", "band"], sort=False, as_index=False)[
        ["sum", "tokens"]
    ].sum()
    sums["loss"] = (sums["sum"] / sums["tokens"]).round(5)
    return sums[["domain", "band", "loss", "tokens"]]


def _why_not(subject: Subject) -> str | None:
    if subject.model is None:
        return "an endpoint gives no probabilities"
    if not (TOKENIZER / "tokenizer.json").is_file():
        raise UserError(
            f"{TOKENIZER}: not there, and its tokens are what the loss is of. Make the corpus "
            "first: "
            "python -m orchestration.repro tokenized_corpus"
        )
    why = disagreement(subject.tokenizer, load_tokenizer(TOKENIZER), as_in_corpus=True)
    return f"its tokenizer is not that of data/tokenized_corpus: {why}" if why else None


def of_domain(
    subject: Subject, domain: str, store: TokenStore, config: LossReportConfig, progress: Progress
) -> list[dict[str, Any]]:
    """A record for each document and span with a token in it: sum of losses in nats, tokens scored."""
    assert subject.model is not None
    wanted, records = spans(config), []
    for number in chosen_documents(domain, store, config):
        tokens = store.document(number)[: longest(config)].astype(np.int64)
        losses = token_losses(subject.model, tokens)
        records += [
            {
                "domain": domain,
                "document": f"{int(store.ids[number]):016x}",
                "band": span.name,
                "sum": total,
                "tokens": count,
            }
            for span in wanted
            for total, count in [in_span(losses, span)]
            if count
        ]
        progress.add(len(tokens))
    return records


def longest(config: LossReportConfig) -> int:
    """The last position asked."""
    return max(*config.bands, *config.points)


def chosen_documents(domain: str, store: TokenStore, config: LossReportConfig) -> list[int]:
    """Held-out documents in a keyed random order, until they hold `tokens_per_domain` tokens that
    count.
    """
    heldout = np.flatnonzero(store.heldout)
    order = generator(config.seed, "loss", domain).permutation(heldout)
    scored = np.cumsum(np.minimum(store.lengths[order], longest(config)))
    return [int(row) for row in order[: int(np.searchsorted(scored, config.tokens_per_domain)) + 1]]


if __name__ == "__main__":
    report("loss_report", LossReportConfig, measure)
