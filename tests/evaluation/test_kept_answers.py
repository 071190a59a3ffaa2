"""Kept answers are found by the model and every prompt; other code is reported."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from assets.tokenizer import train_bpe
from core.sealed import write_json
from evaluation import needle_asking
from evaluation.kept_answers import kept_file
from evaluation.model_under_test import of_user
from evaluation.needle_report import measure
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.needle_trials import make_trials
from training.model import make_reproducible

TEXT = "The cat sat on the mat. A dog ran to the red house. Nobody knew where the bird was. " * 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of a few thousand parameters with a tokenizer of its own, and a text."""
    make_reproducible(0)
    model = tmp_path / "model"
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.3,
        )
    ).save_pretrained(model)
    train_bpe(iter([TEXT]), 300).save(str(model / "tokenizer.json"))
    write_json(model / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(TEXT)
    return model


def needle_config(texts: Path, **changes: Any) -> NeedleReportConfig:
    """Two lengths, three depths, two needles."""
    needles = [
        {
            "statement": "The key is under the red stone.",
            "question": "Where is the key?",
            "answer": "under the red stone.",
        },
        {"statement": "Mary eats plums.", "question": "What does Mary eat?", "answer": "plums."},
    ]
    return NeedleReportConfig.model_validate(
        {
            "haystack": str(texts),
            "frame": "Book: {context}\nQ: {question}\nA:",
            "trials": 2,
            "new_tokens": 5,
            "needles": needles,
            "grid": {"lengths": [128, 200], "depths": [0, 50, 100]},
            **changes,
        }
    )


def name(folder: Path, **changes: Any) -> Path:
    """Where the answers would wait."""
    tested = of_user(str(folder))
    return kept_file(tested, make_trials(tested, needle_config(folder.parent / "texts", **changes)))


DRAWN = {
    "needles": [],
    "drawn": {
        "words": [f"word{number}" for number in range(12)],
        "value_words": 1,
        "statement": "{key} is {value} .",
        "question": "{key} is",
    },
}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1, **DRAWN},
        {"trials": 1},
        {"new_tokens": 6},
        {"frame": "{context} {question}"},
        {"side_by_side": 1},
        {"grid": {"lengths": [128, 200], "depths": [0, 50]}},
    ],
    ids=str,
)
def test_each_setting_that_decides_answers_is_in_the_name(
    folder: Path, changes: dict[str, Any]
) -> None:
    without = DRAWN if "drawn" in changes else {}
    assert name(folder, **changes) != name(folder, **without)
    assert name(folder, **changes) == name(folder, **changes)


def test_the_haystacks_text_is_in_the_name(folder: Path) -> None:
    before = name(folder)
    (folder.parent / "texts/one.txt").write_text(TEXT.replace("house", "mouse"))
    assert name(folder) != before
    (folder.parent / "texts/one.txt").write_text(TEXT)
    assert name(folder) == before


@pytest.mark.parametrize("file", ["tokenizer_config.json", "model.safetensors", "config.json"])
def test_the_model_is_in_the_name(folder: Path, file: str) -> None:
    before = name(folder)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content + b" " if file.endswith("json") else content)
    assert name(folder) != before, "by size and time, where no record says more"


def test_answers_of_other_code_are_kept_reported_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    out = folder.parent / "out"
    out.mkdir()
    tested, config = of_user(str(folder)), needle_config(folder.parent / "texts")
    answer, asked = needle_asking._ask_cell, []

    def killed(*given: Any) -> Any:
        asked.append(given)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(*given)

    monkeypatch.setattr(needle_asking, "_ask_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(tested, config, out)
    (origin,) = Path(".training/needle_report").rglob("*.origin.json")
    noted = json.loads(origin.read_text())
    noted[0]["code"]["evaluation.needle"] = "of before"
    origin.write_text(json.dumps(noted))
    metrics = measure(tested, config, out)
    said = capsys.readouterr().err
    assert "places so far were given under other code (evaluation.needle). They are kept" in said
    assert metrics["places_by_other_code"] > 0 and not origin.parent.exists()
    assert "places_by_other_code" not in measure(tested, config, out)
