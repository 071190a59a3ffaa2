"""The section base_checkpoint of params.yaml (training/base_checkpoint.py)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from core.params import Config
from training.optimizer_config import OptimizerConfig


class Architecture(Config):
    """Shape of a small Llama. Its vocabulary is the tokenizer's."""

    hidden_size: Annotated[int, Field(ge=8)] = 128
    """Width of the hidden states."""
    layers: Annotated[int, Field(ge=1)] = 2
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads, for keys and values too."""
    feed_forward: Annotated[int, Field(ge=8)] = 384
    """Width inside the feed-forward layer."""
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0
    """RoPE's theta."""
    context: Annotated[int, Field(ge=16)] = 256
    """The base context C, in tokens."""


class Phase(Config):
    """One phase of the curriculum."""

    row_length: Annotated[int, Field(ge=16)]
    """Tokens in a row."""
    tokens: Annotated[int, Field(ge=1)]
    """Tokens trained in this phase."""
    repeated_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of rows that are a random span repeated verbatim."""
    optimizer: OptimizerConfig
    """Its moments start from 0 in each phase."""


class BaseCheckpointConfig(Config):
    """The source of the base. `architecture` and `acts` are used only if it is pretrained here."""

    source: Path
    """A transformers folder, or `data/tokenized_corpus` to pretrain on it."""
    seed: int = 0
    """Of the initial weights, the order of documents and rows, and the repeats."""
    architecture: Architecture = Architecture()
    acts: tuple[Phase, ...] = ()
    """The phases of the curriculum, in order."""
