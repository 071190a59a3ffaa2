"""Every change of RoPE is in the saved config, and transformers computes the same from it."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModelForCausalLM,
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    StableLmConfig,
)
from worlds import VOCABULARY, tiny

from core.errors import UserError
from training.model import load_model, read_config, rope_base, save_model
from training.rope import (
    RopeConfig,
    base_covering,
    longest_wavelength,
    ntk_base,
    rotating_dim,
    stretched,
)

LLAMA2 = LlamaConfig(hidden_size=4096, num_attention_heads=32, max_position_embeddings=4096)
STRETCHES = [
    RopeConfig(base=5e5),
    RopeConfig(ntk_factor=4),
    RopeConfig(reach=1 << 17),
    RopeConfig(yarn_factor=8),
]


def test_the_papers_scaling_equals_a_base_of_two_million() -> None:
    assert ntk_base(10_000, 10, 81_920, 4_096, 128) == pytest.approx(2.08e6, rel=5e-3)
    assert stretched(LLAMA2, RopeConfig(ntk_factor=10), 81_920)["rope_theta"] == pytest.approx(
        2.08e6, rel=5e-3
    )


def test_the_base_for_a_length_has_that_longest_wavelength() -> None:
    assert longest_wavelength(base_covering(131_072, 128), 128) == pytest.approx(131_072)
    base = stretched(LLAMA2, RopeConfig(reach=131_072), 131_072)["rope_theta"]
    assert longest_wavelength(base, 128) == pytest.approx(131_072)
    assert stretched(LLAMA2, RopeConfig(reach=1024), 4096)["rope_theta"] == 10_000, (
        "a base is never lowered"
    )


@pytest.mark.parametrize("kind", [LlamaConfig, GPTNeoXConfig, GlmConfig, StableLmConfig])
def test_the_slowest_rotating_pair_turns_once_in_the_reach(
    kind: type[PretrainedConfig],
) -> None:
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=16,
        num_hidden_layers=1,
        pad_token_id=0,
        num_attention_heads=2,
        head_dim=64,
        max_position_embeddings=256,
    )
    config.rope_parameters = stretched(config, RopeConfig(reach=1 << 20), 1 << 20)
    slowest = AutoModelForCausalLM.from_config(config).base_model.rotary_emb.inv_freq[-1]
    assert 2 * torch.pi / slowest.item() == pytest.approx(1 << 20, rel=1e-4)
    assert rotating_dim(config) == 64 * config.rope_parameters.get("partial_rotary_factor", 1)
    yarn = stretched(config, RopeConfig(yarn_factor=8), 2048)
    assert yarn.get("partial_rotary_factor", 1) * 64 == rotating_dim(config)


@pytest.mark.parametrize(
    "rope", STRETCHES, ids=lambda rope: next(iter(rope.model_dump(exclude_none=True)))
)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_saved_model_gives_the_same_logits_in_transformers(
    tmp_path: Path, rope: RopeConfig, kind: str
) -> None:
    tiny().save_pretrained(tmp_path / "base")
    config = read_config(tmp_path / "base", rope, 128)
    ours = load_model(tmp_path / "base", config).eval()
    ours.load_state_dict(
        {name: part.to(getattr(torch, kind)) for name, part in ours.state_dict().items()}
    )
    weights, saved = ours.state_dict(), tmp_path / "saved"
    save_model(weights, config, tmp_path / "base", saved, kind)  # type: ignore[arg-type]
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    assert stock.config.max_position_embeddings == 128
    for length in (4, 16, 128):
        ids = torch.randint(
            0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length)
        )
        long_first = torch.randint(
            0, VOCABULARY, (1, 128), generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            stock(
                long_first
            )  # what the published model's dynamic scaling remembers must change nothing
            assert torch.equal(stock(ids).logits, ours(ids).logits)


def test_stretching_changes_what_the_model_computes(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "base")
    ids = torch.arange(16).unsqueeze(0)
    plain = load_model(tmp_path / "base")(ids).logits
    for rope in STRETCHES:
        raised = load_model(tmp_path / "base", read_config(tmp_path / "base", rope, 128))
        assert not torch.allclose(plain, raised(ids).logits), rope


def test_a_raised_base_keeps_the_base_models_scaling(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    tiny().save_pretrained(tmp_path)
    config = read_config(tmp_path)
    config.rope_parameters = llama3
    assert stretched(config, RopeConfig(base=5e6), 128) == {**llama3, "rope_theta": 5e6}
    assert (
        stretched(config, RopeConfig(yarn_factor=4), 128)["original_max_position_embeddings"] == 16
    )


def test_settings_that_contradict_each_other_are_refused_by_name() -> None:
    for wrong in ({}, {"base": 5e5, "yarn_factor": 2}):
        with pytest.raises(
            ValidationError, match="exactly one of base, ntk_factor, reach, yarn_factor"
        ):
            RopeConfig(**wrong)
    with pytest.raises(UserError, match="within the trained 4096 tokens.*Leave out `rope`"):
        stretched(LLAMA2, RopeConfig(ntk_factor=10), 4096)


def test_rope_is_refused_without_one_base_for_all_layers() -> None:
    config = LlamaConfig()
    config.rope_parameters = {
        "full_attention": {"rope_theta": 1e6},
        "sliding_attention": {"rope_theta": 1e4},
    }
    with pytest.raises(UserError, match="not have one rope_theta for all layers"):
        stretched(config, RopeConfig(base=1e6), 128)
    assert rope_base(config) == 0
