"""Every model and recipe side by side on one page: the paper's tables and figures with our numbers
beside its own.

Reads the other reports and computes nothing anew but the bootstrap, so it costs seconds and can be
re-made at will. From each number a link leads to the versions of the artefacts that made it. Means
leave depth 100 % out, as the reports do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assets.tables import read_table
from core import page
from core.checks import Check
from core.command import command
from core.errors import UserError
from core.figures import save_figure
from core.params import Config, names_of, read_params
from core.sealed import DATA, output, read_json, write_json
from evaluation import paper, plots, provenance
from evaluation.answers import FLAWS
from evaluation.bootstrap import differences, marked
from evaluation.comparison_config import ComparisonConfig
from evaluation.short_context_report_config import ShortContextReportConfig

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

OF_DOMAINS = ("raw_corpus", "tokenized_corpus", "length_histograms")
OF_RECIPES = ("mixed_dataset", "packed_shards")
OF_MODELS = ("checkpoint", "needle_report", "loss_report", "book_qa_report", "short_context_report")


class Models(Config):
    """What the section `checkpoint` says of each model."""

    model_config = {**Config.model_config, "extra": "ignore"}
    models: dict[str, object] = {}


def run() -> None:
    """Make data/comparison."""
    config = read_params("comparison", ComparisonConfig)
    chosen = read_params("checkpoint", Models).models
    models = list(chosen)
    domains, recipes = names_of("domain"), names_of("recipe")
    short = read_params("short_context_report", ShortContextReportConfig)
    if config.baseline not in models:
        raise UserError(
            f"comparison.baseline = {config.baseline!r}: known models are {', '.join(models)}."
        )
    summary = collect(models)
    with output("comparison") as out:
        trained = trained_length(models)
        losses = read_all("loss_report", "loss.csv", models, "model")
        tables = {
            "results": results_table(summary, trained, config.untrained),
            "needle": needle_table(summary),
            "answers": answers_table(summary, trained),
            "loss": losses,
            "differences": differences(
                read_all("loss_report", "documents.csv", models, "model"), config.baseline
            ),
            "quantity": quantity_table(summary, chosen, losses, trained),
            "training": read_all("checkpoint", "log.csv", models, "model"),
            "shares": read_all("mixed_dataset", "shares.csv", recipes, "recipe"),
        }
        for name, table in tables.items():
            table.to_csv(out.folder / f"{name}.csv", index=False, lineterminator="\n")
        cells = {name: read_table(DATA / "needle_report" / name / "cells.csv") for name in models}
        lengths = pd.concat(
            [read_table(DATA / "length_histograms" / name / "histogram.csv") for name in domains]
        )
        notes = {
            name: model["needle"]["warning"]
            for name, model in summary["models"].items()
            if model["needle"]["warning"]
        }
        draw(out.folder, tables, cells, lengths, trained, summary["base_context"], notes)
        write_json(out.folder / "summary.json", summary)
        known = provenance.versions(
            {
                **dict.fromkeys(OF_MODELS, models),
                **dict.fromkeys(OF_RECIPES, recipes),
                **dict.fromkeys(OF_DOMAINS, domains),
            }
        )
        (out.folder / "report.html").write_text(report(config, out.folder, tables, summary, known))
        out.checks = [small_drop(summary["models"], short)]
        out.metrics = {
            f"needle_{row['model']}": row["needle"] for row in tables["results"].to_dict("records")
        }


def small_drop(models: Mapping[str, Any], config: ShortContextReportConfig) -> Check:
    """Whether every model is about as good at short context as `against`, task by task."""
    base = models.get(config.against or "", {}).get("short_context", {})
    others = {name: model["short_context"] for name, model in models.items()}
    drops = {
        f"{name}, {task}": base[task]["score"] - scores[task]["score"]
        for name, scores in others.items()
        if name != config.against
        for task in scores.keys() & base.keys()
    }
    # not (a <= b), for a score that is NaN must fail
    large = [where for where in sorted(drops) if not drops[where] <= config.drop]
    found = "; ".join(f"{where}: {-drops[where]:+.1f} points" for where in large)
    if config.against is None:
        found = "short_context_report.against names no model to compare with"
    elif not drops:
        found = f"no other model was asked what {config.against} was asked"
    return Check(
        name="small_drop",
        passed=not large if drops else None,
        blocking=False,
        expected=f"no model more than {config.drop:g} points below {config.against or 'another'} "
        "in any task",
        found=found or "none",
        advice="Train on fewer tokens, at a lower rate, or mix in short rows.",
    )


def read_all(stage: str, file: str, names: list[str], what: str) -> pd.DataFrame:
    """That file of every item, one after the other, with a column that names the item."""
    parts = [read_table(DATA / stage / name / file).assign(**{what: name}) for name in names]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled) if filled else parts[0]


def collect(models: list[str]) -> dict[str, Any]:
    """The numbers of every model: {"base_context": C, "models": {name: {"needle", "loss",
    "tokens_trained", ...}}}.
    """
    facts = {name: read_json(DATA / "needle_report" / name / "record.json") for name in models}
    return {
        "base_context": next(iter(facts.values()))["base_context"],
        "models": {
            name: {
                "needle": read_json(DATA / "needle_report" / name / "needle.json"),
                "loss": read_json(DATA / "loss_report" / name / "loss.json"),
                "book_qa": read_json(DATA / "book_qa_report" / name / "book_qa.json"),
                "short_context": read_json(
                    DATA / "short_context_report" / name / "short_context.json"
                ),
                "tokens_trained": facts[name]["tokens_trained"],
                "rope_base": facts[name]["rope_base"],
            }
            for name in models
        },
    }


def trained_length(models: list[str]) -> int:
    """The longest context any model was trained to, in tokens."""
    configs = [
        read_json(file)
        for name in models
        if (file := DATA / "checkpoint" / name / "config.json").is_file()
    ]
    return max(
        int(config.get("text_config", config)["max_position_embeddings"]) for config in configs
    )


def results_table(summary: dict[str, Any], trained: int, untrained: str) -> pd.DataFrame:
    """A row a model: needle in percent within C, up to the trained length and beyond; gain; book
    QA; short context.
    """
    base = _short_context(summary["models"].get(untrained, {}))
    rows = []
    for name, model in summary["models"].items():
        needle = by_length(model["needle"])
        inside, to_trained = needle.index <= summary["base_context"], needle.index <= trained
        short = _short_context(model)
        rows.append(
            {
                "model": name,
                "tokens trained": model["tokens_trained"],
                "RoPE base": int(model["rope_base"]),
                "needle": needle.loc[to_trained, "exact_match"].mean() * 100,
                "occurs": needle.loc[to_trained, "occurs"].mean() * 100,
                "within C": needle.loc[inside, "exact_match"].mean() * 100,
                "C to trained": needle.loc[~inside & to_trained, "exact_match"].mean() * 100,
                "beyond": needle.loc[~to_trained, "exact_match"].mean() * 100,
                "gain": needle.loc[to_trained, "gain"].mean(),
                "± (gain)": model["needle"]["gain_standard_error"],
                "choice": needle.loc[to_trained, "choice"].mean() * 100,
                "overlap": needle.loc[to_trained, "word_overlap"].mean() * 100,
                "book QA": 100 * model["book_qa"]["f1"],
                "short context": short,
                "drop": None if short is None or base is None else base - short,
            }
        )
    return pd.DataFrame(rows).round(3)


def _short_context(model: dict[str, Any]) -> float | None:
    """The mean over tasks, in percent."""
    scores = [task["score"] for task in model.get("short_context", {}).values()]
    return float(np.mean(scores)) if scores else None


def by_length(needle: dict[str, Any]) -> pd.DataFrame:
    """What a needle report says of each length: a row a length, the index, and a column a score."""
    columns = {
        key: values
        for key, values in needle.items()
        if isinstance(values, list) and key not in ("lengths", "beyond_context")
    }
    return pd.DataFrame(columns, index=pd.Index(needle["lengths"], name="length")).astype(float)


def answers_table(summary: dict[str, Any], trained: int) -> pd.DataFrame:
    """A row a model and report that has it speak: its score, how it was asked, and how many of its
    answers are none, all in percent.
    """
    rows = []
    for name, model in summary["models"].items():
        needle, books = by_length(model["needle"]), model["book_qa"]
        seen = needle[needle.index <= trained].mean()
        rows += [
            {
                "model": name,
                "report": "needle",
                "asked": _asked(model["needle"]),
                "score": seen["exact_match"],
                "occurs": seen["occurs"],
                **{flaw: seen[flaw] for flaw in FLAWS},
                "warning": model["needle"]["warning"] or "",
            },
            {
                "model": name,
                "report": "book QA",
                "asked": _asked(books),
                "score": books["f1"],
                "occurs": books["occurs"],
                **{flaw: books[flaw] for flaw in FLAWS},
                "warning": books["warning"] or "",
            },
        ]
    table = pd.DataFrame(rows)
    shares = ["score", "occurs", *FLAWS]
    table[shares] = (table[shares].astype(float) * 100).round(3)
    return table


def _asked(report: dict[str, Any]) -> str:
    return "in its chat template" if report["chat"] else "in plain text"


def needle_table(summary: dict[str, Any]) -> pd.DataFrame:
    """A row a model and length, for `dvc plots`."""
    return pd.concat(
        [
            by_length(model["needle"]).reset_index().assign(model=name)
            for name, model in summary["models"].items()
        ]
    )


def quantity_table(
    summary: dict[str, Any], chosen: dict[str, Any], losses: pd.DataFrame, trained: int
) -> pd.DataFrame:
    """Figure 3: a row a snapshot, in the order of tokens, its final model last; needle, and loss at
    each point.
    """
    points = [band for band in dict.fromkeys(losses["band"]) if band.startswith("at ")]
    at_points = losses[losses["band"].isin(points)].groupby(["model", "band"])["loss"].mean()
    rows = []
    for name, model in summary["models"].items():
        of = (
            Path(str((chosen[name] or {}).get("source", ""))).name
            if (chosen[name] or {}).get("at")
            else name
        )
        needle = by_length(model["needle"])
        rows.append(
            {
                "training": of,
                "model": name,
                "tokens": model["tokens_trained"],
                "needle": needle.loc[needle.index <= trained, "exact_match"].mean() * 100,
                **{f"loss {point}": at_points.get((name, point)) for point in points},
            }
        )
    table = pd.DataFrame(rows)
    several = table.groupby("training")["model"].transform("count") > 1
    return table[several].sort_values(["training", "tokens"]).round(4)


def draw(
    folder: Path,
    tables: dict[str, pd.DataFrame],
    cells: dict[str, pd.DataFrame],
    lengths: pd.DataFrame,
    trained: int,
    base_context: int,
    notes: dict[str, str],
) -> None:
    """The page's pictures as PNG files in `folder`. notes: a warning a model, of the needle's
    answers.
    """
    save_figure(plots.heatmaps(cells, trained, base_context, notes), folder / "heatmaps.png")
    save_figure(
        plots.lines(
            _series(tables["needle"], "model", "length", "exact_match", 100),
            "context length (tokens)",
            "exact match, %",
            "Needle by length",
        ),
        folder / "needle.png",
    )
    save_figure(
        plots.lines(
            _series(tables["training"], "model", "tokens", "loss"),
            "tokens trained",
            "loss, nats per token",
            "Continual pretraining",
        ),
        folder / "training.png",
    )
    quantity = tables["quantity"]
    save_figure(
        plots.lines(
            _series(quantity, "training", "tokens", "needle"),
            "tokens trained",
            "exact match, %",
            "Needle by data quantity",
        ),
        folder / "quantity.png",
    )
    losses = tables["loss"]
    points = losses[losses["band"].str.startswith("at ")]
    placed = points.assign(position=points["band"].str.removeprefix("at ").astype(int))
    by_point = placed.groupby(["model", "position"], sort=False)["loss"].mean().reset_index()
    save_figure(
        plots.lines(
            _series(by_point, "model", "position", "loss"),
            "position (tokens)",
            "loss, nats per token",
            "Loss by position, mean over domains",
        ),
        folder / "loss_by_position.png",
    )
    mass = {
        str(domain): (part["lower"].tolist(), (part["tokens"] / part["tokens"].sum()).tolist())
        for domain, part in lengths.groupby("domain", sort=False)
    }
    save_figure(
        plots.lines(
            mass,
            "document length (tokens)",
            "share of the domain's tokens",
            "Token mass by length",
            log_x=True,
        ),
        folder / "lengths.png",
    )
    shares = tables["shares"]
    realised = shares[shares["domain"] != "all"].pivot(
        index="domain", columns="recipe", values="realised"
    )
    save_figure(
        plots.bars(realised * 100, "% of tokens", "Domain mixture of each recipe"),
        folder / "mixture.png",
    )
    long = shares.pivot(index="domain", columns="recipe", values="long_share")
    save_figure(
        plots.bars(long * 100, "% of tokens", "Tokens in long documents, by recipe"),
        folder / "long_share.png",
    )


def _series(
    table: pd.DataFrame, name: str, x: str, y: str, factor: float = 1
) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(key): (part[x].tolist(), (part[y] * factor).tolist())
        for key, part in table.groupby(name, sort=False)
    }


def report(
    config: ComparisonConfig,
    folder: Path,
    tables: dict[str, pd.DataFrame],
    summary: dict[str, Any],
    known: dict[str, provenance.Version],
) -> str:
    """The page. Pictures are read from `folder`."""
    shares = tables["shares"]
    return page.page(
        f"Needlework: {config.title}",
        [
            *_results(config, folder, tables, summary),
            *_quantity(folder, tables["quantity"]),
            *_losses(config, folder, tables["differences"]),
            page.heading("What the recipes did to the data (figure 2)"),
            page.paragraph("Share of each domain in percent of tokens:"),
            page.table(_wide(shares[shares["domain"] != "all"], "realised"), 1),
            page.picture(folder / "mixture.png", "Domain mixture of each recipe"),
            page.paragraph("Share of tokens in long documents, in percent of each domain:"),
            page.table(_wide(shares, "long_share"), 1),
            page.picture(folder / "long_share.png", "Long shares of each recipe"),
            page.picture(folder / "lengths.png", "Token mass by document length in each domain"),
            page.heading("Training"),
            page.picture(folder / "training.png", "Loss while training"),
            page.heading("Where each number comes from"),
            page.paragraph(
                f"Code: git revision {provenance.revision()}. Data: the artefacts below, by DVC's "
                "hashes; "
                "`dvc checkout` with the dvc.lock that names them brings them back. A number's "
                "link opens the "
                "artefacts behind it."
            ),
            *[
                page.folded(
                    f"{address}: {version.md5}",
                    page.table(
                        provenance.table(
                            {other.address: other for other in provenance.behind(address, known)}
                        )
                    ),
                    address,
                )
                for address, version in known.items()
                if address.split("@")[0] in SHOWN
            ],
            page.paragraph(
                f"C, the base context, is {summary['base_context']} tokens. Recipe and paper "
                "figures: Fu et al. "
                "2024, Data Engineering for Scaling Language Models to 128K Context, arXiv "
                "2402.10171.",
                note=True,
            ),
        ],
    )


SHOWN = (
    "needle_report",
    "loss_report",
    "book_qa_report",
    "short_context_report",
    "checkpoint",
    "mixed_dataset",
)
"""Stages whose items have a fold on the page."""


def _results(
    config: ComparisonConfig, folder: Path, tables: dict[str, pd.DataFrame], summary: dict[str, Any]
) -> list[str]:
    results = tables["results"]
    links = {
        **{column: [f"#needle_report@{name}" for name in results["model"]] for column in NEEDLES},
        "book QA": [f"#book_qa_report@{name}" for name in results["model"]],
        **{
            column: [f"#short_context_report@{name}" for name in results["model"]]
            for column in ("short context", "drop")
        },
        **{
            column: [f"#checkpoint@{name}" for name in results["model"]]
            for column in ("model", "tokens trained", "RoPE base")
        },
    }
    return [
        page.heading("Every model (tables 3 and 4)"),
        page.paragraph(
            "Needle: exact match in percent, the share of trials in which greedy decoding gives "
            "the whole "
            "value, over every length up to the trained one and every depth below 100 %, where the "
            "statement touches the question. Occurs: share of trials in which the value stands "
            "anywhere "
            "in what the model says. Gain: log-probability of the value with the statement in the "
            "context less without it, nats per token, with its standard error over trials; it can "
            "be large "
            "for a model that answers nothing, so read it beside exact match only. Choice: share "
            "of trials "
            "in which the true value beats every other value that the same context shows. Overlap: "
            "the "
            "published score, share of the answer's words that were said. Book QA: F1. Short "
            "context: mean "
            f"of the tasks in percent, and the drop against {config.untrained} in points."
        ),
        page.table(results, 1, links),
        page.paragraph(
            "What the models said, up to the trained length, in percent: a score of a model that "
            "says "
            "nothing, is cut off or repeats itself measures how it was asked. More than a tenth of "
            "such "
            "answers is a warning. Of an endpoint, the needle's score is the value standing in its "
            "words."
        ),
        page.table(
            tables["answers"],
            1,
            {
                "score": [
                    f"#{'needle_report' if row['report'] == 'needle' else 'book_qa_report'}@{row['model']}"
                    for row in tables["answers"].to_dict("records")
                ]
            },
        ),
        page.paragraph(
            "The paper, and what it measured of others, 1K to 128K. Other models, other tests: a "
            "place to "
            "stand beside, not a scale to compare on.",
            note=True,
        ),
        page.table(paper.MODELS, 1),
        page.heading("Needle in a haystack (figure 1)"),
        page.picture(folder / "heatmaps.png", "Needle heatmaps of every model"),
        page.picture(folder / "needle.png", "Exact match by context length"),
    ]


def _quantity(folder: Path, quantity: pd.DataFrame) -> list[str]:
    links = {
        "needle": [f"#needle_report@{name}" for name in quantity["model"]],
        "model": [f"#checkpoint@{name}" for name in quantity["model"]],
    }
    return [
        page.heading("How much data it takes (figure 3)"),
        page.table(quantity.drop(columns="training"), 3, links)
        if len(quantity)
        else page.paragraph("No model here has snapshots."),
        page.picture(folder / "quantity.png", "Needle by tokens trained"),
        page.paragraph("The paper's 7B:", note=True),
        page.table(
            paper.QUANTITY.assign(
                tokens=[f"{tokens / 1e9:g}B" for tokens in paper.QUANTITY["tokens"]]
            ),
            2,
        ),
    ]


def _losses(config: ComparisonConfig, folder: Path, table: pd.DataFrame) -> list[str]:
    parts = [
        page.heading("Held-out loss by domain and position (table 5, figure 4)"),
        page.paragraph(
            f"Nats per token of {config.baseline}; for the other models the difference to it on "
            "the "
            'same documents. A band counts positions in a document read alone; "at" is the eighth '
            "before a position. * beyond 0.01 nats, the paper's mark; ° where a 95 % bootstrap "
            "interval over documents excludes zero. Intervals are in differences.csv."
        ),
    ]
    for band, part in table.groupby("band", sort=False):
        shown = part.assign(
            shown=[
                f"{row['loss']:.3f}" if row["model"] == config.baseline else marked(row)
                for _, row in part.iterrows()
            ]
        )
        wide = shown.pivot_table(
            index="model", columns="domain", values="shown", aggfunc="first", sort=False
        )
        wide = wide.loc[
            [config.baseline, *[name for name in wide.index if name != config.baseline]]
        ].reset_index()
        links = {str(column): [f"#loss_report@{name}" for name in wide["model"]] for column in wide}
        parts += [
            page.paragraph(f"Positions {band}:"),
            page.table(wide.rename_axis(columns=None), 3, links),
        ]
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


def _wide(shares: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row a recipe, a column a domain, in percent."""
    return (
        shares.pivot(index="recipe", columns="domain", values=value)
        .mul(100)
        .reset_index()
        .rename_axis(columns=None)
    )


if __name__ == "__main__":
    command(run)
