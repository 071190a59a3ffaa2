"""How the weights move: AdamW, in full or with moments of 8 bits, and a rate known from the step.

Cost for each parameter, beside its 4 bytes of weight and 4 of gradient: `adamw` keeps 8 bytes of
moments, `adamw_8bit` (torchao, extra `memory`) 2. Keeping all of that in the host's memory is a
matter of hardware, not of the recipe: fsdp_offload_params in the accelerate file, at the cost of
moving the weights over the bus once for each pass, which a row of 80K tokens hides.
"""

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from core.errors import UserError
from training.optimizer_config import OptimizerConfig
from training.parallel import World


def learning_rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * (0.1 + 0.45 * (1 + float(np.cos(np.pi * done))))


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters, sharded as they are. Raises UserError where its
    library is missing.
    """
    parameters = [part for part in model.parameters() if part.requires_grad]
    groups = [
        {
            "params": [part for part in parameters if part.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [part for part in parameters if part.ndim < 2], "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer.kind = adamw_8bit needs torchao: pip install 'needlework[memory]', or set "
            "adamw "
            "and keep the moments in the host's memory (fsdp_offload_params)."
        ) from None
    return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For all parameters. torchao keeps the rate in a tensor, so that it needs no new kernel for
    each step.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip(model: nn.Module, limit: float, world: World) -> float:
    """Scale the gradients down to a norm of `limit` over all processes; returns the norm they had."""
    gradients = [_local(part.grad) for part in model.parameters() if part.grad is not None]
    here = torch.nn.utils.get_total_norm(gradients).item()
    norm = float(np.sqrt(world.sum([here**2])[0])) if world.size > 1 else here
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm


def _local(part: torch.Tensor) -> torch.Tensor:
    return part.to_local() if isinstance(part, DTensor) else part
