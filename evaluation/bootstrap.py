"""Differences in loss between two models, with bootstrap intervals over documents.

Both models are resampled on the same documents, so the interval is of the difference and not of two
losses. The cost: a model that shares no document with the baseline has no difference.
"""

import numpy as np
import pandas as pd

from assets.randomness import generator

RESAMPLED = 2000  # bootstrap draws
SIGNIFICANT = 0.01  # nats per token: the paper's own mark


def differences(documents: pd.DataFrame, baseline: str, seed: int = 0) -> pd.DataFrame:
    """The difference to the baseline in nats per token, and its 95 % interval.

    documents: columns model, domain, document, band, sum (of losses, in nats), tokens.
    Returns one row per model, domain and band: loss, difference, low, high. A model that shares no
    document with the baseline is left out.
    """
    keys = ["domain", "band", "document"]
    of_baseline = documents[documents["model"] == baseline].set_index(keys)
    base = of_baseline[["sum", "tokens"]].rename(columns={"sum": "sum_base"})
    rows = []
    for model, own in documents.groupby("model", sort=False):
        both = own.set_index(keys)[["sum"]].join(base, how="inner")
        for (domain, band), part in both.groupby(level=["domain", "band"], sort=False):
            excess = (part["sum"] - part["sum_base"]).to_numpy()
            tokens = part["tokens"].to_numpy()
            # Keyed without the model: all models are resampled on the same draws.
            random = generator(seed, "bootstrap", str(domain), str(band))
            draw = random.integers(0, len(part), (RESAMPLED, len(part)))
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
    columns = ["model", "domain", "band", "loss", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns).round(5)


def marked(row: pd.Series) -> str:
    """A difference as text, with three digits.

    row: of `differences`. * if it is beyond 0.01 nats, ° if its interval excludes zero.
    """
    far = "*" if abs(row["difference"]) > SIGNIFICANT else ""
    sure = "°" if row["low"] > 0 or row["high"] < 0 else ""
    return f"{row['difference']:+.3f}{far}{sure}"
