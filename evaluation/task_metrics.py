"""Which number of lm-eval is a task's score: its main metric, with its direction and its scale.

The main metric is the first one that the task lists; a task may name another (`metric`). lm-eval
says whether more is better. It doesn't say the scale, so the metric's name decides, and never its
value: 0.7 may be 70 % of one task and 0.7 % of another.

| metric | scale |
|---|---|
| less is better: perplexity, bits per byte, word error rate | own: kept as the task gives it |
| accuracy, exact match, F1, ROUGE, pass@k, RULER's string match, LongBench's scores | 0 to 1 |
| BLEU and chrF over a corpus, squadv2's `exact`, EQ-Bench | 0 to 100 |
| all others: correlations, BERTScore | own |

Scores of 0 to 1 and of 0 to 100 are reported in percent. A value outside of its scale stops the
report, and `scale` sets another. The cost: the mean over tasks leaves out what is not in percent.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from core.errors import UserError

ONE = re.compile(
    r"acc(_.+)?|(.+_)?acc|(.+_)?accuracy|(.+_)?exact_match|em|(.+_)?f1|f1_.+|rouge_?[12l](sum)?"
    r"|pass(@|_at_)\d+|score|(qa_f1|rouge|classification|count|retrieval|code_sim)(_zh)?_score"
    r"|string_match"
)
"""Names of metrics from 0 to 1, in lower case."""
HUNDRED = re.compile(r"bleu|chrf(\+\+)?|exact|eqbench")
"""Names of metrics from 0 to 100, in lower case."""
RULER = "string_match"
"""Our name for the score of RULER's tasks, which lm-eval names by their length."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How the score of a task is to be read."""

    name: str
    """As lm-eval names it, without its filter."""
    filter: str = "none"
    """How lm-eval took the answer out of the text: "strict-match"; "none" for the text itself."""
    higher_is_better: bool = True
    scale: str = "percent"
    """"percent", or "own": as the task gives it."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a task."""

    metric: Metric
    value: float
    """In percent, or as the task gives it."""
    suffix: str = ""
    """Of the subject: RULER's length."""
    key: str
    """The metric's name in lm-eval's samples."""


def scores_of(
    where: str,
    results: Mapping[str, Any],
    higher_is_better: Mapping[str, Any],
    aggregations: Mapping[str, Any],
    metric: str | None = None,
    scale: float | None = None,
) -> list[Score]:
    """The score of one task, or for RULER one per length.

    where: the task, for messages. results: lm-eval's, as {"acc,none": 0.5}. higher_is_better: by
    metric, in the task's order. aggregations: name of each metric's aggregation, if known.
    metric: "exact_match" or "exact_match,strict-match"; None: the task's first. scale: the best
    value, 1 or 100; 0: the task's own scale; None: by the metric's name. Raises UserError if there
    is no such score, or it is outside of its scale.
    """
    lengths = [name for name in higher_is_better if name.isdigit()]
    if lengths or any(key.partition(",")[0].isdigit() for key in results):
        return _of_lengths(where, results)

    keys = [key for key in results if "," in key and "_stderr," not in key]
    # Filters are in the task's order too, so the first key of a metric is of its first filter.
    names = [metric] if metric is not None else list(higher_is_better)
    for name in names:
        for key in keys:
            found, _, filtered = key.partition(",")
            value = results[key]
            is_number = isinstance(value, Real) and not math.isnan(float(value))
            if name not in (found, key) or not is_number:
                continue
            more = higher_is_better.get(found)
            kind = Metric(
                name=found,
                filter=filtered,
                higher_is_better=more is not False,
                scale="percent",
            )
            best = scale if scale is not None else _best(kind, aggregations.get(found))
            return [_scaled(where, kind, float(value), best, found)]
    wanted = f"metric {metric}" if metric is not None else "score"
    raise UserError(
        f"{where}: lm-eval gives no {wanted}, only {', '.join(keys) or 'none'}. "
        "Set `metric` to one of them."
    )


def _best(metric: Metric, aggregation: object) -> float:
    """The best value of a metric: 1 or 100; 0 if it has a scale of its own."""
    name = metric.name.lower()
    if not metric.higher_is_better:
        return 0
    # BLEU is 0 to 100 over a corpus; packages that take a mean over documents give 0 to 1.
    over_corpus = aggregation in (None, name) or name not in ("bleu", "chrf", "chrf++")
    if HUNDRED.fullmatch(name) and over_corpus:
        return 100
    return 1 if ONE.fullmatch(name) else 0


def _scaled(where: str, metric: Metric, value: float, best: float, key: str) -> Score:
    """The score in percent, or as it is if `best` is 0. Raises UserError outside of the scale."""
    if not best:
        own = Metric(
            name=metric.name,
            filter=metric.filter,
            higher_is_better=metric.higher_is_better,
            scale="own",
        )
        return Score(metric=own, value=value, key=key)
    if not -1e-6 <= value <= best * (1 + 1e-6):
        raise UserError(
            f"{where}: {metric.name} = {value:g} is not from 0 to {best:g}. Set `scale` to its "
            "best value, 1 or 100, or to 0 if it is no share."
        )
    return Score(metric=metric, value=100 * value / best, key=key)


def _of_lengths(where: str, results: Mapping[str, Any]) -> list[Score]:
    """RULER's scores, one per length. Raises UserError if there is none."""
    found = []
    for key, value in results.items():
        name, _, filtered = key.partition(",")
        # -1 says that nothing of this length was asked.
        if name.isdigit() and "_stderr" not in key and value != -1:
            metric = Metric(name=RULER, filter=filtered)
            scored = _scaled(where, metric, float(value), 1, name)
            found.append(Score(metric=metric, value=scored.value, suffix=f" {name}", key=name))
    if not found:
        raise UserError(f"{where}: lm-eval gives no score for any length. Set `lengths`.")
    return found
