"""A task's settings are refused where lm-eval would silently leave out a score."""

import re
from pathlib import Path

import pytest
import yaml

from evaluation.needle_report_config import Drawn
from evaluation.short_context_report_config import RULER_LENGTHS, ShortContextReportConfig, Task

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"


def test_rulers_own_lengths_are_taken() -> None:
    assert Task(harness="niah_single_1", lengths=RULER_LENGTHS).lengths == RULER_LENGTHS


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"harness": "niah_single_1", "lengths": (4096, 5000)}, "no score for 5000, only for 4096"),
        ({"file": Path("x.jsonl"), "lengths": (4096,)}, "lengths are for RULER's tasks"),
        ({"file": Path("x.jsonl"), "metric": "f1"}, "metric and scale are for tasks of lm-eval"),
        ({"harness": "gsm8k", "scale": 10}, "scale"),
    ],
)
def test_lengths_without_a_score_are_refused(task: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Task.model_validate(task)


def test_the_documented_sections_are_valid() -> None:
    sections: dict[str, dict[str, object]] = {}
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        sections |= yaml.safe_load(block)
    ShortContextReportConfig.model_validate(sections["short_context_report"])
    assert Drawn.model_validate(sections["needle_report"]["drawn"]).answers == 4
