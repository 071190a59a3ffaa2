"""The data half on one page: how long the documents of each domain are, and what each recipe made
of them.

The paper's figure 2 for this corpus: for each recipe the share of tokens by domain and by document
length, requested beside realised. The same numbers as CSV, for `dvc plots` and for anyone's own
tools.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from assets.data_report_config import DataReportConfig
from assets.tables import read_table
from core import page
from core.command import command
from core.figures import save_figure
from core.params import names_of, read_params
from core.sealed import output, read_json

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.figure import Figure  # noqa: E402

COLOURS = ("#1f6f8b", "#c9a227", "#3a7d44", "#8a8f98", "#b5651d", "#7a4988", "#c0392b", "#2c3e50")
LOWEST = 256
"""Lengths up to this are not told apart in the picture; the CSV files do."""
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")


def run() -> None:
    """Make data/data_report."""
    config = read_params("data_report", DataReportConfig)
    domains, recipes = names_of("domain"), names_of("recipe")
    with output("data_report") as out:
        corpus = pd.concat(
            [
                read_table(Path("data/length_histograms") / domain / "histogram.csv")
                for domain in domains
            ]
        )
        mixed = _tables(recipes, "lengths.csv")
        shares = _tables(recipes, "shares.csv")
        given_up = _tables(recipes, "duplicates.csv")
        kept = pd.DataFrame(
            [
                {"domain": domain, **read_json(Path("metrics/raw_corpus") / f"{domain}.json")}
                for domain in domains
            ]
        ).fillna(0)
        summary = pd.DataFrame(
            [
                {
                    "domain": domain,
                    **read_json(Path("metrics/length_histograms") / f"{domain}.json"),
                }
                for domain in domains
            ]
        )
        packed = pd.DataFrame(
            [
                {"recipe": name, **read_json(Path("metrics/packed_shards") / f"{name}.json")}
                for name in recipes
            ]
        )
        for name, table in (
            ("corpus_lengths", corpus),
            ("lengths", mixed),
            ("shares", shares),
            ("duplicates_across_domains", given_up),
        ):
            table.to_csv(out.folder / f"{name}.csv", index=False, lineterminator="\n")
        by_length = {"corpus": corpus} | {name: mixed[mixed["recipe"] == name] for name in recipes}
        bounds = sorted({*corpus["lower"], *mixed["lower"]})
        bins = [_bin(0), *(_bin(bound) for bound in bounds if bound >= LOWEST)]
        save_figure(
            stacked(
                {name: _by_bin(table) for name, table in by_length.items()},
                bins,
                "document length (tokens)",
                ordered=True,
            ),
            out.folder / "by_length.png",
        )
        save_figure(
            stacked(
                {
                    name: table.groupby("domain")["tokens"].sum()
                    for name, table in by_length.items()
                },
                domains,
                "domain",
                ordered=False,
            ),
            out.folder / "by_domain.png",
        )
        (out.folder / "report.html").write_text(
            _html(config, out.folder, kept, summary, shares, packed, given_up)
        )
        out.metrics = {
            name: round(
                float(
                    shares[(shares["recipe"] == name) & (shares["domain"] == "all")][
                        "long_share"
                    ].iloc[0]
                ),
                4,
            )
            for name in recipes
        }


def stacked(
    columns: Mapping[str, "pd.Series[int]"], order: Sequence[str], title: str, ordered: bool
) -> Figure:
    """One bar for each column, of height 1, divided by the share of tokens of each entry, in
    `order` from below.

    ordered: the entries are sizes, so colours run from light to dark.
    """
    table = pd.DataFrame(columns).reindex(list(order)).fillna(0)
    table = table / table.sum()
    shades = mpl.colormaps["YlGnBu"](np.linspace(0.12, 1, len(order)))
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(columns), 4), layout="constrained")
    bottom = np.zeros(len(columns))
    for number, (name, row) in enumerate(table.iterrows()):
        axes.bar(
            list(table.columns),
            row,
            bottom=bottom,
            label=str(name),
            edgecolor="white",
            linewidth=0.6,
            width=0.72,
            color=shades[number] if ordered else COLOURS[number % len(COLOURS)],
            hatch="" if ordered else HATCHES[number // len(COLOURS) % len(HATCHES)],
        )
        bottom += row.to_numpy()
    axes.set(ylabel="share of tokens", ylim=(0, 1))
    axes.tick_params(axis="x", rotation=30)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=8,
    )
    return figure


def _by_bin(table: pd.DataFrame) -> "pd.Series[int]":
    """Tokens by length, up to LOWEST in one bin; the bins named by their range."""
    return table.groupby(table["lower"].where(table["lower"] >= LOWEST, 0).map(_bin))[
        "tokens"
    ].sum()


def _bin(lower: int) -> str:
    """The name of the bin above `lower`."""
    return f"{lower:,}-{2 * lower:,}" if lower else f"up to {LOWEST:,}"


def _tables(recipes: Sequence[str], file: str) -> pd.DataFrame:
    tables = []
    for name in recipes:
        table = read_table(Path("data/mixed_dataset") / name / file)
        table.insert(0, "recipe", name)
        tables.append(table)
    return (
        pd.concat(tables, ignore_index=True)
        if tables
        else pd.DataFrame({"recipe": [], "domain": [], "lower": [], "tokens": [], "long_share": []})
    )


def _html(
    config: DataReportConfig,
    folder: Path,
    kept: pd.DataFrame,
    summary: pd.DataFrame,
    shares: pd.DataFrame,
    packed: pd.DataFrame,
    given_up: pd.DataFrame,
) -> str:
    percent = shares.copy()
    for column in ("weight", "requested", "realised", "long_share_requested", "long_share"):
        if column in percent:
            percent[column] *= 100
    return page.page(
        f"Needlework: {config.title}",
        [
            page.heading("Share of tokens by document length"),
            page.paragraph(
                "A piece of a document that a recipe cuts counts as a document. First the corpus "
                "as read, "
                "held-out documents too, then each recipe."
            ),
            page.picture(
                folder / "by_length.png", "Share of tokens by document length, for each recipe"
            ),
            page.heading("Share of tokens by domain"),
            page.picture(folder / "by_domain.png", "Share of tokens by domain, for each recipe"),
            page.heading("Requested and realised, percent of tokens"),
            page.paragraph(
                "weight: the domain's share by the recipe's weights. requested: what the recipe "
                "solves to; it "
                "differs where a recipe works across domains. long_share: tokens in documents "
                "above long_over.",
                note=True,
            ),
            page.table(percent, 2),
            page.heading("Rows"),
            page.table(packed, 0),
            page.heading("Documents by domain"),
            page.table(summary, 3),
            page.heading("What became of every record"),
            page.table(kept, 0),
            page.heading("Texts that stand in several domains"),
            page.paragraph(
                "Documents that a recipe left out of a domain, for an earlier one (kept_by) has "
                "them too. They "
                "count in the tables of lengths and of records. Held-out documents are not among "
                "them."
            ),
            page.table(given_up, 0) if len(given_up) else page.paragraph("None was left out."),
        ],
    )


if __name__ == "__main__":
    command(run)
