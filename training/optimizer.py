"""AdamW with fp32 or 8-bit states, the learning-rate schedule, and gradient clipping.

Cost per parameter, besides 4 bytes of weight and 4 of gradient: `adamw` keeps 8 bytes of moments,
`adamw_8bit` (torchao, extra `memory`) keeps 2. All of that can be kept in the host's memory
(fsdp_offload_params). This is a choice of hardware and not of the recipe, so it is in the
accelerate file. It moves the weights over the bus once per micro-batch, which a row of 80K tokens
hides.
"""

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from core.errors import UserError
from training.optimizer_config import OptimizerConfig
from training.parallel import World


def learning_rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`.

    It rises linearly over the warm-up steps, then stays or falls as `schedule` says.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    # From 1.0 down to 0.1 of the peak: 0.1 + 0.9 x half a cosine.
    return config.learning_rate * (0.1 + 0.45 * (1 + float(np.cos(np.pi * done))))


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters; its states are sharded as they are.

    Raises UserError if torchao is needed and missing.
    """
    parameters = [part for part in model.parameters() if part.requires_grad]
    matrices = [part for part in parameters if part.ndim >= 2]
    vectors = [part for part in parameters if part.ndim < 2]
    # Norms and biases are not decayed: a smaller norm weight is not a simpler model.
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]

    if config.kind == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=config.betas,
            fused=True,
        )
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer.kind = adamw_8bit needs torchao: pip install 'needlework[memory]', or set "
            "adamw and keep the moments in the host's memory (fsdp_offload_params)."
        ) from None
    return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        # torchao keeps the rate in a tensor, so that it compiles one kernel for all steps.
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip(model: nn.Module, limit: float, world: World) -> float:
    """Scale the gradients down to a norm of `limit`; returns the norm they had.

    The norm is over all processes. Each one holds a shard of the gradients.
    """
    gradients = [_local(part.grad) for part in model.parameters() if part.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    if world.size > 1:
        norm = float(np.sqrt(world.sum([norm**2])[0]))
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm


def _local(part: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor; the tensor itself if it is not sharded."""
    return part.to_local() if isinstance(part, DTensor) else part
