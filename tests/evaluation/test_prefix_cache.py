"""A prefix cache gives the answers of reading every prompt alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from core.errors import UserError
from evaluation import prefix_cache
from evaluation.prefix_cache import (
    PrefixCache,
    cache_bytes,
    check_room,
    free_memory,
    layers_by_device,
    rows_that_fit,
)
from evaluation.scoring import token_losses
from training.model import make_reproducible

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gqa": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "yarn": LlamaConfig(**SHAPE, rope_parameters=YARN),
    "qwen": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8),
    "sliding": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8),
}
ROWS = 3
ROUNDING = 3e-4
"""Between two orders of the same sums in fp32."""


def model(kind: str) -> PreTrainedModel:
    """A random model of that kind, in fp32."""
    make_reproducible(0)
    return AutoModelForCausalLM.from_config(KINDS[kind], dtype=torch.float32).eval()


@torch.inference_mode()
def alone(reader: PreTrainedModel, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Log-probabilities at the answers, every prompt read from its beginning."""
    rows = torch.from_numpy(np.concatenate([prompts, answers], axis=1))
    return reader(rows).logits[:, prompts.shape[1] - 1 : -1].log_softmax(-1).numpy()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_answers_are_those_of_reading_every_prompt_alone(kind: str, data: st.DataObject) -> None:
    reader = model(kind)
    seed = data.draw(st.integers(0, 1000))
    draw: Any = np.random.default_rng(seed)
    base = draw.integers(0, 32, (ROWS, 64))
    cache = PrefixCache(reader, ROWS, 70, data.draw(st.sampled_from([3, 21, 300])))
    for _ in range(5):
        prompts = base[:, : data.draw(st.integers(1, 60))].copy()
        prompts[:, data.draw(st.integers(0, 60)) :] = draw.integers(0, 32)
        answers = draw.integers(0, 32, (ROWS, 3))
        expected, found = alone(reader, prompts, answers), cache.score(prompts, answers)
        assert np.abs(expected - found).max() < ROUNDING
        best = np.take_along_axis(expected, found.argmax(-1)[..., None], -1)[..., 0]
        assert (expected.max(-1) - best < 2 * ROUNDING).all()


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_what_is_said_is_what_generate_says(kind: str) -> None:
    reader, prompts = model(kind), np.random.default_rng(0).integers(0, 32, (ROWS, 20))
    ids = torch.from_numpy(prompts)
    expected = reader.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )[:, 20:].numpy()
    cache = PrefixCache(reader, ROWS, 40, 64)
    cache.score(prompts, prompts[:, :2])
    assert (cache.generate(prompts, 6) == expected).all()
    assert (cache.generate(prompts, 6) == expected).all()


def test_nothing_is_read_twice() -> None:
    cache, row = PrefixCache(model("llama"), 1, 64, 64), np.arange(30)[None]
    cache.score(row, row[:, :1])
    assert cache.read == 30
    cache.score(np.concatenate([row, row[:, :4]], axis=1), row[:, :1])
    assert cache.read == 34
    cache.score(row[:, :10], row[:, :1])
    assert cache.read == 35, "the last token is read again for what comes after it"


def test_a_cache_beyond_the_limit_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = model("gqa")
    assert cache_bytes(reader.config, 100, 4) == 2 * 2 * 2 * 8 * 100 * 4
    monkeypatch.setenv("NEEDLEWORK_CACHE_GIB", str(3 * 25_600 / 2**30))
    check_room(reader, 100, 3)
    with pytest.raises(UserError, match="there is room for 3 x 100 .*Set trials to 3"):
        check_room(reader, 100, 4, "trials")
    with pytest.raises(UserError, match="there is room for 0 x 1,000 .*Ask for shorter contexts"):
        check_room(reader, 1000, 1, "trials")
    monkeypatch.setenv("NEEDLEWORK_CACHE_GIB", "8GB")
    with pytest.raises(UserError, match="NEEDLEWORK_CACHE_GIB = 8GB: not a plain number"):
        check_room(reader, 100, 1)


def test_each_device_must_hold_its_own_layers_share_and_no_more() -> None:
    one, gib = 64 * 2**30, 2**30
    cards = [torch.device("cuda", number) for number in range(8)]
    spread = Counter(dict.fromkeys(cards, 4))
    assert rows_that_fit(one, spread, dict.fromkeys(cards, 78 * gib)) == 7
    assert rows_that_fit(one, spread, {**dict.fromkeys(cards, 78 * gib), cards[3]: 11 * gib}) == 1
    assert rows_that_fit(one, Counter({cards[0]: 32}), {cards[0]: 78 * gib}) == 0
    uneven = Counter({cards[0]: 24, cards[1]: 8})
    assert rows_that_fit(one, uneven, dict.fromkeys(cards, 70 * gib)) == 1


def test_an_offloaded_layer_counts_on_the_device_it_runs_on() -> None:
    reader = model("llama")
    reader.model.layers[1].to("meta")
    assert layers_by_device(reader) == {torch.device("cpu"): 1, torch.device("meta"): 1}
    add_hook_to_module(reader.model.layers[1], AlignDevicesHook("cpu"))
    assert layers_by_device(reader) == {torch.device("cpu"): 2}


def test_memory_that_files_are_cached_in_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_cache, "MEMINFO", tmp_path / "meminfo")
    prefix_cache.MEMINFO.write_text(
        "MemTotal:  9000 kB\nMemFree:   10 kB\nMemAvailable:   4000 kB\n"
    )
    assert free_memory(torch.device("cpu")) == 4000 * 1024
    prefix_cache.MEMINFO.unlink()
    assert free_memory(torch.device("cpu")) > 0


def test_a_model_that_gives_no_numbers_is_not_scored() -> None:
    """The first choice among NaN is token 0: an answer that begins with it would be right."""
    broken = model("llama")
    with torch.no_grad():
        broken.get_output_embeddings().weight[7] = float("nan")
    prompts = np.zeros((1, 4), np.int64)
    with pytest.raises(UserError, match="the model gives NaN instead of scores"):
        PrefixCache(broken, 1, 16, 4).generate(prompts, 2)
    with pytest.raises(UserError, match="the model gives NaN instead of scores"):
        token_losses(broken, prompts[0])
