"""The section checkpoint of params.yaml: models and their training (training/checkpoint.py)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.params import Config
from training.optimizer_config import OptimizerConfig
from training.rope import RopeConfig

BASE = Path("data/base_checkpoint")


class ModelConfig(Config):
    """One model of the comparison."""

    source: Path
    """One of: a folder of packed rows, to train on them; a model's folder, to copy it
    (data/base_checkpoint for an untrained control); another model of the comparison, to copy its
    snapshot `at`; a YAML file that names somebody else's model (training/baselines.py).
    """
    rope: RopeConfig | None = None
    """The change of the rotary embedding before training; None keeps the base model's."""
    snapshots: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Keep the model after these many tokens, each at the end of the step that reaches them."""
    at: int | None = None
    """The tokens of a snapshot of the model in `source`: this model is that snapshot."""


class CheckpointConfig(Config):
    """Continual pretraining, the same for every model."""

    seed: int = 0
    """Of the order of the rows."""
    tokens: Annotated[int, Field(ge=1)]
    """Tokens to train on, rounded down to whole optimizer steps (at least one)."""
    context: Annotated[int, Field(ge=16)]
    """Context length written into the trained model's config, in tokens."""
    document_mask: bool = False
    """Whether attention stays inside each document of a row (the paper: no)."""
    precision: Literal["bf16", "fp32", "fp8"] = "bf16"
    """Autocast dtype for matmuls; master weights and sums stay fp32.

    fp8: linear layers in fp8, the rest in bf16.
    """
    saved_as: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the weights in the saved model."""
    optimizer: OptimizerConfig
    models: dict[str, ModelConfig]
    """Name -> model of the comparison, in the order of the tables."""
