"""What params.yaml may say of the models and their training (training/checkpoint.py)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.params import Config
from training.optimizer_config import OptimizerConfig
from training.rope import RopeConfig

BASE = Path("data/base_checkpoint")


class ModelConfig(Config):
    """What one model of the comparison is made from."""

    source: Path
    """A folder of packed rows, to train on them; a model's folder, to take it as it is
    (data/base_checkpoint for a control that is not trained); another model of the comparison, to
    take its snapshot `at`; or a YAML file that names somebody else's model (training/baselines.py).
    """
    rope: RopeConfig | None = None
    """How the rotary embedding is stretched before training; None keeps the base model's."""
    snapshots: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Tokens after which to keep the model as it is then, each at the end of the step that reaches
    it.
    """
    at: int | None = None
    """Which of those snapshots of the model in `source` this one is."""


class CheckpointConfig(Config):
    """Continual pretraining, the same for every model."""

    seed: int = 0
    tokens: Annotated[int, Field(ge=1)]
    """Tokens to train on, rounded down to whole optimizer steps (at least one)."""
    context: Annotated[int, Field(ge=16)]
    """Context length written into the trained model's config, in tokens."""
    document_mask: bool = False
    """Whether documents that share a row are kept from seeing each other (the paper: no)."""
    precision: Literal["bf16", "fp32", "fp8"] = "bf16"
    """Of matrix products; weights and sums are fp32 either way. fp8: that of linear layers, the
    rest bf16.
    """
    saved_as: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the saved model."""
    optimizer: OptimizerConfig
    models: dict[str, ModelConfig]
