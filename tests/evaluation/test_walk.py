"""A walk along shared beginnings answers as if every prompt were read alone."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen3Config

from assets.stage import UserError
from evaluation.walk import Walk, cache_bytes, rows_that_fit
from training.model import make_reproducible

SHAPE = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 128, "initializer_range": 0.4}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
KINDS = {"llama": LlamaConfig(**SHAPE, tie_word_embeddings=True), "gqa": LlamaConfig(**SHAPE, num_key_value_heads=2),
         "yarn": LlamaConfig(**SHAPE, rope_parameters=YARN),
         "qwen": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8),
         "sliding": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8)}
ROWS = 3


def model(kind: str) -> PreTrainedModel:
    """A random model of that kind, in fp32."""
    make_reproducible(0)
    return AutoModelForCausalLM.from_config(KINDS[kind], dtype=torch.float32).eval()


@torch.inference_mode()
def alone(reader: PreTrainedModel, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Log-probabilities at the answers, every prompt read from its beginning."""
    rows = torch.from_numpy(np.concatenate([prompts, answers], axis=1))
    return reader(rows).logits[:, prompts.shape[1] - 1:-1].log_softmax(-1).numpy()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_answers_are_those_of_reading_every_prompt_alone(kind: str, data: st.DataObject) -> None:
    reader = model(kind)
    seed = data.draw(st.integers(0, 1000))
    draw: Any = np.random.default_rng(seed)
    base = draw.integers(0, 32, (ROWS, 64))
    walk = Walk(reader, ROWS, 70, data.draw(st.sampled_from([3, 21, 300])))
    for _ in range(5):
        prompts = base[:, :data.draw(st.integers(1, 60))].copy()
        prompts[:, data.draw(st.integers(0, 60)):] = draw.integers(0, 32)
        answers = draw.integers(0, 32, (ROWS, 3))
        expected, found = alone(reader, prompts, answers), walk.ask(prompts, answers)
        assert np.abs(expected - found).max() < 1e-4
        assert (expected.argmax(-1) == found.argmax(-1)).all()


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_what_is_said_is_what_generate_says(kind: str) -> None:
    reader, prompts = model(kind), np.random.default_rng(0).integers(0, 32, (ROWS, 20))
    ids = torch.from_numpy(prompts)
    expected = reader.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
                               pad_token_id=0, eos_token_id=None)[:, 20:].numpy()
    walk = Walk(reader, ROWS, 40, 64)
    walk.ask(prompts, prompts[:, :2])
    assert (walk.say(prompts, 6) == expected).all()
    assert (walk.say(prompts, 6) == expected).all()


def test_nothing_is_read_twice() -> None:
    walk, row = Walk(model("llama"), 1, 64, 64), np.arange(30)[None]
    walk.ask(row, row[:, :1])
    assert walk.read == 30
    walk.ask(np.concatenate([row, row[:, :4]], axis=1), row[:, :1])
    assert walk.read == 34
    walk.ask(row[:, :10], row[:, :1])
    assert walk.read == 35, "the last token is read again for what comes after it"


def test_a_cache_beyond_the_limit_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = model("gqa")
    assert cache_bytes(reader.config, 100, 4) == 2 * 2 * 2 * 8 * 100 * 4
    monkeypatch.setenv("NEEDLEWORK_CACHE_GIB", str(3 * 25_600 / 2 ** 30))
    assert rows_that_fit(reader, 100, 16) == 3
    with pytest.raises(UserError, match="takes 0.0 GiB, more than"):
        rows_that_fit(reader, 1000, 16)
