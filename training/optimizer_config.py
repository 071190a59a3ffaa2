"""What params.yaml may say of how the weights move, for the base's acts and for every model.

It stands beside optimizer.py, which brings PyTorch: make check and make plan only read what is
said. The cost is a module for each stage whose own module is slow to import, named STAGE_config.
"""

from typing import Annotated, Literal

from pydantic import Field

from core.params import Config


class OptimizerConfig(Config):
    """How the weights move. The paper: AdamW, constant rate 2e-5, 4M tokens a batch."""

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine down to a tenth of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of matrices; vectors (norms, biases) do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens in one optimizer step; rounded down to whole rows, at least one."""
    micro_batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens each device holds at once, in whole rows, at least one; changes memory and the order
    of sums, hence the last bits of the result.
    """
    spike_nats: Annotated[float, Field(gt=0)] | None = 2.0
    """Stop when a step's loss is this far above the median of the last 20; null: never."""
