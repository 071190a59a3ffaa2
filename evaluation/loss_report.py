"""Held-out loss of one model by domain and by position, the paper's table 5: does long context cost anything short?

A document is read alone from its begin token, up to the last band's end; a token's band is its position in its
document. So the first band holds the start of every document, and a later one what long documents say with that much
context behind them. Loss by band is not retrieval: two models within 0.01 nats can differ wholly on the needle.
"""

from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from transformers import PreTrainedModel

from assets.progress import Progress
from assets.randomness import generator
from assets.stage import Config, command, output, read_json, read_params, write_json
from assets.token_store import TokenStore, open_tokens
from evaluation.scoring import token_losses
from training.model import load_model, make_reproducible

CORPUS = Path("data/tokenized_corpus")


class LossReportConfig(Config):
    """Which tokens are scored."""

    seed: int = 0
    bands: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    """Upper ends of the bands of positions, in tokens, rising: [256, 2048] are 0-256 and 256-2048."""
    tokens_per_domain: Annotated[int, Field(ge=1)]
    """Whole documents are drawn until this many tokens of the domain are scored."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.bands) != sorted(set(self.bands)):
            raise ValueError("bands must rise, as in [256, 2048]")
        return self


class Domains(Config):
    """The part of raw_corpus that matters here: the domains' names."""

    model_config = {**Config.model_config, "extra": "ignore"}
    domains: dict[str, object]


def run(name: str) -> None:
    """Make data/loss_report/NAME."""
    config = read_params("loss_report", LossReportConfig)
    domains = list(read_params("raw_corpus", Domains).domains)
    folder = Path("data/checkpoint") / name
    make_reproducible(config.seed)
    model = load_model(folder).eval()
    with output("loss_report", name) as out:
        progress = Progress(name, config.tokens_per_domain * len(domains), "tok")
        records = [record for domain in domains
                   for record in measure(model, domain, open_tokens(CORPUS / domain), config, progress)]
        progress.close()
        table = pd.DataFrame(records, columns=["domain", "band", "loss", "tokens"]).round({"loss": 5})
        table.to_csv(out.folder / "loss.csv", index=False, lineterminator="\n")
        facts = read_json(folder / "record.json")
        write_json(out.folder / "loss.json", {domain: dict(zip(part["band"], part["loss"], strict=True))
                                              for domain, part in table.groupby("domain", sort=False)})
        by_band = table.assign(sum=table["loss"] * table["tokens"]).groupby("band", sort=False)[["sum", "tokens"]].sum()
        out.metrics = {f"loss_{band}": round(loss, 5) for band, loss in (by_band["sum"] / by_band["tokens"]).items()}
        out.facts = {key: facts[key] for key in ("base_context", "rope_base", "tokens_trained")}


def band_names(bands: tuple[int, ...]) -> list[str]:
    """[256, 2048] -> ["0-256", "256-2048"]."""
    return [f"{low}-{high}" for low, high in zip((0, *bands[:-1]), bands, strict=True)]


def measure(model: PreTrainedModel, domain: str, store: TokenStore, config: LossReportConfig, progress: Progress
            ) -> list[dict[str, Any]]:
    """A record for each band with a token in it: mean loss in nats, tokens scored."""
    sums, counts = np.zeros(len(config.bands)), np.zeros(len(config.bands), np.int64)
    for row in chosen_documents(domain, store, config):
        tokens = store.document(row, 0, config.bands[-1]).astype(np.int64)
        add_by_band(token_losses(model, tokens), config.bands, sums, counts)
        progress.add(len(tokens))
    return [{"domain": domain, "band": band, "loss": sums[i] / counts[i], "tokens": int(counts[i])}
            for i, band in enumerate(band_names(config.bands)) if counts[i]]


def chosen_documents(domain: str, store: TokenStore, config: LossReportConfig) -> list[int]:
    """Held-out documents in a keyed random order, until they hold `tokens_per_domain` tokens that count."""
    heldout = np.flatnonzero(store.heldout)
    order = generator(config.seed, "loss", domain).permutation(heldout)
    scored = np.cumsum(np.minimum(store.lengths[order], config.bands[-1]))
    return [int(row) for row in order[:int(np.searchsorted(scored, config.tokens_per_domain)) + 1]]


def add_by_band(losses: NDArray[np.float32], bands: tuple[int, ...], sums: NDArray[np.float64],
                counts: NDArray[np.int64]) -> None:
    """Add the losses of one document, whose entry i is token i + 1, to the sums and counts of their bands."""
    band = np.searchsorted(bands, np.arange(1, len(losses) + 1), side="right")
    sums += np.bincount(band, losses.astype(np.float64), len(bands))
    counts += np.bincount(band, minlength=len(bands))


if __name__ == "__main__":
    command(run, "model")
