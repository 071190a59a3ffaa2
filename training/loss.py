"""The loss of long rows without ever holding their logits.

The fp32 logits of one row of 80K tokens over a vocabulary of 32K are 9.8 GiB. Here a few thousand
positions at a time become logits, loss and gradients in one go, and the logits are gone. The sum
and the head's gradient are kept in fp32. PyTorch's own `linear_cross_entropy` (2.13) does the same
but rounds the sum to bf16, two parts in a thousand (docs/log.md). The cost of one way for all
devices: no fused kernel, about 1 % of a 7B model's time at 80K.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from core.errors import UserError
from training.memory import LOGITS_AT_ONCE

IGNORED = -100


class TokenLoss(nn.Module):
    """A language model whose output is its summed loss: what is divided among devices and trained.

    Raises UserError for a model whose head does more than a matrix product.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        text = model.config.get_text_config()
        odd = [
            name
            for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
            if getattr(text, name, None) not in (None, 1, 1.0)
        ]
        odd += (
            ["a bias in the head"]
            if getattr(model.get_output_embeddings(), "bias", None) is not None
            else []
        )
        if odd:
            raise UserError(
                f"{text.model_type}: {', '.join(odd)} is not part of the chunked loss here, so "
                "training "
                "would optimise something else. Choose a base without it."
            )
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        targets: torch.Tensor,
        positions: torch.Tensor,
        attention: dict[str, Any],
    ) -> torch.Tensor:
        """Summed cross-entropy in nats, fp32 scalar. ids, targets, positions: int64[n, length];
        IGNORED targets don't count. attention: what the attention function takes besides
        (training/attention.py).
        """
        hidden = self.model.base_model(
            input_ids=ids, position_ids=positions, use_cache=False, **attention
        ).last_hidden_state
        return summed_loss(
            hidden.flatten(0, 1), self.model.get_output_embeddings().weight, targets.flatten()
        )


def summed_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> torch.Tensor:
    """Summed cross-entropy of `targets` (int64[tokens]) under the logits hidden @ weight.T, fp32
    scalar.

    hidden: [tokens, width]; weight: [vocabulary, width]; multiplied in the type that autocast says.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(kind), weight.to(kind)
    with torch.autocast(device, enabled=False):
        # torch leaves it untyped
        loss: torch.Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, max(logits_at_once // len(weight), 1)
        )
    return loss


class _SummedLoss(torch.autograd.Function):
    """Loss and gradients of one chunk after the other; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, at_once: int
    ) -> torch.Tensor:
        wanted = any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden) if wanted else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
        for start in range(0, len(hidden), at_once):
            part, target = hidden[start : start + at_once], targets[start : start + at_once]
            counts = (target != IGNORED).unsqueeze(1)
            place = target.clamp(min=0).unsqueeze(1)
            logits = (part @ weight.T).float()
            logits -= logits.logsumexp(1, keepdim=True)
            total -= (logits.gather(1, place) * counts).sum()
            if of_hidden is not None and of_weight is not None:
                slope = logits.exp_().scatter_add_(
                    1, place, -torch.ones_like(place, dtype=torch.float32)
                )
                slope = slope.mul_(counts).to(hidden.dtype)
                of_hidden[start : start + at_once] = slope @ weight
                of_weight += slope.T @ part
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.kind = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        scale = slopes[
            0
        ].item()  # a plain number is multiplied in fp32; a tensor would be rounded to bf16 first
        return of_hidden * scale, (of_weight * scale).to(ctx.kind), None, None


def next_tokens(ids: torch.Tensor, starts: list[torch.Tensor] | None) -> torch.Tensor:
    """Targets of rows: the next token, none for the last of a row, nor, where `starts` of documents
    are given, for the last of a document. int64[n, length] -> int64[n, length].
    """
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    for row, begins in enumerate(starts or []):
        targets[row, begins[begins > 0] - 1] = IGNORED
    return targets
