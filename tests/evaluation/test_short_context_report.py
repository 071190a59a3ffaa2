"""A group of lm-eval's tasks has one score: the mean over the questions of its parts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_world import write_speaker

from core.errors import UserError
from evaluation.model_under_test import of_user
from evaluation.short_context_report import Outcome, _parts, _summary
from evaluation.short_context_report_config import Task

NOTHING_CUT = SimpleNamespace(left={}, unended={})


def found(**parts: tuple[str, bool, list[float]]) -> dict[str, Any]:
    """What lm-eval returns of a group `all`. parts: metric, whether more is better, and the score
    of each question.
    """
    results: dict[str, Any] = {"all": {"acc,none": 0.123}}
    samples = {}
    for part, (metric, _, scores) in parts.items():
        results[part] = {"alias": part, f"{metric},none": sum(scores) / len(scores)}
        samples[part] = [
            {
                "doc_id": number,
                "arguments": [("p", " A"), ("p", " B")],
                "resps": [[(-1, True)], [(-2, False)]],
                "target": 0,
                "filter": "none",
                metric: score,
            }
            for number, score in enumerate(scores)
        ]
    return {
        "results": results,
        "groups": {"all": {}},
        "group_subtasks": {"all": list(parts)},
        "configs": {part: {"metric_list": None} for part in parts},
        "higher_is_better": {part: {metric: more} for part, (metric, more, _) in parts.items()},
        "samples": samples,
    }


def summary(tmp_path: Path, **parts: tuple[str, bool, list[float]]) -> dict[str, Any]:
    """The group's entry in short_context.json."""
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "a b")))
    task = Task(harness="all")
    outcome = Outcome(parts=_parts("all", task, {}, found(**parts), NOTHING_CUT), cut=0, chat=False)
    return _summary(tested, "all", task, outcome)


def test_a_group_is_the_mean_over_questions_and_not_over_parts(tmp_path: Path) -> None:
    scored = summary(tmp_path, a=("acc", True, [1, 1, 1, 0]), b=("f1", True, [0.5]))
    assert (scored["score"], scored["questions"]) == (70, 5)
    assert (scored["metric"], scored["scale"]) == ("acc, f1", "percent")
    assert "left_out" not in scored and "empty" not in scored and scored["warning"] is None


def test_a_group_leaves_out_what_is_no_share_and_says_so(tmp_path: Path) -> None:
    scored = summary(tmp_path, a=("acc", True, [1, 0]), b=("perplexity", False, [12.5]))
    assert (scored["score"], scored["questions"], scored["left_out"]) == (50, 2, ["b"])


def test_a_group_of_one_metric_keeps_its_scale_and_direction(tmp_path: Path) -> None:
    scored = summary(tmp_path, a=("perplexity", False, [10, 10, 10]), b=("perplexity", False, [14]))
    assert (scored["score"], scored["scale"], scored["higher_is_better"]) == (11, "own", False)


def test_a_group_of_metrics_that_have_no_mean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tasks.all: its parts are scored by mcc, perplexity"):
        summary(tmp_path, a=("mcc", True, [0.1]), b=("perplexity", False, [10]))
