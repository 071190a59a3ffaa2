"""A task of lm-eval has the score of its own metric; a group has the mean over its questions."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from chat_world import write_speaker

from core.errors import UserError
from evaluation.model_under_test import of_user
from evaluation.short_context_report import Outcome, _parts, _summary, measure
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from evaluation.task_samples import read_samples

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


def write_task(folder: Path, **settings: Any) -> Path:
    """A task in lm-eval's own form, with two questions: a? is b c, d? is e."""
    lines = [{"q": "a ?", "a": "b c"}, {"q": "d ?", "a": "e"}]
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        **settings,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def run(
    folder: Path, says: dict[str, str], task: Task, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's entry in short_context.json, and its samples."""
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    tested = of_user(str(write_speaker(folder / "model", says, "a b c d e ?", template=None)))
    config = ShortContextReportConfig(tasks={"mine": task}, **settings)
    assert list(measure(tested, config, folder)) == ["mine"]
    kept = read_samples(folder) if config.keep_samples else []
    return json.loads((folder / "short_context.json").read_text())["mine"], kept


GENERATES = {
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def test_a_generated_answer_is_scored_kept_and_looked_at(tmp_path: Path) -> None:
    """After "?" it says b, after b c, after c b: without end."""
    task = Task(harness=str(write_task(tmp_path, **GENERATES)))
    summary, samples = run(tmp_path, {"?": "b", "b": "c"}, task)
    assert (summary["score"], summary["metric"], summary["scale"]) == (50, "exact_match", "percent")
    assert (summary["chat"], summary["truncated"], summary["warning"]) == (False, 0, None)
    assert [(one["prompt"], one["answer"], one["target"], one["score"]) for one in samples] == [
        ("a ?", "b c", "b c", 1),
        ("d ?", "b c", "e", 0),
    ]
    (tmp_path / "loop").mkdir()
    task = Task(harness=str(write_task(tmp_path / "loop", **GENERATES)), new_tokens=20)
    summary, samples = run(tmp_path / "loop", {"?": "b", "b": "c", "c": "b"}, task)
    assert len(samples[0]["answer"].split()) == 20
    assert (summary["score"], summary["truncated"], summary["repetitive"]) == (0, 1, 1)
    assert "100 % of the answers repeat themselves, 100 % of the answers were cut off" in str(
        summary["warning"]
    )


def test_a_perplexity_keeps_its_scale_and_its_direction(tmp_path: Path) -> None:
    settings = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    task = Task(harness=str(write_task(tmp_path, **settings)))
    summary, samples = run(tmp_path, {}, task)
    assert (summary["scale"], summary["higher_is_better"]) == ("own", False)
    # Of three words: e to the mean of their negative log-probabilities.
    total = sum(sample["answers"][0]["log_prob"] for sample in samples)
    assert summary["score"] == pytest.approx(math.exp(-total / 3), abs=2e-3)


def test_without_keep_samples_there_is_no_file_of_them(tmp_path: Path) -> None:
    task = Task(harness=str(write_task(tmp_path, **GENERATES)))
    summary, _ = run(tmp_path, {"?": "b", "b": "c"}, task, keep_samples=False)
    assert summary["score"] == 50 and not (tmp_path / "samples.jsonl.zst").exists()


def test_a_task_without_the_wanted_metric_names_those_it_has(tmp_path: Path) -> None:
    task = Task(harness=str(write_task(tmp_path, **GENERATES)), metric="f1")
    with pytest.raises(UserError, match=r"tasks.mine.*no metric f1, only exact_match,none"):
        run(tmp_path, {}, task)
