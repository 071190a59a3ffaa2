"""Compare all models and recipes on one page: the paper's tables and figures with our numbers.

Only the bootstrap is computed here; everything else is read from the other reports. So the page
takes seconds and can be made again at any time. evaluation/comparison_tables.py makes the tables,
evaluation/comparison_page.py the pictures and the page. Means leave out depth 100 %, as in the
reports.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from assets.tables import read_table
from core.checks import Check
from core.command import command
from core.errors import UserError
from core.params import Config, names_of, read_params
from core.sealed import DATA, RECORD, output, read_json, write_json
from evaluation import comparison_page, provenance
from evaluation.bootstrap import differences
from evaluation.comparison_config import ComparisonConfig
from evaluation.comparison_tables import (
    answers_table,
    needle_table,
    quantity_table,
    results_table,
)
from evaluation.short_context_report_config import ShortContextReportConfig

# Stages whose items have versions on the page, by what their items are.
OF_DOMAINS = ("raw_corpus", "tokenized_corpus", "length_histograms")
OF_RECIPES = ("mixed_dataset", "packed_shards")
OF_MODELS = ("checkpoint", "needle_report", "loss_report", "book_qa_report", "short_context_report")


class Models(Config):
    """The section `checkpoint`, of which only the models matter here."""

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
    if config.result is not None and config.result not in models:
        raise UserError(
            f"comparison.result = {config.result!r}: known models are {', '.join(models)}."
        )

    summary = collect(models)
    with output("comparison") as out:
        trained = trained_length(models)
        tables = _tables(config, summary, chosen, recipes, trained)
        for name, table in tables.items():
            table.to_csv(out.folder / f"{name}.csv", index=False, lineterminator="\n")

        comparison_page.draw(
            config,
            out.folder,
            tables,
            cells={
                name: read_table(DATA / "needle_report" / name / "cells.csv") for name in models
            },
            lengths=_histograms(domains),
            trained=trained,
            base_context=summary["base_context"],
            notes=_warnings(summary),
        )
        write_json(out.folder / "summary.json", summary)

        known = provenance.versions(
            {
                **dict.fromkeys(OF_MODELS, models),
                **dict.fromkeys(OF_RECIPES, recipes),
                **dict.fromkeys(OF_DOMAINS, domains),
            }
        )
        html = comparison_page.report(config, out.folder, tables, summary, trained, known)
        (out.folder / "report.html").write_text(html)
        for row in tables["results"].to_dict("records"):
            out.metrics[f"needle_{row['model']}"] = row["needle"]
        out.checks = [small_drop(summary["models"], short)]


def _tables(
    config: ComparisonConfig,
    summary: dict[str, Any],
    chosen: Mapping[str, object],
    recipes: list[str],
    trained: int,
) -> dict[str, pd.DataFrame]:
    """Every table of the page, under the name of its CSV file."""
    models = list(chosen)
    losses = read_all("loss_report", "loss.csv", models, "model")
    documents = read_all("loss_report", "documents.csv", models, "model")
    return {
        "results": results_table(summary, trained, config.untrained),
        "needle": needle_table(summary),
        "answers": answers_table(summary, trained),
        "loss": losses,
        "differences": differences(documents, config.baseline),
        "quantity": quantity_table(summary, chosen, losses, trained),
        "training": read_all("checkpoint", "log.csv", models, "model"),
        "shares": _shares(recipes),
    }


def _shares(recipes: list[str]) -> pd.DataFrame:
    """What each recipe did to each domain; no row without recipes."""
    if not recipes:
        return pd.DataFrame(columns=["domain", "recipe", "realised", "long_share"])
    return read_all("mixed_dataset", "shares.csv", recipes, "recipe")


def _histograms(domains: list[str]) -> pd.DataFrame:
    """The length histograms of all domains, one below the other."""
    return pd.concat(
        [read_table(DATA / "length_histograms" / name / "histogram.csv") for name in domains]
    )


def _warnings(summary: dict[str, Any]) -> dict[str, str]:
    """Model -> the warning about its answers to the needle, if there is one."""
    found = {}
    for name, model in summary["models"].items():
        if model["needle"]["warning"]:
            found[name] = model["needle"]["warning"]
    return found


def small_drop(models: Mapping[str, Any], config: ShortContextReportConfig) -> Check:
    """Whether every model is about as good at short context as `against`, task by task."""
    base = models.get(config.against or "", {}).get("short_context", {})
    others = {name: model["short_context"] for name, model in models.items()}
    drops: dict[str, float] = {}
    said = {}
    for name, scores in others.items():
        for task in scores.keys() & base.keys():
            if name != config.against:
                where = f"{name}, {task}"
                drops[where], said[where] = _drop(base[task], scores[task])
    # not (a <= b), for a score that is NaN must fail
    large = [where for where in sorted(drops) if not drops[where] <= config.drop]
    found = "; ".join(f"{where}: {said[where]}" for where in large)
    if config.against is None:
        found = "short_context_report.against names no model to compare with"
    elif not drops:
        found = f"no other model was asked what {config.against} was asked"
    return Check(
        name="small_drop",
        passed=not large if drops else None,
        blocking=False,
        expected=f"no model more than {config.drop:g} points "
        f"below {config.against or 'another'} in any task",
        found=found or "none",
        advice="Train on fewer tokens, at a lower rate, or mix in short rows.",
    )


def _drop(base: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, str]:
    """How much worse `after` is than `base` in one task, as a number and as text.

    base, after: the task in short_context.json. In points; where the score is no share, in percent
    of the base's score: a perplexity of 11 is 10 % worse than one of 10.
    """
    worse = base["score"] - after["score"]
    if not base.get("higher_is_better", True):
        worse = -worse
    if base.get("scale", "percent") == "percent":
        return worse, f"{-worse:+.1f} points"
    size = abs(base["score"])
    relative = 100 * worse / size if size else (0.0 if worse <= 0 else float("inf"))
    metrics = f"{base['score']:g} to {after['score']:g}"
    return relative, f"{relative:.1f} % worse in {base['metric']}, {metrics}"


def read_all(stage: str, file: str, names: list[str], what: str) -> pd.DataFrame:
    """That file of every item, one below the other, with a column `what` that names the item."""
    parts = [read_table(DATA / stage / name / file).assign(**{what: name}) for name in names]
    # pandas warns about empty parts in a concat; with none left, one of them has the columns.
    filled = [part for part in parts if len(part)]
    return pd.concat(filled) if filled else parts[0]


def collect(models: list[str]) -> dict[str, Any]:
    """The numbers of every model.

    {"base_context": C, "models": {name: {"needle", "loss", "tokens_trained", ...}}}.
    """
    reports = {
        "needle": ("needle_report", "needle.json"),
        "loss": ("loss_report", "loss.json"),
        "book_qa": ("book_qa_report", "book_qa.json"),
        "short_context": ("short_context_report", "short_context.json"),
    }
    facts = {name: read_json(DATA / "needle_report" / name / "record.json") for name in models}
    found = {}
    for name in models:
        numbers = {}
        for key, (stage, file) in reports.items():
            numbers[key] = read_json(DATA / stage / name / file)
        numbers["tokens_trained"] = facts[name]["tokens_trained"]
        numbers["rope_base"] = facts[name]["rope_base"]
        found[name] = numbers
    # All models extend the same base, so the first one's C is that of all.
    return {"base_context": facts[models[0]]["base_context"], "models": found}


def trained_length(models: list[str]) -> int:
    """The longest context that any model was trained to, in tokens.

    If all models are behind endpoints: the longest that one of them reads.
    """
    contexts, served = [], []
    for name in models:
        folder = DATA / "checkpoint" / name
        if (folder / "config.json").is_file():
            config = read_json(folder / "config.json")
            contexts.append(int(config.get("text_config", config)["max_position_embeddings"]))
        else:
            served.append(int(read_json(folder / RECORD)["base_context"]))
    return max(contexts or served)


if __name__ == "__main__":
    command(run)
