"""Masked documents compute what they compute alone; what attention can't do is refused."""

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM
from worlds import VOCABULARY, tiny

from core.errors import UserError
from training import attention
from training.batches import Batch
from training.correctness_probe import agrees_with_stock, check_sight
from training.hardware import Hardware
from training.loss import TokenLoss
from training.micro_batches import forward, own_rows
from training.parallel import alone


def ready(model: torch.nn.Module) -> TokenLoss:
    """The model with the attention it trains with."""
    attention.register(torch.device("cpu"), None)
    model.set_attn_implementation(attention.NAME)
    return TokenLoss(model)


def batch(*documents: list[int]) -> Batch:
    """One row of these documents."""
    starts = np.cumsum([0, *(len(document) for document in documents)])[:-1]
    return Batch(ids=np.array([sum(documents, [])], np.int64), starts=[starts.astype(np.int64)])


def test_masked_documents_of_a_row_have_their_own_loss() -> None:
    one, two, three = [3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7, 9, 3]
    loss = ready(tiny())
    together = forward(loss, batch(one, two, three), alone(), True, False)
    apart = [
        forward(loss, batch(document), alone(), False, False) for document in (one, two, three)
    ]
    assert together.item() == pytest.approx(sum(part.item() for part in apart), rel=1e-6)
    seen = forward(loss, batch(one, two, three), alone(), False, False)
    assert seen.item() != pytest.approx(together.item(), rel=1e-3)


def test_two_masked_rows_of_a_batch_do_not_see_each_other() -> None:
    loss, row = ready(tiny()), [3, 1, 4, 1]
    both = Batch(ids=np.array([row, row]), starts=[np.array([0, 2])] * 2)
    assert forward(loss, both, alone(), True, False).item() == pytest.approx(
        2 * forward(loss, batch(row[:2], row[2:]), alone(), True, False).item(), rel=1e-6
    )


def test_the_trained_loss_is_that_of_stock_transformers() -> None:
    model = tiny()
    ready(model)
    agrees_with_stock(model)


@pytest.mark.parametrize("mask", [True, False])
def test_the_probe_finds_documents_apart_or_together_as_asked(mask: bool) -> None:
    found = check_sight(ready(tiny()), alone(), mask, False)
    assert ("only themselves" if mask else "each other") in found


def test_the_probe_finds_a_leak_between_masked_documents() -> None:
    loss = ready(tiny())
    whole = loss.forward
    loss.forward = lambda ids, targets, positions, attention: whole(
        ids, targets, positions, {}
    )  # the mask gets lost
    with pytest.raises(UserError, match="document_mask = true a document sees another"):
        check_sight(loss, alone(), True, False)


def test_the_probe_finds_attention_that_looks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.functional,
        "scaled_dot_product_attention",
        lambda *parts, **options: plain(*parts, **options | {"is_causal": False}),
    )
    with pytest.raises(UserError, match="not causal"):
        check_sight(ready(tiny()), alone(), False, False)


def test_the_probe_reports_a_weight_that_is_nan() -> None:
    """NaN differs from itself, so each question would be answered yes."""
    broken = tiny()
    with torch.no_grad():
        broken.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"the loss of \d+ tokens is nan. A weight of the base"):
        check_sight(ready(broken), alone(), False, False)
    with pytest.raises(UserError, match="own loss is nan: a weight of the base is not a number"):
        agrees_with_stock(broken)


def test_a_sliding_window_is_refused() -> None:
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=8,
        )
    )
    with pytest.raises(UserError, match="sliding_window"):
        forward(ready(model), batch([1, 2, 3]), alone(), False, False)


def test_each_row_runs_once_under_any_number_of_processes() -> None:
    numbers = np.arange(10)
    for size, sp in ((1, 1), (2, 1), (3, 1), (4, 2)):
        worlds = [
            alone().__class__(
                device=torch.device("cpu"), rank=rank, size=size, hardware=Hardware(sp=sp)
            )
            for rank in range(size)
        ]
        dealt = [list(own_rows(numbers, 2, world)) for world in worlds]
        assert len({len(passes) for passes in dealt}) == 1
        first_of_group = dealt[::sp]
        assert (
            sorted(
                row
                for passes in first_of_group
                for rows, counts in passes
                if counts
                for row in rows
            )
            == numbers.tolist()
        )


def test_context_parallelism_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="documents would silently see each other"):
        Hardware.of_environment({"PARALLELISM_CONFIG_CP_SIZE": "2"})


@pytest.mark.parametrize("asked", [1, 3, 8, 20])
def test_cached_attention_equals_naive_attention(asked: int) -> None:
    """Two sequences of 20 known tokens, four heads on two keys; the last `asked` are queries."""
    torch.manual_seed(0)
    query = torch.randn(2, 4, asked, 8)
    key, value = torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 8)
    found, _ = attention.attend_cached(torch.nn.Module(), query, key, value, None)
    for head in range(4):
        scores = query[:, head] @ key[:, head // 2].transpose(1, 2) / 8**0.5
        for row in range(asked):
            scores[:, row, 20 - asked + row + 1 :] = float("-inf")
        right = scores.softmax(-1) @ value[:, head // 2]
        torch.testing.assert_close(found[:, :, head], right)


def test_cached_attention_refuses_what_it_would_leave_out() -> None:
    part = torch.randn(1, 2, 4, 8)
    with pytest.raises(UserError, match="sliding_window"):
        attention.attend_cached(torch.nn.Module(), part, part, part, None, sliding_window=2)


def test_a_model_with_sliding_layers_is_not_plain() -> None:
    assert attention.is_plain(tiny().config)
    assert not attention.is_plain(MistralConfig(sliding_window=8))
    assert attention.is_plain(MistralConfig(sliding_window=None))
