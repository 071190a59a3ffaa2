"""The comparison's pictures and its page: one HTML file without script or network.

A number's link opens the versions of the artefacts behind it (evaluation/provenance.py). The text
of the page is written here, beside the table that it explains; the cost is long strings in code.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from core import page
from core.figures import save_figure
from evaluation import paper, plots, provenance, verdict
from evaluation.bands import is_point, position_of
from evaluation.bootstrap import marked
from evaluation.comparison_config import ComparisonConfig
from evaluation.comparison_tables import left_out

# Columns of the results that come from the needle report.
NEEDLES = (
    "needle",
    "occurs",
    "within C",
    "C to trained",
    "beyond",
    "gain",
    "± (gain)",
    "choice",
    "overlap",
)
# Stages whose items have a fold with versions on the page.
SHOWN = (
    "needle_report",
    "loss_report",
    "book_qa_report",
    "short_context_report",
    "checkpoint",
    "mixed_dataset",
)
Tables = dict[str, pd.DataFrame]
Series = dict[str, tuple[list[float], list[float]]]


def draw(
    config: ComparisonConfig,
    folder: Path,
    tables: Tables,
    cells: dict[str, pd.DataFrame],
    lengths: pd.DataFrame,
    trained: int,
    base_context: int,
    notes: dict[str, str],
) -> None:
    """Draw the page's pictures as PNG files in `folder`.

    cells: model -> cells.csv of its needle report. lengths: histograms of all domains.
    trained, base_context: in tokens. notes: model -> a warning about its answers to the needle.
    """
    result = verdict.chosen(tables["results"], config.result)
    figure = plots.verdict(tables["needle"], result, config.untrained, base_context, trained)
    save_figure(figure, folder / "verdict.png")
    save_figure(plots.heatmaps(cells, trained, base_context, notes), folder / "heatmaps.png")
    _draw_curves(folder, tables)
    _draw_lengths(folder, lengths)
    if len(tables["shares"]):
        _draw_shares(folder, tables["shares"])


def _draw_curves(folder: Path, tables: Tables) -> None:
    """One line per model: needle by length, training, needle by tokens, loss by position."""
    needle = _series(tables["needle"], "model", "length", "exact_match", 100)
    figure = plots.lines(needle, "context length (tokens)", "exact match, %", "Needle by length")
    save_figure(figure, folder / "needle.png")

    training = _series(tables["training"], "model", "tokens", "loss")
    figure = plots.lines(
        training, "tokens trained", "loss, nats per token", "Continual pretraining"
    )
    save_figure(figure, folder / "training.png")

    quantity = _series(tables["quantity"], "training", "tokens", "needle")
    figure = plots.lines(quantity, "tokens trained", "exact match, %", "Needle by data quantity")
    save_figure(figure, folder / "quantity.png")

    losses = tables["loss"]
    points = losses[losses["band"].map(is_point).astype(bool)]
    placed = points.assign(position=points["band"].map(position_of).astype(int))
    means = placed.groupby(["model", "position"], sort=False)["loss"].mean().reset_index()
    by_position = _series(means, "model", "position", "loss")
    figure = plots.lines(
        by_position,
        "position (tokens)",
        "loss, nats per token",
        "Loss by position, mean over domains",
    )
    save_figure(figure, folder / "loss_by_position.png")


def _draw_lengths(folder: Path, lengths: pd.DataFrame) -> None:
    """Share of each domain's tokens by document length."""
    mass: Series = {}
    for domain, part in lengths.groupby("domain", sort=False):
        shares = part["tokens"] / part["tokens"].sum()
        mass[str(domain)] = (part["lower"].tolist(), shares.tolist())
    figure = plots.lines(
        mass,
        "document length (tokens)",
        "share of the domain's tokens",
        "Token mass by length",
        log_x=True,
    )
    save_figure(figure, folder / "lengths.png")


def _draw_shares(folder: Path, shares: pd.DataFrame) -> None:
    """The domain mixture of each recipe, and its share of long documents."""
    domains = shares[shares["domain"] != "all"]
    realised = domains.pivot(
        index="domain",
        columns="recipe",
        values="realised",
    )
    figure = plots.bars(realised * 100, "% of tokens", "Domain mixture of each recipe")
    save_figure(figure, folder / "mixture.png")

    long = shares.pivot(
        index="domain",
        columns="recipe",
        values="long_share",
    )
    figure = plots.bars(long * 100, "% of tokens", "Tokens in long documents, by recipe")
    save_figure(figure, folder / "long_share.png")


