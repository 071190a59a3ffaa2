"""Training: the loss is the loss, batches may be cut, and the order of rows is known before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from training.loop import OptimizerConfig, accumulate, learning_rate_at, next_token_loss, row_order, train
from training.model import load_model, make_reproducible
from training.rope import base_covering, longest_wavelength, ntk_base

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, batch_tokens=64, micro_batch_tokens=64)


def tiny(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of a few thousand parameters."""
    make_reproducible(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                        num_attention_heads=2, max_position_embeddings=32, tie_word_embeddings=True))


def rows() -> np.ndarray:
    """Eight rows of sixteen token ids."""
    return np.random.default_rng(0).integers(0, 32, (8, 16))


def trained(config: OptimizerConfig) -> dict[str, torch.Tensor]:
    """Weights after four steps."""
    model, data = tiny(), rows()
    list(train(model, lambda chosen: data[chosen], 8, 16, 4, config, 0, "test"))
    return model.state_dict()


def test_the_loss_is_the_cross_entropy_of_the_next_token_summed_in_fp32() -> None:
    model, data = tiny(), torch.from_numpy(rows())
    logits = model(data).logits[:, :-1].float()
    reference = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data[:, 1:].flatten(), reduction="sum")
    assert next_token_loss(model, data).item() == pytest.approx(reference.item(), rel=2e-3)


def test_gradients_of_a_batch_cut_into_micro_batches_are_those_of_the_whole() -> None:
    whole, cut, data = tiny(), tiny(), torch.from_numpy(rows())
    assert accumulate(whole, data, 8) == pytest.approx(accumulate(cut, data, 3), rel=1e-4)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.abs().max() > 0
        assert torch.allclose(one.grad, other.grad, rtol=0.05, atol=float(one.grad.abs().max()) * 0.02)


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    first, second = trained(OPTIMIZER), trained(OPTIMIZER)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_epoch_shows_every_row_once_in_an_order_of_its_own() -> None:
    order = row_order(5, 12, 0)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5].tolist() != order[5:10].tolist()
    assert (row_order(5, 12, 0) == order).all()


def test_the_rate_warms_up_then_stays_or_falls_to_a_tenth() -> None:
    constant = OptimizerConfig(learning_rate=1.0, warmup_steps=4, batch_tokens=1, micro_batch_tokens=1)
    assert [learning_rate_at(constant, step, 10) for step in (0, 3, 4, 9)] == [0.25, 1, 1, 1]
    cosine = constant.model_copy(update={"schedule": "cosine"})
    assert learning_rate_at(cosine, 4, 10) == pytest.approx(1)
    assert learning_rate_at(cosine, 10, 10) == pytest.approx(0.1)


def test_a_raised_base_is_in_the_saved_config_and_stock_transformers_computes_the_same(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "base")
    raised = load_model(tmp_path / "base", 5e5)
    raised.save_pretrained(tmp_path / "raised")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "raised", dtype=torch.float32)
    data = torch.from_numpy(rows())
    assert stock.config.rope_parameters["rope_theta"] == 5e5
    assert torch.equal(stock(data).logits, raised(data).logits)
    assert not torch.allclose(stock(data).logits, load_model(tmp_path / "base")(data).logits)


def test_the_released_loaders_scaling_equals_a_base_of_two_million() -> None:
    assert ntk_base(10_000, 10, 81_920, 4_096, 128) == pytest.approx(2.08e6, rel=5e-3)
    assert longest_wavelength(base_covering(131_072, 128), 128) == pytest.approx(131_072)
