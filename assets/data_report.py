"""Data report: the data half on one page.

How long are the documents of each domain, and what did each recipe make of them? The page has the
paper's figure 2 for this corpus: the share of tokens by domain and by document length for each
recipe, requested beside realised. The same numbers are beside it as CSV, for `dvc plots` and other
tools.

The cost: the page reads only what other stages wrote. A new number needs a change there first.
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
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
"""With more domains than colours, the colours repeat with another hatch."""
LOWEST = 256
"""Tokens. Shorter documents are one bin in the picture. The CSV files have all bins."""

WHOLE_DOCUMENTS = (
    "A piece of a document that a recipe cuts counts as a document. First the corpus as read, "
    "held-out documents too, then each recipe."
)
COLUMNS = (
    "weight: the domain's share by the recipe's weights. requested: what the recipe solves to; it "
    "differs where a recipe works across domains. long_share: tokens in documents above long_over."
)
LEFT_OUT = (
    "Documents that a recipe left out of a domain, for an earlier one (kept_by) has them too. "
    "They count in the tables of lengths and of records. Held-out documents are not among them."
)


def run() -> None:
    """Make data/data_report."""
    config = read_params("data_report", DataReportConfig)
    domains, recipes = names_of("domain"), names_of("recipe")
    with output("data_report") as out:
        histograms = Path("data/length_histograms")
        corpus = pd.concat(
            [read_table(histograms / domain / "histogram.csv") for domain in domains]
        )
        mixed = _tables(recipes, "lengths.csv")
        shares = _tables(recipes, "shares.csv")
        left_out = _tables(recipes, "duplicates.csv")
        _write_csv(corpus, out.folder / "corpus_lengths.csv")
        _write_csv(mixed, out.folder / "lengths.csv")
        _write_csv(shares, out.folder / "shares.csv")
        _write_csv(left_out, out.folder / "duplicates_across_domains.csv")

        by_length = {"corpus": corpus}
        for name in recipes:
            by_length[name] = mixed[mixed["recipe"] == name]
        _draw(by_length, domains, out.folder)

        records = _metrics("domain", "raw_corpus", domains).fillna(0)
        lengths = _metrics("domain", "length_histograms", domains)
        packed = _metrics("recipe", "packed_shards", recipes)
        page_text = _html(config, out.folder, records, lengths, shares, packed, left_out)
        (out.folder / "report.html").write_text(page_text)
        out.metrics = {name: _long_share(shares, name) for name in recipes}


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table with the same line ends on every system."""
    table.to_csv(path, index=False, lineterminator="\n")


def _metrics(what: str, stage: str, names: Sequence[str]) -> pd.DataFrame:
    """The metrics of a stage, one row an item. what: the name of the first column."""
    rows = []
    for name in names:
        rows.append({what: name, **read_json(Path("metrics") / stage / f"{name}.json")})
    return pd.DataFrame(rows)


def _long_share(shares: pd.DataFrame, recipe: str) -> float:
    """The share of a recipe's tokens in long documents."""
    row = shares[(shares["recipe"] == recipe) & (shares["domain"] == "all")]
    return round(float(row["long_share"].iloc[0]), 4)


def _draw(by_length: Mapping[str, pd.DataFrame], domains: Sequence[str], folder: Path) -> None:
    """Draw by_length.png and by_domain.png.

    by_length: histograms of the corpus and of each recipe (columns domain, lower, tokens).
    """
    bounds: set[int] = set()
    for table in by_length.values():
        bounds |= {*table["lower"]}
    bins = [_bin(0), *(_bin(bound) for bound in sorted(bounds) if bound >= LOWEST)]
    binned = {name: _by_bin(table) for name, table in by_length.items()}
    figure = stacked(binned, bins, "document length (tokens)", ordered=True)
    save_figure(figure, folder / "by_length.png")

    by_domain = {name: table.groupby("domain")["tokens"].sum() for name, table in by_length.items()}
    figure = stacked(by_domain, domains, "domain", ordered=False)
    save_figure(figure, folder / "by_domain.png")