def _series(table: pd.DataFrame, name: str, x: str, y: str, factor: float = 1) -> Series:
    """Name -> its x and y values, in the order of the table."""
    found: Series = {}
    for key, part in table.groupby(name, sort=False):
        found[str(key)] = (part[x].tolist(), (part[y] * factor).tolist())
    return found


def report(
    config: ComparisonConfig,
    folder: Path,
    tables: Tables,
    summary: dict[str, Any],
    trained: int,
    known: dict[str, provenance.Version],
) -> str:
    """The page as HTML. Pictures are read from `folder`. known: address -> version.

    trained: the longest context that a model was trained to, in tokens.
    """
    return page.page(
        f"Needlework: {config.title}",
        [
            *_verdict(config, folder, tables, summary["base_context"], trained),
            *_results(config, folder, tables, left_out(summary)),
            *_quantity(folder, tables["quantity"]),
            *_losses(config, folder, tables["differences"]),
            *(_recipes(folder, tables["shares"]) if len(tables["shares"]) else []),
            page.heading("Training"),
            page.picture(folder / "training.png", "Loss while training"),
            *_origins(known),
            page.paragraph(
                f"C, the base context, is {summary['base_context']} tokens. Recipe and paper "
                "figures: Fu et al. 2024, Data Engineering for Scaling Language Models to 128K "
                "Context, arXiv 2402.10171.",
                note=True,
            ),
        ],
    )


def _verdict(
    config: ComparisonConfig, folder: Path, tables: Tables, base_context: int, trained: int
) -> list[str]:
    """Three sentences and one picture."""
    results = tables["results"]
    facts = {"base_context": base_context, "trained": trained}
    result = verdict.chosen(results, config.result)
    said = verdict.sentences(results, tables["needle"], facts, result, config.untrained)
    return [
        page.lead(" ".join(said)),
        page.picture(folder / "verdict.png", "Needles found by context length"),
    ]


def _results(
    config: ComparisonConfig, folder: Path, tables: Tables, outside: list[str]
) -> list[str]:
    """Tables 3 and 4 and figure 1. outside: tasks at short context that are in no mean."""
    results, answers = tables["results"], tables["answers"]
    links = {column: _links("needle_report", results["model"]) for column in NEEDLES}
    links["book QA"] = _links("book_qa_report", results["model"])
    for column in ("short context", "drop"):
        links[column] = _links("short_context_report", results["model"])
    for column in ("model", "tokens trained", "RoPE base"):
        links[column] = _links("checkpoint", results["model"])

    score_links = []
    for row in answers.to_dict("records"):
        reports = {"needle": "needle_report", "book QA": "book_qa_report"}
        stage = reports.get(row["report"], "short_context_report")
        score_links.append(f"#{stage}@{row['model']}")

    return [
        page.heading("Every model (tables 3 and 4)"),
        page.paragraph(
            "Needle: exact match in percent, the share of trials in which greedy decoding gives "
            "the whole value, over every length up to the trained one and every depth below 100 %, "
            "where the statement touches the question. Occurs: share of trials in which the value "
            "stands anywhere in what the model says. Gain: log-probability of the value with the "
            "statement in the context less without it, nats per token, with its standard error "
            "over trials; it can be large for a model that answers nothing, so read it beside "
            "exact match only. Choice: share of trials in which the true value beats every other "
            "value that the same context shows. Overlap: the published score, share of the "
            "answer's words that were said. Book QA: F1. Short context: mean of the tasks in "
            f"percent, and the drop against {config.untrained} in points."
            + (f" Not in that mean, as no share: {', '.join(outside)}." if outside else "")
        ),
        page.table(results, 1, links),
        page.paragraph(
            "What the models said, up to the trained length, in percent: a score of a model that "
            "says nothing, is cut off or repeats itself measures how it was asked. More than a "
            "tenth of such answers is a warning. Of an endpoint, the needle's score is the value "
            "standing in its words."
        ),
        page.table(answers, 1, {"score": score_links}),
        page.paragraph(
            "The paper, and what it measured of others, 1K to 128K. Other models, other tests: a "
            "place to stand beside, not a scale to compare on.",
            note=True,
        ),
        page.table(paper.MODELS, 1),
        page.heading("Needle in a haystack (figure 1)"),
        page.picture(folder / "heatmaps.png", "Needle heatmaps of every model"),
        page.picture(folder / "needle.png", "Exact match by context length"),
    ]


