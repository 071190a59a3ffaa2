"""Parameters of the optimizer, for the base's phases and for every model.

optimizer.py imports PyTorch, and make check and make plan only read the parameters. So they have a
module of their own. The cost: every stage that is slow to import has a module STAGE_config too.
"""

from typing import Annotated, Literal

from pydantic import Field

from core.params import Config


class OptimizerConfig(Config):
    """The paper: AdamW, constant learning rate 2e-5, 4M tokens per batch."""

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw: moments in fp32; adamw_8bit: in 8 bits (torchao)."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine down to a tenth of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of matrices; vectors (norms, biases) are not decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the first and second moment."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm of the gradient over all parameters."""
    batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens in one optimizer step, rounded down to whole rows, at least one."""
    micro_batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens that each device holds at once, in whole rows, at least one.

    It changes the memory and the order of sums, hence the last bits of the result.
    """
    spike_nats: Annotated[float, Field(gt=0)] | None = 2.0
    """Stop if a step's loss is this far above the median of the last 20; null: never."""
