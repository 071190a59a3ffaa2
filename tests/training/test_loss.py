"""The chunked loss equals the plain one, in value and gradients, for any chunk size."""

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from core.errors import UserError
from training.loss import IGNORED, TokenLoss, next_tokens, summed_loss

TOKENS, WIDTH, VOCABULARY = 50, 16, 200


def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a head, and targets of which the sixth does not count."""
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    targets[5] = IGNORED
    return (
        torch.randn(TOKENS, WIDTH, generator=draw),
        torch.randn(VOCABULARY, WIDTH, generator=draw),
        targets,
    )


def reference() -> tuple[torch.Tensor, ...]:
    """Plain fp32: loss, gradient of the hidden states, gradient of the head."""
    hidden, weight, targets = world()
    hidden.requires_grad_(), weight.requires_grad_()
    loss = functional.cross_entropy(
        hidden @ weight.T, targets, reduction="sum", ignore_index=IGNORED
    )
    (loss * 0.37).backward()
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def ours(logits_at_once: int, bf16: bool = False) -> tuple[torch.Tensor, ...]:
    """The same by the chunked loss."""
    hidden, weight, targets = world()
    hidden.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = summed_loss(hidden, weight, targets, logits_at_once)
    (loss * 0.37).backward()
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("logits_at_once", [1, 3 * VOCABULARY, 7 * VOCABULARY, 1 << 20])
def test_fp32_loss_and_gradients_equal_plain_cross_entropy(
    logits_at_once: int,
) -> None:
    for got, wanted in zip(ours(logits_at_once), reference(), strict=True):
        assert got.dtype == torch.float32 and distance(got, wanted) < 1e-6


def test_bf16_loss_and_gradients_are_close_to_fp32() -> None:
    loss, of_hidden, of_weight = ours(7 * VOCABULARY, bf16=True)
    wanted = reference()
    assert distance(loss, wanted[0]) < 1e-3
    assert distance(of_hidden, wanted[1]) < 1e-2 and distance(of_weight, wanted[2]) < 1e-2


def test_without_gradients_none_are_made() -> None:
    assert not summed_loss(*world()).requires_grad


def test_last_tokens_of_rows_and_documents_have_no_target() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert next_tokens(ids, None).tolist() == [[2, 3, 4, IGNORED], [6, 7, 8, IGNORED]]
    starts = [torch.tensor([0, 2]), torch.tensor([0])]
    assert next_tokens(ids, starts).tolist() == [[2, IGNORED, 4, IGNORED], [6, 7, 8, IGNORED]]


def test_a_head_that_is_more_than_a_matrix_is_refused_by_name() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match="final_logit_softcapping"):
        TokenLoss(model)
