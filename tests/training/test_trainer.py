"""Micro-batches sum to the batch; order and rate are fixed; one seed gives one result."""

import numpy as np
import pytest
import torch
from worlds import LENGTH, VOCABULARY, tiny

from training.batches import RowsInMemory, row_order
from training.extension import cpu_multiplies_bf16, slow_bf16
from training.loss import TokenLoss
from training.optimizer import clip, learning_rate_at, make_optimizer
from training.optimizer_config import OptimizerConfig
from training.parallel import alone
from training.snapshots import StepLog
from training.trainer import Diverged, Task, accumulate, train


def task(rows_per_micro_batch: int = 8, bf16: bool = False, **changes: object) -> Task:
    """Four steps of eight rows; every row holds two documents."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (12, LENGTH))
    optimizer = OptimizerConfig(
        learning_rate=1e-2,
        batch_tokens=8 * LENGTH,
        micro_batch_tokens=rows_per_micro_batch * LENGTH,
    ).model_copy(update=changes)
    return Task(
        what="test", rows=RowsInMemory(ids=ids), steps=4, optimizer=optimizer, seed=0, bf16=bf16
    )


def trained(work: Task) -> dict[str, torch.Tensor]:
    """Weights after the task."""
    loss = TokenLoss(tiny())
    list(train(loss, make_optimizer(loss, work.optimizer), work, alone()))
    return loss.state_dict()


@pytest.mark.parametrize("rows_per_micro_batch", [1, 3, 5])
def test_gradients_of_micro_batches_sum_to_those_of_the_batch(rows_per_micro_batch: int) -> None:
    whole, cut, numbers = TokenLoss(tiny()), TokenLoss(tiny()), np.arange(8)
    assert accumulate(whole, numbers, task(), alone()) == pytest.approx(
        accumulate(cut, numbers, task(rows_per_micro_batch), alone()), rel=1e-6
    )
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_seed_gives_the_same_weights_to_the_bit(bf16: bool) -> None:
    first, second = trained(task(bf16=bf16)), trained(task(bf16=bf16))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss_of_rows_it_has_seen() -> None:
    loss, work = TokenLoss(tiny()), task()
    before = accumulate(loss, np.arange(8), work, alone())
    loss.zero_grad()
    list(train(loss, make_optimizer(loss, work.optimizer), work, alone()))
    assert accumulate(loss, np.arange(8), work, alone()) < before - 0.1


def test_every_epoch_shows_every_row_once_in_an_order_of_its_own() -> None:
    order = row_order(5, 12, 0)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5].tolist() != order[5:10].tolist()
    assert (row_order(5, 12, 0) == order).all()


def test_the_rate_warms_up_then_stays_or_falls_to_a_tenth() -> None:
    constant = OptimizerConfig(
        learning_rate=1.0, warmup_steps=4, batch_tokens=1, micro_batch_tokens=1
    )
    assert [learning_rate_at(constant, step, 10) for step in (0, 3, 4, 9)] == [0.25, 1, 1, 1]
    cosine = constant.model_copy(update={"schedule": "cosine"})
    assert learning_rate_at(cosine, 4, 10) == pytest.approx(1)
    assert learning_rate_at(cosine, 10, 10) == pytest.approx(0.1)


def test_only_gradients_above_the_limit_are_clipped() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    for before, after in ((3.0, [0.6, 0.8]), (0.5, [0.3, 0.4])):
        layer.weight.grad = torch.tensor([[0.6, 0.8]]) * before
        assert clip(layer, 1.0, alone()) == pytest.approx(before)
        assert layer.weight.grad.flatten().tolist() == pytest.approx(after)


def test_a_jump_of_the_loss_stops_before_the_step_is_taken() -> None:
    loss, work = TokenLoss(tiny()), task(learning_rate=1e-6, spike_nats=0.5)
    weights = {name: part.clone() for name, part in loss.state_dict().items()}
    calm = [StepLog(step=1, tokens=1, loss=1.0, learning_rate=1e-6, gradient_norm=1.0)] * 20
    longer = Task(**{**vars(work), "steps": 24})
    with pytest.raises(Diverged, match="jumped to 3.* from about 1.000"):
        list(train(loss, make_optimizer(loss, work.optimizer), longer, alone(), calm))
    assert all(torch.equal(weights[name], part) for name, part in loss.state_dict().items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_the_step_is_taken(bad: float) -> None:
    loss, work = TokenLoss(tiny()), task()
    with torch.no_grad():
        loss.model.get_output_embeddings().weight[3, 3] = bad
    weights = {name: part.clone() for name, part in loss.state_dict().items()}
    with pytest.raises(Diverged, match=r"at step 1 the loss is nan .* Lower optimizer.learning_r"):
        list(train(loss, make_optimizer(loss, work.optimizer), work, alone()))
    for name, part in loss.state_dict().items():
        torch.testing.assert_close(weights[name], part, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("device", "supported", "warned"),
    [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)],
)
def test_bf16_is_slow_only_on_a_cpu_without_its_instructions(
    device: str, supported: bool, warned: bool
) -> None:
    words = slow_bf16(torch.device(device), supported)
    assert ("checkpoint.precision" in words) == bool(words) == warned
    assert isinstance(cpu_multiplies_bf16(), bool)