def stacked(
    columns: Mapping[str, "pd.Series[int]"], order: Sequence[str], title: str, ordered: bool
) -> Figure:
    """One bar of height 1 for each column, divided by the share of tokens of each entry.

    order: the entries, from the bottom. ordered: the entries are sizes, so colours run from light
    to dark.
    """
    # A recipe may have no token in a bin or domain.
    table = pd.DataFrame(columns).reindex(list(order)).fillna(0)
    table = table / table.sum()
    shades = mpl.colormaps["YlGnBu"](np.linspace(0.12, 1, len(order)))

    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(columns), 4), layout="constrained")
    bottom = np.zeros(len(columns))
    bars = []
    for number, (_, row) in enumerate(table.iterrows()):
        hatch = HATCHES[number // len(COLOURS) % len(HATCHES)]
        drawn = axes.bar(
            list(table.columns),
            row,
            bottom=bottom,
            edgecolor="white",
            linewidth=0.6,
            width=0.72,
            color=shades[number] if ordered else COLOURS[number % len(COLOURS)],
            hatch="" if ordered else hatch,
        )
        bars.append(drawn)
        bottom += row.to_numpy()

    axes.set(ylabel="share of tokens", ylim=(0, 1))
    axes.tick_params(axis="x", rotation=30)
    axes.spines[["top", "right"]].set_visible(False)
    # With explicit names: a label would lose a name that begins with an underscore.
    figure.legend(
        bars[::-1],  # from the top, as in the bars
        [str(name) for name in table.index[::-1]],
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=8,
    )
    return figure


def _by_bin(table: pd.DataFrame) -> "pd.Series[int]":
    """Tokens by length. The bins have their ranges as names, and those up to LOWEST are one."""
    lower = table["lower"].where(table["lower"] >= LOWEST, 0)
    return table.groupby(lower.map(_bin))["tokens"].sum()


def _bin(lower: int) -> str:
    """The name of the bin above `lower`."""
    return f"{lower:,}-{2 * lower:,}" if lower else f"up to {LOWEST:,}"


def _tables(recipes: Sequence[str], file: str) -> pd.DataFrame:
    """A table of mixed_dataset for all recipes, with the recipe as the first column."""
    if not recipes:
        columns = ("recipe", "domain", "lower", "tokens", "long_share")
        return pd.DataFrame({column: [] for column in columns})
    tables = []
    for name in recipes:
        table = read_table(Path("data/mixed_dataset") / name / file)
        table.insert(0, "recipe", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _html(
    config: DataReportConfig,
    folder: Path,
    records: pd.DataFrame,
    lengths: pd.DataFrame,
    shares: pd.DataFrame,
    packed: pd.DataFrame,
    left_out: pd.DataFrame,
) -> str:
    """The page.

    folder: where the pictures are.
    records, lengths: one row a domain. packed: one row a recipe.
    shares: one row for each recipe and domain. left_out: texts that a domain left to another.
    """
    # Without recipes the table lacks most of these columns.
    percent = shares.copy()
    for column in ("weight", "requested", "realised", "long_share_requested", "long_share"):
        if column in percent:
            percent[column] *= 100

    lengths_title = "Share of tokens by document length"
    domains_title = "Share of tokens by domain"
    return page.page(
        f"Needlework: {config.title}",
        [
            page.heading(lengths_title),
            page.paragraph(WHOLE_DOCUMENTS),
            page.picture(folder / "by_length.png", f"{lengths_title}, for each recipe"),
            page.heading(domains_title),
            page.picture(folder / "by_domain.png", f"{domains_title}, for each recipe"),
            page.heading("Requested and realised, percent of tokens"),
            page.paragraph(COLUMNS, note=True),
            page.table(percent, 2),
            page.heading("Rows"),
            page.table(packed, 0),
            page.heading("Documents by domain"),
            page.table(lengths, 3),
            page.heading("What became of every record"),
            page.table(records, 0),
            page.heading("Texts that stand in several domains"),
            page.paragraph(LEFT_OUT),
            page.table(left_out, 0) if len(left_out) else page.paragraph("None was left out."),
        ],
    )


if __name__ == "__main__":
    command(run)
