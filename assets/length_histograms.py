"""How long the documents of one domain are, and how much of its text stands in long ones.

Two distributions, because they answer different questions: most documents are short, yet most
tokens may stand in long ones, and a recipe moves tokens. Bins double in width, as context lengths
do. All documents count, held out or not: this is a description of the domain, not of what trains.
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
    mass = np.cumsum(ordered)
    by_token = ordered[
        np.minimum(np.searchsorted(mass, np.array(PERCENTILES) / 100 * mass[-1]), len(ordered) - 1)
    ]
    by_document = np.percentile(ordered, PERCENTILES, method="inverted_cdf")
    return pd.DataFrame(
        {"percentile": PERCENTILES, "by_document": by_document, "by_token": by_token}
    )


def summary(lengths: NDArray[np.int64], thresholds: tuple[int, ...]) -> dict[str, float | int]:
    """The numbers of one domain: counts, median, mean, longest, and the share of tokens above each
    threshold.
    """
    tokens = int(lengths.sum())
    shares = {
        f"tokens_over_{limit}": round(float(lengths[lengths > limit].sum() / max(tokens, 1)), 6)
        for limit in thresholds
    }
    return {
        "documents": len(lengths),
        "tokens": tokens,
        "median": int(np.median(lengths)),
        "mean": round(tokens / max(len(lengths), 1), 2),
        "longest": int(lengths.max(initial=0)),
        **shares,
    }


def draw(name: str, table: pd.DataFrame, thresholds: tuple[int, ...], path: Path) -> None:
    """Share of documents and share of tokens by length, as two outlines over the same doubling
    bins.
    """
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
