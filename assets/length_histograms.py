"""Length histograms: how long the documents of one domain are, and how its tokens are distributed.

There are two distributions, because they answer different questions: most documents may be short
and yet most tokens may be in long ones, and a recipe moves tokens. Bins double in width, as context
lengths do.

All documents count, also held-out ones and texts that another domain keeps: this describes the
domain, not what trains. The cost: numbers for the training documents alone are in mixed_dataset.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.histogram import histogram
from assets.length_histograms_config import LengthHistogramsConfig
from assets.token_store import open_tokens
from core.command import command
from core.figures import save_figure
from core.params import read_params
from core.sealed import output

# More at the ends: the longest documents decide what a recipe can reach.
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


def run(name: str) -> None:
    """Make data/length_histograms/NAME."""
    config = read_params("length_histograms", LengthHistogramsConfig)
    lengths = open_tokens(Path("data/tokenized_corpus") / name).lengths
    with output("length_histograms", name) as out:
        table = histogram(lengths)
        table.insert(0, "domain", name)
        table.to_csv(out.folder / "histogram.csv", index=False, lineterminator="\n")
        percentiles(lengths).to_csv(
            out.folder / "percentiles.csv", index=False, lineterminator="\n"
        )
        draw(name, table, config.thresholds, out.folder / "histogram.png")
        out.facts = out.metrics = summary(lengths, config.thresholds)


def percentiles(lengths: NDArray[np.int64]) -> pd.DataFrame:
    """Document length in tokens at each percentile of documents, and of tokens."""
    ordered = np.sort(lengths)
    tokens = np.cumsum(ordered)
    places = np.searchsorted(tokens, np.array(PERCENTILES) / 100 * tokens[-1])
    # The product may be larger than the total by a rounding error.
    by_token = ordered[np.minimum(places, len(ordered) - 1)]

    # inverted_cdf: a length that occurs, never one between two documents.
    by_document = np.percentile(ordered, PERCENTILES, method="inverted_cdf")
    return pd.DataFrame(
        {"percentile": PERCENTILES, "by_document": by_document, "by_token": by_token}
    )


def summary(lengths: NDArray[np.int64], thresholds: tuple[int, ...]) -> dict[str, float | int]:
    """Metrics of one domain. thresholds: report the share of tokens in documents longer than these.

    lengths: tokens of each document, int64[documents].
    """
    tokens = int(lengths.sum())
    shares = {}
    for limit in thresholds:
        share = float(lengths[lengths > limit].sum() / max(tokens, 1))
        shares[f"tokens_over_{limit}"] = round(share, 6)
    return {
        "documents": len(lengths),
        "tokens": tokens,
        "median": int(np.median(lengths)),
        "mean": round(tokens / max(len(lengths), 1), 2),
        "longest": int(lengths.max(initial=0)),
        **shares,
    }


def draw(name: str, table: pd.DataFrame, thresholds: tuple[int, ...], path: Path) -> None:
    """Draw the shares of documents and of tokens by length, over the same bins."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    edges = [*table["lower"], table["upper"].iloc[-1]]
    for column, colour in (("documents", "#8a8f98"), ("tokens", "#1f6f8b")):
        axes.stairs(
            table[column] / table[column].sum(),
            edges,
            label=f"share of {column}",
            color=colour,
            lw=1.8,
            fill=column == "tokens",
            alpha=0.75 if column == "tokens" else 1.0,
        )

    for limit in thresholds:
        axes.axvline(limit, color="#c0392b", lw=0.8, ls="--")
    axes.set(xscale="log", xlabel="document length (tokens)", title=name, ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


if __name__ == "__main__":
    command(run, "domain")
