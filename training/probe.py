"""Before the first step: does the model, as it is about to be trained, compute what was asked for?

Fused losses have been silently wrong upstream, and attention has silently let documents see each
other. So every run looks, on a few dozen tokens, at the very attention, masking, sharding and loss
it will use: three questions, answered by changing one token and seeing whose loss moves. Costs a
handful of short passes.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from core.errors import UserError
from training.attention import NAME
from training.batches import Batch
from training.loss import TokenLoss
from training.parallel import World, alone
from training.passes import forward

LENGTH = 64
CLOSE = 0.02
"""Relative difference in loss that bf16 may make."""


def agrees_with_stock(model: PreTrainedModel) -> None:
    """Raise UserError unless loss and attention here give what transformers' own give, on the CPU,
    undivided.
    """
    ids = _row(model.config.vocab_size, LENGTH)
    inputs = torch.from_numpy(ids[None])
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        stock = functional.cross_entropy(
            model(inputs).logits[0, :-1].float(), inputs[0, 1:], reduction="sum"
        ).item()
        model.set_attn_implementation(NAME)
        whole = [np.zeros(1, np.int64)]
        ours = forward(
            TokenLoss(model), Batch(ids=ids[None], starts=whole), alone(), False, False
        ).item()
    if not math.isfinite(stock):
        raise UserError(
            f"{model.config.model_type}: on {LENGTH} tokens transformers' own loss is {stock}: a "
            "weight of the base is not a number. Fetch the base again; nothing was trained."
        )
    if not abs(ours - stock) <= CLOSE * abs(stock):
        raise UserError(
            f"{model.config.model_type}: on {LENGTH} tokens transformers' own loss is {stock:.4f} "
            "and the "
            f"one to be trained {ours:.4f}. This model does something that training here leaves "
            "out; "
            "nothing was trained."
        )


def check_sight(loss: TokenLoss, world: World, document_mask: bool, bf16: bool) -> str:
    """Raise UserError unless a token is seen by what comes after it, in its document or in its row
    as asked, and by nothing else. Every process of the world must call it. Returns what it found,
    in words.
    """
    length = LENGTH * world.hardware.sp
    half = length // 2
    row = _row(loss.model.config.vocab_size, length)
    first, last = row.copy(), row.copy()
    first[1] = (row[1] + 1) % loss.model.config.vocab_size
    last[-1] = (row[-1] + 1) % loss.model.config.vocab_size

    def loss_of(ids: np.ndarray, places: Sequence[int]) -> float:
        """Loss at `places` of a row of two documents, of equal length."""
        batch = Batch(ids=ids[None], starts=[np.array([0, half], np.int64)])
        with torch.no_grad():
            here = forward(loss, batch, world, document_mask, bf16, places).item()
        total = world.sum([here])[0]
        if not math.isfinite(total):
            raise UserError(
                f"probe: the loss of {len(places)} tokens is {total}. A weight of the base is not "
                "a number, or checkpoint.precision is too narrow for it. Nothing was trained."
            )
        return total

    same, other, earlier = range(2, half - 1), range(half, length - 1), range(half, length - 2)
    seen_in_document = loss_of(row, same) != loss_of(first, same)
    seen_across = loss_of(row, other) != loss_of(first, other)
    seen_before = loss_of(row, earlier) != loss_of(last, earlier)
    if not seen_in_document:
        raise UserError(
            "probe: a token does not change what follows it in its own document. The attention is "
            "broken; "
            "nothing was trained."
        )
    if seen_before:
        raise UserError(
            "probe: a token changes what stands before it. The attention is not causal; nothing "
            "was "
            "trained."
        )
    if seen_across == document_mask:
        raise UserError(
            "probe: with checkpoint.document_mask = "
            + (
                "true a document sees another one of its row"
                if document_mask
                else "false a document does not see the one before it"
            )
            + ". Nothing was trained."
        )
    return "documents see " + ("only themselves" if document_mask else "each other") + ", as asked"


def _row(vocabulary: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, length)
