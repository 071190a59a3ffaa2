"""Score one answer to a needle prompt, by probabilities and by words; average over trials.

Exact match, gain and choice need probabilities. The other scores need the generated text. Each one
is defined at the top of evaluation/needle_report.py.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.answers import FLAWS, flaws, occurs, rouge_1, word_overlap
from evaluation.chat import Asking, spoken
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle import Ids, Needle
from evaluation.needle_report_config import TOUCHING

SCORES = ("exact_match", "occurs", "gain", "choice", "word_overlap", "rouge_1")


def judge(
    log_probs: NDArray[np.float32], without: NDArray[np.float32], answer: Ids, rivals: Ids | None
) -> dict[str, float | None]:
    """Exact match, gain and choice of one prompt.

    log_probs: float32[at least answer, vocabulary], with the statement in the context.
    without: the same, without the statement. answer: int64[answer].
    rivals: int64[n], first tokens of the other values in sight; None: choice is not scored.
    """
    at = np.arange(len(answer))
    chosen = log_probs[at].argmax(-1)
    exact = bool((chosen == answer).all())
    gain = float((log_probs[at, answer] - without[at, answer]).mean())

    choice = None
    first = answer[0]
    others = np.empty(0, np.int64)
    if rivals is not None:
        others = rivals[rivals != first]
    if len(others):  # without another value in sight there is nothing to choose from
        beaten = log_probs[0, first] > log_probs[0, others]
        choice = float(beaten.all())
    return {"exact_match": float(exact), "gain": round(gain, 5), "choice": choice}


def judge_ids(
    tested: ModelUnderTest, needle: Needle, generated: list[int] | None, how: Asking
) -> dict[str, Any]:
    """The scores of generated token ids; empty if nothing was generated (`new_tokens: 0`)."""
    if generated is None:
        return {**dict.fromkeys(("occurs", "word_overlap", "rouge_1", *FLAWS)), "said": ""}
    text, truncated = spoken(tested, generated, how)
    return judge_text(text, truncated, needle)


def judge_text(text: str, truncated: bool, needle: Needle) -> dict[str, Any]:
    """The scores of a generated text. truncated: whether the token limit ended it.

    With several values to find, exact match too: all of them are in the text, in any order.
    """
    expected = needle.expected or (needle.said.answer,)
    share = sum(occurs(text, [value]) for value in expected) / len(expected)
    return {
        **({"exact_match": float(share == 1)} if needle.expected else {}),
        "occurs": round(share, 5),
        "word_overlap": round(word_overlap(text, needle.said.answer), 5),
        "rouge_1": round(rouge_1(text, needle.said.statement), 5),
        **flaws(text, truncated),
        "said": text,
    }


def summarise(trials: pd.DataFrame) -> dict[str, Any]:
    """Means over trials and the depths below 100 %: a list per score, one value per length.

    A value is None if nothing was asked. The standard error is that of the mean gain: over the
    trials, because the cells of one trial share a haystack.
    """
    counted = trials[trials["depth"] < TOUCHING]
    columns = [column for column in (*SCORES, *FLAWS) if column in counted]
    means = counted.groupby("length")[columns].mean().round(5)
    by_trial = counted.groupby("trial")["gain"].mean()
    error = by_trial.std() / len(by_trial) ** 0.5 if len(by_trial) > 1 else np.nan

    summary: dict[str, Any] = {"lengths": [int(length) for length in means.index]}
    for column in columns:
        summary[column] = [None if np.isnan(value) else float(value) for value in means[column]]
    summary["gain_standard_error"] = None if np.isnan(error) else round(float(error), 5)
    return summary


def mean_of(values: list[float | None]) -> float | None:
    """The mean of the values that are not None, to five digits; None if there are none."""
    there = [value for value in values if value is not None]
    return round(float(np.mean(there)), 5) if there else None
