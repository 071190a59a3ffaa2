"""RULER's tasks through lm-eval, those that need no network, at their shortest length.

The model's next word depends on the last token alone. lm-eval makes 500 texts of each task.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_world import TEMPLATE, USER, write_speaker

from evaluation import short_context_report
from evaluation.model_under_test import ModelUnderTest, of_user
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from evaluation.task_samples import read_samples

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
pytestmark = pytest.mark.slow
WORDS = "The grass is green . The sky is blue . The sun is yellow . 1 2 3 4 5 6 7 8 9 : - ? , VAR ="


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval would fetch nltk's sentence splitter, which these tasks never use."""
    nltk = pytest.importorskip("nltk", reason="the extra `eval` is not installed")
    (tmp_path / "nltk/tokenizers/punkt_tab").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])


def speaker(folder: Path, says: dict[str, str], template: str | None) -> ModelUnderTest:
    """A model that reads 8,192 tokens."""
    words = f"{WORDS} {' '.join(says.values())}"
    return of_user(str(write_speaker(folder, says, words, template=template, context=8192)))


def measured(
    tested: ModelUnderTest, name: str, folder: Path, lengths: tuple[int, ...], count: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's entry in short_context.json, and its samples."""
    folder.mkdir()
    task = Task(harness=name, lengths=lengths, count=count)
    short_context_report.measure(tested, ShortContextReportConfig(tasks={name: task}), folder)
    return json.loads((folder / "short_context.json").read_text())[name], read_samples(folder)


def test_a_model_that_says_one_value_scores_it_alone(tmp_path: Path) -> None:
    """`count` is of each length, and each length is asked the same beside others."""
    mute = speaker(tmp_path / "mute", {}, None)
    summary, asked = measured(mute, "niah_single_1", tmp_path / "a", (4096,), 2)
    assert summary["score"] == 0 and summary["empty"] == 1
    assert "100 % of the answers are empty" in summary["warning"]

    (first,) = asked[0]["target"]
    knows = speaker(tmp_path / "knows", {"is": first}, TEMPLATE)
    summary, samples = measured(knows, "niah_single_1", tmp_path / "b", (4096, 8192), 2)
    table = pd.read_csv(tmp_path / "b/scores.csv").set_index("subject")
    assert table["score"].to_dict() == {"niah_single_1 4096": 50, "niah_single_1 8192": 0}
    assert table["questions"].tolist() == [2, 2] and summary["score"] == 25
    assert [sample["target"] for sample in samples[:2]] == [sample["target"] for sample in asked]
    assert [sample["score"] for sample in samples] == [1, 0, 0, 0]

    # In the chat template, RULER's beginning of the answer is the beginning of the model's turn.
    assert summary["chat"] and summary["answer_prefix"] and "cut_prompts" not in summary
    prompt = samples[0]["prompt"]
    assert prompt["head"].startswith(f"{USER}A special magic number is hidden")
    assert prompt["tail"].endswith("mentioned in the provided text is")
    assert f": {first}." in prompt["head"] + prompt["tail"] or prompt["characters"] > 2000
    assert samples[0]["answer"] == first and not samples[0]["truncated"]


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe"])
def test_the_score_is_the_share_of_targets_in_the_answer(tmp_path: Path, name: str) -> None:
    # It never ends: after "is" and ":" it counts on.
    says = {"is": "1", ":": "1", "1": "2", "2": "3", "3": "1"}
    tested = speaker(tmp_path / "model", says, None)
    summary, samples = measured(tested, name, tmp_path / "out", (4096,), 2)
    for sample in samples:
        said, targets = sample["answer"].lower(), sample["target"]
        share = sum(target.lower() in said for target in targets) / len(targets)
        assert sample["score"] == share and sample["truncated"] and sample["repetitive"]
    assert summary["truncated"] == 1 and "cut_prompts" not in summary
    assert "100 % of the answers repeat themselves" in summary["warning"]
    assert f"raise short_context_report.tasks.{name}.new_tokens" in summary["warning"]
