"""Needle in a haystack for one model, by context length and depth.

| score | what it is |
|---|---|
| exact_match | share of trials in which greedy decoding gives the whole answer, token by token |
| occurs | share of trials with the answer anywhere in the text: the field's usual score |
| gain | log-probability of the answer's tokens with the needle less without it, in nats per token |
| choice | share of trials in which the answer's first token beats those of all values in sight |
| word_overlap, rouge_1 | of the generated text (evaluation/answers.py), as published |

A question for several values (`drawn.values`, `drawn.queries`) is scored as in RULER: occurs is the
share of the values that are in the text, and exact_match is 1 if all are, in any order. Gain is of
all values in the order of the question, choice of the first one.

"To eat a sandwich" is no exact match if "eat a sandwich" was expected. Gain misleads on a broken
model (large gains at 0 % exact match were seen), so it never stands without exact match. Choice is
low for a model that only narrows the answer to "something I saw"; drawn needles only.

A score of 0 from a model that generates nothing measures the prompt and not the model. So the share
of empty, truncated and repetitive answers stands beside the scores, with a warning above a tenth. A
model with a chat template is asked in it (`chat`). The answer can be begun for a base model
(`answer_prefix`). Exact match, gain and choice are then of the answer that continues that prompt.

At depth 100 % the statement touches the question, and the last words are enough to answer. It is
shown and never averaged. No prompt is cut. A local model reads lengths beyond its context in full,
and they are marked; an endpoint is not asked for them, and their scores stay empty.

Cost: one pass over the haystack without the needle, then one per distinct place
(evaluation/needle_asking.py).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from assets.origin import done_by_others
from core.figures import save_figure
from core.sealed import write_json
from evaluation.answers import FLAWS, joined, warning
from evaluation.chat import cure, may_be_read_as_tokens
from evaluation.kept_answers import kept_file, origin_file
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle_asking import ask_endpoint, ask_model
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.needle_scores import SCORES, mean_of, summarise
from evaluation.needle_trials import Trials, make_trials
from evaluation.plots import heatmaps
from evaluation.report import report, warn
from training.model import make_reproducible


def measure(tested: ModelUnderTest, config: NeedleReportConfig, folder: Path) -> dict[str, Any]:
    """Write trials.csv, cells.csv, needle.json and heatmap.png; returns the means."""
    make_reproducible(config.seed)
    trials = make_trials(tested, config)
    kept = kept_file(tested, trials)
    ask = ask_endpoint if tested.model is None else ask_model
    records = pd.DataFrame(list(ask(tested, trials, kept)))
    by_other_code = done_by_others(origin_file(kept))

    # Only an endpoint's records have this column; it is empty for lengths that were not asked.
    drawn = "greedy" in records and not records.pop("greedy").fillna(True).all()
    table, by_cell = _write_tables(records, folder)

    shares = {flaw: mean_of(table[flaw].dropna().tolist()) for flaw in FLAWS}
    warned = joined(
        warning(shares, _lost(table), "needle_report.new_tokens", drawn, cure(tested)),
        may_be_read_as_tokens(tested, _contents(tested, trials)),
        trials.repeated,
    )
    beyond = [length for length in config.grid.lengths if length > tested.context]
    warn("needle_report", tested.name, warned)
    warn("needle_report", tested.name, _beyond(tested, beyond))

    summary = {
        **summarise(table),
        "chat": trials.asking.chat,
        "beyond_context": beyond,
        "warning": warned,
    }
    write_json(folder / "needle.json", summary)
    notes = {tested.name: warned} if warned else {}
    figure = heatmaps({tested.name: by_cell}, tested.context, tested.base_context, notes)
    save_figure(figure, folder / "heatmap.png")
    # All files are there, so the kept answers are not needed any more.
    shutil.rmtree(kept.parent, ignore_errors=True)

    metrics: dict[str, Any] = {f"mean_{score}": mean_of(summary[score]) for score in SCORES}
    metrics["mean_gain_standard_error"] = summary["gain_standard_error"]
    metrics["trials"] = config.trials
    metrics["within_base_context"] = _within(summary, tested.base_context)
    metrics |= {**shares, "chat": trials.asking.chat}
    if warned:
        metrics["warning"] = warned
    if by_other_code:
        metrics["places_by_other_code"] = by_other_code
    return metrics


def _write_tables(records: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write trials.csv and cells.csv; returns both tables, unrounded."""
    columns = [*SCORES, *FLAWS]
    trials = records.astype(dict.fromkeys(columns, float))
    trials = trials.sort_values(["length", "depth", "trial"], kind="stable")
    by_cell = trials.groupby(["length", "depth"], as_index=False)[columns].mean()
    trials.round(5).to_csv(folder / "trials.csv", index=False, lineterminator="\n")
    by_cell.round(5).to_csv(folder / "cells.csv", index=False, lineterminator="\n")
    return trials, by_cell


def _lost(trials: pd.DataFrame) -> float | None:
    """The share of answers that were cut off before the expected answer came."""
    asked = trials[trials["truncated"].notna()]
    lost = (asked["truncated"] != 0) & (asked["occurs"] == 0)
    return mean_of([float(value) for value in lost])


def _within(summary: dict[str, Any], base_context: int) -> float | None:
    """Mean exact match over the lengths up to the base context C."""
    scores = []
    for length, score in zip(summary["lengths"], summary["exact_match"], strict=True):
        if length <= base_context and score is not None:
            scores.append(score)
    return mean_of(scores)


def _contents(tested: ModelUnderTest, trials: Trials) -> Iterator[str]:
    """What each trial puts into the frame, as text."""
    for needle in trials.needles:
        said = needle.said
        yield "\n".join([tested.decode(needle.haystack.tolist()), said.statement, said.question])


def _beyond(tested: ModelUnderTest, lengths: list[int]) -> str | None:
    """A line about the lengths beyond the model's context; None if there are none."""
    if not lengths:
        return None
    done = "not asked"
    if tested.endpoint is None:
        done = "read in full, beyond what it was trained to"
    return (
        f"lengths {', '.join(map(str, lengths))} are beyond "
        f"its context of {tested.context:,} tokens: {done}"
    )


if __name__ == "__main__":
    report("needle_report", NeedleReportConfig, measure)
