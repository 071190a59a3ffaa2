"""Is a difference in loss more than the choice of documents? Resampled by document, both models on
the same ones.
"""

import numpy as np
import pandas as pd

from assets.randomness import generator

RESAMPLED = 2000
SIGNIFICANT = 0.01
"""Nats per token: the paper's own mark."""


def differences(documents: pd.DataFrame, baseline: str, seed: int = 0) -> pd.DataFrame:
    """A row a model, domain and band: difference in nats per token to the baseline, and its 95 %
    interval.

    documents: columns model, domain, document, band, sum, tokens; models that share no document are
    left out. Returns columns model, domain, band, loss, difference, low, high.
    """
    keys = ["domain", "band", "document"]
    base = (
        documents[documents["model"] == baseline]
        .set_index(keys)[["sum", "tokens"]]
        .rename(columns={"sum": "sum_base"})
    )
    rows = []
    for model, own in documents.groupby("model", sort=False):
        both = own.set_index(keys)[["sum"]].join(base, how="inner")
        for (domain, band), part in both.groupby(level=["domain", "band"], sort=False):
            excess, tokens = (part["sum"] - part["sum_base"]).to_numpy(), part["tokens"].to_numpy()
            draw = generator(seed, "bootstrap", str(domain), str(band)).integers(
                0, len(part), (RESAMPLED, len(part))
            )
            means = excess[draw].sum(axis=1) / tokens[draw].sum(axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            rows.append(
                {
                    "model": model,
                    "domain": domain,
                    "band": band,
                    "loss": part["sum"].sum() / tokens.sum(),
                    "difference": excess.sum() / tokens.sum(),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(
        rows, columns=["model", "domain", "band", "loss", "difference", "low", "high"]
    ).round(5)


def marked(row: pd.Series) -> str:
    """A difference in three digits; * where it is beyond 0.01 nats, ° where its interval excludes
    zero.
    """
    far = "*" if abs(row["difference"]) > SIGNIFICANT else ""
    sure = "°" if row["low"] > 0 or row["high"] < 0 else ""
    return f"{row['difference']:+.3f}{far}{sure}"
