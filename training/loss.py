"""Cross-entropy of long rows without holding their logits.

The fp32 logits of one row of 80K tokens over a vocabulary of 32K take 9.8 GiB. Here the logits of a
few thousand positions at a time are turned into loss and gradients and freed. The sum and the
head's gradient are kept in fp32. PyTorch's own `linear_cross_entropy` (2.13) does the same but
rounds the sum to bf16, an error of two parts in a thousand (docs/log.md). The cost of one
implementation for all devices: no fused kernel, about 1 % of a 7B model's time at 80K.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from core.errors import UserError
from training.memory import LOGITS_AT_ONCE

IGNORED = -100  # a target that is not predicted; PyTorch's own default


class TokenLoss(nn.Module):
    """A language model that returns its summed loss. This module is sharded and trained.

    Raises UserError for a model whose head does more than a matmul.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        text = model.config.get_text_config()
        odd = []
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(text, name, None) not in (None, 1, 1.0):
                odd.append(name)
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            odd.append("a bias in the head")
        if odd:
            raise UserError(
                f"{text.model_type}: {', '.join(odd)} is not part of the chunked loss here, so "
                "training would optimise something else. Choose a base without it."
            )
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        targets: torch.Tensor,
        positions: torch.Tensor,
        attention: dict[str, Any],
    ) -> torch.Tensor:
        """Summed cross-entropy in nats, fp32 scalar.

        ids, targets, positions: int64[n, length]; IGNORED targets don't count.
        attention: further arguments of the attention function (training/attention.py).
        """
        output = self.model.base_model(
            input_ids=ids, position_ids=positions, use_cache=False, **attention
        )
        hidden = output.last_hidden_state.flatten(0, 1)
        return summed_loss(hidden, self.model.get_output_embeddings().weight, targets.flatten())


def summed_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> torch.Tensor:
    """Summed cross-entropy of `targets` under the logits hidden @ weight.T, fp32 scalar.

    hidden: [tokens, width]; weight: [vocabulary, width]; targets: int64[tokens].
    The product is in autocast's dtype, if autocast is on.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(kind), weight.to(kind)
    # Inside, each operation chooses its own dtype.
    with torch.autocast(device, enabled=False):
        # torch leaves `apply` untyped.
        loss: torch.Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
            hidden, weight, targets, max(logits_at_once // len(weight), 1)
        )
    return loss


class _SummedLoss(torch.autograd.Function):
    """Loss and gradients, both in the forward pass, chunk by chunk; backward only scales them."""

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
            # An index for gather; for an IGNORED target any will do, since it is multiplied by 0.
            place = target.clamp(min=0).unsqueeze(1)

            logits = (part @ weight.T).float()
            logits -= logits.logsumexp(1, keepdim=True)  # now log-probabilities
            total -= (logits.gather(1, place) * counts).sum()

            if of_hidden is not None and of_weight is not None:
                # The gradient of cross-entropy: probabilities, less 1 at the target.
                minus_one = -torch.ones_like(place, dtype=torch.float32)
                slope = logits.exp_().scatter_add_(1, place, minus_one)
                slope = slope.mul_(counts).to(hidden.dtype)
                of_hidden[start : start + at_once] = slope @ weight
                of_weight += slope.T @ part

        ctx.save_for_backward(of_hidden, of_weight)
        ctx.kind = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        # A plain number is multiplied in fp32; a tensor would be rounded to bf16 first.
        scale = slopes[0].item()
        return of_hidden * scale, (of_weight * scale).to(ctx.kind), None, None


def next_tokens(ids: torch.Tensor, starts: list[torch.Tensor] | None) -> torch.Tensor:
    """The target of every token: the next one. int64[n, length] -> int64[n, length].

    The last token of a row gets IGNORED. With `starts`, the positions where each row's documents
    begin, so does the last token of each document.
    """
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    for row, begins in enumerate(starts or []):
        targets[row, begins[begins > 0] - 1] = IGNORED
    return targets
