"""Before the first step: check that the model computes what it is going to be trained for.

Fused losses have been silently wrong upstream, and attention has silently let documents see each
other. So every run checks, on a few dozen tokens, the attention, masking, sharding and loss that it
is going to use. It changes one token and compares the losses of others before and after. The cost
is a handful of short forward passes.
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
from training.micro_batches import forward
from training.parallel import World, alone

LENGTH = 64  # tokens of the probe on each process
CLOSE = 0.02  # relative difference of the losses that bf16 may make


def agrees_with_stock(model: PreTrainedModel) -> None:
    """Raise UserError unless our loss and attention give the loss that transformers gives.

    It is compared on the CPU, before the model is divided.
    """
    ids = _row(model.config.vocab_size, LENGTH)
    inputs = torch.from_numpy(ids[None])
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        logits = model(inputs).logits[0, :-1].float()
        stock = functional.cross_entropy(logits, inputs[0, 1:], reduction="sum").item()

        model.set_attn_implementation(NAME)
        batch = Batch(ids=ids[None], starts=[np.zeros(1, np.int64)])
        ours = forward(TokenLoss(model), batch, alone(), False, False).item()

    if not math.isfinite(stock):
        raise UserError(
            f"{model.config.model_type}: on {LENGTH} tokens transformers' own loss is {stock}: "
            "a weight of the base is not a number. Fetch the base again; nothing was trained."
        )
    if not abs(ours - stock) <= CLOSE * abs(stock):
        raise UserError(
            f"{model.config.model_type}: on {LENGTH} tokens transformers' own loss is {stock:.4f} "
            f"and the one to be trained {ours:.4f}. This model does something that training here "
            "leaves out. Choose another base; nothing was trained."
        )


def check_sight(loss: TokenLoss, world: World, document_mask: bool, bf16: bool) -> str:
    """Check on a row of two documents which tokens see which; returns the result for the log.

    Raises UserError unless a token changes the loss of later tokens of its document, and of the
    next document only without `document_mask`, and of no earlier token. Every process of the world
    must call it.
    """
    # Every process needs a whole shard, so the row grows with them.
    length = LENGTH * world.hardware.sp
    half = length // 2
    vocabulary = loss.model.config.vocab_size
    row = _row(vocabulary, length)
    early_change, late_change = row.copy(), row.copy()
    early_change[1] = (row[1] + 1) % vocabulary
    late_change[-1] = (row[-1] + 1) % vocabulary

    def loss_of(ids: np.ndarray, places: Sequence[int]) -> float:
        """The loss at `places` of a row of two documents of equal length."""
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

    # The loss at a position is of the next token. So the ranges leave out the last positions, whose
    # targets are changed themselves or lie in the other document.
    same, other, earlier = range(2, half - 1), range(half, length - 1), range(half, length - 2)
    seen_in_document = loss_of(row, same) != loss_of(early_change, same)
    seen_across = loss_of(row, other) != loss_of(early_change, other)
    seen_before = loss_of(row, earlier) != loss_of(late_change, earlier)

    if not seen_in_document:
        raise UserError(
            "probe: a token does not change what follows it in its own document. "
            "The attention is broken; nothing was trained."
        )
    if seen_before:
        raise UserError(
            "probe: a token changes what stands before it. "
            "The attention is not causal; nothing was trained."
        )
    if document_mask and seen_across:
        raise UserError(
            "probe: with checkpoint.document_mask = true a document sees another one of its row. "
            "Nothing was trained."
        )
    if not document_mask and not seen_across:
        raise UserError(
            "probe: with checkpoint.document_mask = false "
            "a document does not see the one before it. Nothing was trained."
        )
    return f"documents see {'only themselves' if document_mask else 'each other'}, as asked"


def _row(vocabulary: int, length: int) -> np.ndarray:
    """Token ids of a row, int64[length]: the same on every process."""
    return np.random.default_rng(0).integers(0, vocabulary, length)
