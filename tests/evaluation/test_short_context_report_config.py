"""A task's settings are refused where lm-eval would silently leave out a score."""

from pathlib import Path

import pytest

from evaluation.short_context_report_config import RULER_LENGTHS, Task


def test_rulers_own_lengths_are_taken() -> None:
    assert Task(harness="niah_single_1", lengths=RULER_LENGTHS).lengths == RULER_LENGTHS


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"harness": "niah_single_1", "lengths": (4096, 5000)}, "no score for 5000, only for 4096"),
        ({"file": Path("x.jsonl"), "lengths": (4096,)}, "lengths are for RULER's tasks"),
    ],
)
def test_lengths_without_a_score_are_refused(task: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Task.model_validate(task)
