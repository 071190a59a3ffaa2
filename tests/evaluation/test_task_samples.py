"""What is kept of each question: prompt, answer, target and score."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.task_samples import (
    kept_text,
    read_samples,
    sample_record,
    shares,
    write_samples,
)


def said(prompt: str, text: str, score: float, **others: Any) -> dict[str, Any]:
    """lm-eval's sample of a generated answer."""
    return {
        "doc_id": 3,
        "arguments": [(prompt, {"until": []})],
        "resps": [[text]],
        "filtered_resps": [text],
        "target": ["7", "8"],
        "4096": score,
        **others,
    }


def test_a_long_text_keeps_both_ends_its_length_and_its_hash() -> None:
    assert kept_text("a" * 4000) == "a" * 4000
    kept = kept_text("b" + "a" * 4000 + "c")
    assert isinstance(kept, dict)
    assert kept["head"] == "b" + "a" * 999 and kept["tail"] == "a" * 999 + "c"
    assert kept["characters"] == 4002 and len(kept["sha256"]) == 64


def test_a_generated_answer_is_kept_with_its_flaws() -> None:
    logged = said("p", "so 7", 0.5, filtered_resps=["7"])
    record = sample_record("t", "s", logged, "4096", {}, {"p": True})
    assert record == {
        **{"task": "t", "subject": "s", "id": 3, "prompt": "p", "cut": False, "answer": "so 7"},
        **{"empty": 0, "truncated": 1, "repetitive": 0, "taken": "7"},
        **{"target": ["7", "8"], "score": 0.5},
    }


def test_offered_answers_are_kept_with_their_log_probabilities() -> None:
    logged = {
        "doc_id": 0,
        "arguments": [("p", " A"), ("p", " B"), ("q", " B")],
        "resps": [[(-0.5, True)], [(np.float32(-1.25), False)], [(-2, False)]],
        "target": np.int64(1),
        "acc": np.float64(0),
    }
    record = sample_record("t", "s", logged, "acc", {"p": "cut p"}, {})
    assert record["prompt"] == "cut p" and record["cut"]
    assert record["answers"] == [
        {"text": " A", "log_prob": -0.5, "greedy": True},
        {"text": " B", "log_prob": -1.25, "greedy": False},
        {"text": " B", "prompt": "q", "log_prob": -2, "greedy": False},
    ]
    assert (record["target"], record["score"]) == (1, 0)


def test_a_text_whose_probability_is_asked_has_no_prompt() -> None:
    logged = {
        "doc_id": 0,
        "arguments": [("a text",)],
        "resps": [[-12.5]],
        "target": "a text",
        "word_perplexity": (-12.5, 2),
    }
    record = sample_record("t", "s", logged, "word_perplexity", {}, {})
    assert record["prompt"] == "" and record["score"] == [-12.5, 2]
    assert record["answers"] == [{"text": "a text", "log_prob": -12.5, "greedy": None}]


def test_a_truncated_answer_with_full_score_is_not_lost() -> None:
    records = [
        sample_record("t", "s", said("a", "7 8", 1.0), "4096", {}, {"a": True}),
        sample_record("t", "s", said("b", "7 is", 0.5), "4096", {}, {"b": True}),
        sample_record("t", "s", said("c", " .", 0.0), "4096", {}, {"c": False}),
        sample_record("t", "s", said("d", "no no no no no", 0.0), "4096", {}, {}),
    ]
    assert shares(records) == {"empty": 0.25, "truncated": 0.5, "repetitive": 0.25, "lost": 0.25}
    assert shares([]) == {}


def test_the_file_is_the_same_bytes_each_time_and_holds_any_text(tmp_path: Path) -> None:
    records = [{"prompt": "é\n\u2028\ud800", "score": None}, {"prompt": "x", "score": 1}]
    write_samples(tmp_path, records)
    first = (tmp_path / "samples.jsonl.zst").read_bytes()
    write_samples(tmp_path, records)
    assert (tmp_path / "samples.jsonl.zst").read_bytes() == first
    assert read_samples(tmp_path) == records