def _quantity(folder: Path, quantity: pd.DataFrame) -> list[str]:
    """Figure 3."""
    links = {
        "needle": _links("needle_report", quantity["model"]),
        "model": _links("checkpoint", quantity["model"]),
    }
    ours = page.paragraph("No model here has snapshots.")
    if len(quantity):
        ours = page.table(quantity.drop(columns="training"), 3, links)
    tokens = [f"{tokens / 1e9:g}B" for tokens in paper.QUANTITY["tokens"]]
    return [
        page.heading("How much data it takes (figure 3)"),
        ours,
        page.picture(folder / "quantity.png", "Needle by tokens trained"),
        page.paragraph("The paper's 7B:", note=True),
        page.table(paper.QUANTITY.assign(tokens=tokens), 2),
    ]


def _losses(config: ComparisonConfig, folder: Path, table: pd.DataFrame) -> list[str]:
    """Table 5 and figure 4. table: what bootstrap.differences returns."""
    parts = [
        page.heading("Held-out loss by domain and position (table 5, figure 4)"),
        page.paragraph(
            f"Nats per token of {config.baseline}; for the other models the difference to it on "
            'the same documents. A band counts positions in a document read alone; "at" is the '
            "eighth before a position. * beyond 0.01 nats, the paper's mark; ° where a 95 % "
            "bootstrap interval over documents excludes zero. Intervals are in differences.csv."
        ),
    ]
    for band, part in table.groupby("band", sort=False):
        wide = _by_domain(part, config.baseline)
        links = {str(column): _links("loss_report", wide["model"]) for column in wide}
        parts += [page.paragraph(f"Positions {band}:"), page.table(wide, 3, links)]
    return [
        *parts,
        page.picture(folder / "loss_by_position.png", "Loss by position"),
        page.paragraph(
            "The paper's table 5 for its recipes, difference to original, 0-4K and then 4K-128K:",
            note=True,
        ),
        page.table(paper.LOSS_0_4K, 3),
        page.table(paper.LOSS_4K_128K, 3),
    ]


def _by_domain(part: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The differences of one band, as text: one row per model, the baseline first, one column per
    domain.
    """
    texts = []
    for _, row in part.iterrows():
        is_baseline = row["model"] == baseline
        texts.append(f"{row['loss']:.3f}" if is_baseline else marked(row))
    wide = part.assign(shown=texts).pivot_table(
        index="model", columns="domain", values="shown", aggfunc="first", sort=False
    )
    others = [name for name in wide.index if name != baseline]
    return wide.loc[[baseline, *others]].reset_index().rename_axis(columns=None)


def _recipes(folder: Path, shares: pd.DataFrame) -> list[str]:
    """Figure 2."""
    domains = shares[shares["domain"] != "all"]
    return [
        page.heading("What the recipes did to the data (figure 2)"),
        page.paragraph("Share of each domain in percent of tokens:"),
        page.table(_by_recipe(domains, "realised"), 1),
        page.picture(folder / "mixture.png", "Domain mixture of each recipe"),
        page.paragraph("Share of tokens in long documents, in percent of each domain:"),
        page.table(_by_recipe(shares, "long_share"), 1),
        page.picture(folder / "long_share.png", "Long shares of each recipe"),
        page.picture(folder / "lengths.png", "Token mass by document length in each domain"),
    ]


def _by_recipe(shares: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row per recipe, one column per domain, in percent."""
    wide = shares.pivot(
        index="recipe",
        columns="domain",
        values=value,
    ).mul(100)
    return wide.reset_index().rename_axis(columns=None)


def _origins(known: dict[str, provenance.Version]) -> list[str]:
    """One fold per artefact that a number links to: the versions of all that it was made from."""
    folds = []
    for address, version in known.items():
        if address.split("@")[0] not in SHOWN:
            continue
        behind = {other.address: other for other in provenance.behind(address, known)}
        versions = page.table(provenance.table(behind))
        folds.append(page.folded(f"{address}: {version.md5}", versions, address))
    return [
        page.heading("Where each number comes from"),
        page.paragraph(
            f"Code: git revision {provenance.revision()}. Data: the artefacts below, by DVC's "
            "hashes; `dvc checkout` with the dvc.lock that names them brings them back. A number's "
            "link opens the artefacts behind it."
        ),
        *folds,
    ]


def _links(stage: str, models: Iterable[str]) -> list[str]:
    """The anchors of the folds of these models."""
    return [f"#{stage}@{model}" for model in models]
