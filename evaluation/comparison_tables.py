"""The tables of the comparison, from the numbers of all models. Pure functions: no files.

`summary` is what comparison.collect returns. `trained` is the longest context that a model was
trained to, in tokens: scores are means over the lengths up to it. A number that is missing, as a
probability of an endpoint, stays empty.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.answers import FLAWS
from evaluation.bands import is_point


def results_table(summary: dict[str, Any], trained: int, untrained: str) -> pd.DataFrame:
    """One row per model: needle, gain, book QA and short context. Scores in percent.

    untrained: the model that the drop at short context is measured against.
    """
    base_context = summary["base_context"]
    base = _short_context(summary["models"].get(untrained, {}))
    rows = []
    for name, model in summary["models"].items():
        needle = by_length(model["needle"])
        # C splits the lengths that were trained into those of the base and the new ones.
        in_base_context = needle.index <= base_context
        to_trained = needle.index <= trained
        extended = ~in_base_context & to_trained
        short = _short_context(model)
        rows.append(
            {
                "model": name,
                "tokens trained": model["tokens_trained"],
                "RoPE base": int(model["rope_base"]),
                "needle": _percent(needle, to_trained, "exact_match"),
                "occurs": _percent(needle, to_trained, "occurs"),
                "within C": _percent(needle, in_base_context, "exact_match"),
                "C to trained": _percent(needle, extended, "exact_match"),
                "beyond": _percent(needle, ~to_trained, "exact_match"),
                "gain": needle.loc[to_trained, "gain"].mean(),
                "± (gain)": model["needle"]["gain_standard_error"],
                "choice": _percent(needle, to_trained, "choice"),
                "overlap": _percent(needle, to_trained, "word_overlap"),
                "book QA": 100 * model["book_qa"]["f1"],
                "short context": short,
                "drop": None if short is None or base is None else base - short,
            }
        )
    return pd.DataFrame(rows).round(3)


def _percent(needle: pd.DataFrame, lengths: NDArray[np.bool_], score: str) -> float:
    """The mean of a score over some lengths, in percent; NaN without any.

    needle: of `by_length`. lengths: bool[rows of needle].
    """
    return float(needle.loc[lengths, score].mean() * 100)


def _short_context(model: dict[str, Any]) -> float | None:
    """The mean over the tasks that are scored in percent; None without any."""
    tasks = model.get("short_context", {}).values()
    scores = [task["score"] for task in tasks if in_percent(task)]
    return float(np.mean(scores)) if scores else None


def in_percent(task: Mapping[str, Any]) -> bool:
    """Whether a task of short_context.json is scored in percent, and more is better."""
    return task.get("scale", "percent") == "percent" and task.get("higher_is_better", True)


def left_out(summary: dict[str, Any]) -> list[str]:
    """The tasks that are in no mean, with their metrics: "wikitext (word_perplexity)"."""
    found: dict[str, None] = {}
    for model in summary["models"].values():
        for name, task in model.get("short_context", {}).items():
            if not in_percent(task):
                found[f"{name} ({task['metric']})"] = None
    return list(found)


def by_length(needle: dict[str, Any]) -> pd.DataFrame:
    """A needle report's scores: one row per length, which is the index, one column per score."""
    columns = {}
    for key, values in needle.items():
        # Every list has one value per length, except these two.
        if isinstance(values, list) and key not in ("lengths", "beyond_context"):
            columns[key] = values
    return pd.DataFrame(columns, index=pd.Index(needle["lengths"], name="length")).astype(float)


def needle_table(summary: dict[str, Any]) -> pd.DataFrame:
    """One row per model and length, with a column per score, for `dvc plots`."""
    parts = []
    for name, model in summary["models"].items():
        parts.append(by_length(model["needle"]).reset_index().assign(model=name))
    return pd.concat(parts)


def answers_table(summary: dict[str, Any], trained: int) -> pd.DataFrame:
    """One row per model and generating report or task: score, prompt format, flaws, in percent.

    Of the needle, means over the lengths up to the trained one.
    """
    rows = []
    for name, model in summary["models"].items():
        needle, books = by_length(model["needle"]), model["book_qa"]
        means = needle[needle.index <= trained].mean()
        of_needle = {"score": means["exact_match"], "occurs": means["occurs"]}
        of_books = {"score": books["f1"], "occurs": books["occurs"]}
        for flaw in FLAWS:
            of_needle[flaw], of_books[flaw] = means[flaw], books[flaw]
        rows.append(_answers_row(name, "needle", model["needle"], of_needle))
        rows.append(_answers_row(name, "book QA", books, of_books))
        for task, values in model.get("short_context", {}).items():
            # Only tasks whose answers were generated have flaws.
            if FLAWS[0] in values:
                score = values["score"] / 100 if in_percent(values) else np.nan
                of_task = {"score": score, "occurs": np.nan}
                for flaw in FLAWS:
                    of_task[flaw] = values[flaw]
                rows.append(_answers_row(name, task, values, of_task))

    table = pd.DataFrame(rows)
    shares = ["score", "occurs", *FLAWS]
    table[shares] = (table[shares].astype(float) * 100).round(3)
    return table


def _answers_row(
    model: str, report: str, values: dict[str, Any], shares: Mapping[str, float]
) -> dict[str, Any]:
    """One row of the answers table. shares: score, occurs and flaws, 0 to 1."""
    return {
        "model": model,
        "report": report,
        "asked": "in its chat template" if values["chat"] else "in plain text",
        **shares,
        "warning": values["warning"] or "",
    }


def quantity_table(
    summary: dict[str, Any], chosen: Mapping[str, object], losses: pd.DataFrame, trained: int
) -> pd.DataFrame:
    """Figure 3: one row per snapshot in the order of tokens, the final model last.

    chosen: the entries of checkpoint.models. losses: columns model, band, loss, ...
    Only trainings with at least one snapshot are in it.
    """
    points = [band for band in dict.fromkeys(losses["band"]) if is_point(band)]
    at_points = losses[losses["band"].isin(points)].groupby(["model", "band"])["loss"].mean()
    rows = []
    for name, model in summary["models"].items():
        needle = by_length(model["needle"])
        row = {
            "training": _training_of(name, chosen[name]),
            "model": name,
            "tokens": model["tokens_trained"],
            "needle": _percent(needle, needle.index <= trained, "exact_match"),
        }
        for point in points:
            row[f"loss {point}"] = at_points.get((name, point))
        rows.append(row)

    table = pd.DataFrame(rows)
    several = table.groupby("training")["model"].transform("count") > 1
    return table[several].sort_values(["training", "tokens"]).round(4)


def _training_of(name: str, entry: Any) -> str:
    """The model whose training made this one: itself, or, for a snapshot, the model it is of."""
    if entry and entry.get("at"):
        return Path(str(entry.get("source", ""))).name
    return name
