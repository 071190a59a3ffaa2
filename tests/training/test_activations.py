"""Recomputed activations give the same gradients to the bit."""

import numpy as np
import torch
from worlds import LENGTH, VOCABULARY, tiny

from training.batches import Batch
from training.hardware import Hardware
from training.loss import TokenLoss
from training.micro_batches import forward
from training.parallel import World, divide


def gradients(hardware: Hardware) -> list[torch.Tensor]:
    """Of one row's loss."""
    world = World(device=torch.device("cpu"), hardware=hardware)
    loss = divide(TokenLoss(tiny()), world, False).train()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH))
    forward(loss, Batch(ids=ids, starts=[np.zeros(1, np.int64)]), world, False, False).backward()
    return [part.grad for part in loss.parameters() if part.grad is not None]


def test_recomputed_activations_change_no_gradient() -> None:
    again = gradients(Hardware(checkpoint_activations=True, offload_activations=True))
    assert all(
        torch.equal(one, other) for one, other in zip(gradients(Hardware()), again, strict=True)
    )
