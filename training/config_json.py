"""A plain Llama's config.json, read as JSON instead of by transformers.

transformers imports PyTorch, which takes seconds, for a plan or a check that takes a tenth of one.
So the config.json of a plain Llama is read here: one that has only the keys below, in these types,
with every required one present. All other files are left to transformers, which knows the defaults
of all models and reports what is wrong. The cost: the rules for a plain file are repeated here, and
a test compares them with transformers.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from core.errors import UserError

Count = Annotated[int, Field(ge=1)]
Kind = Literal["float32", "float16", "bfloat16"] | None
Number = int | float


def _written_as_float(value: object) -> object:
    """Refuse a 1 where a float belongs, as transformers does."""
    if not isinstance(value, float):
        raise ValueError("no float")
    return value


Real = Annotated[float, BeforeValidator(_written_as_float)]


class Dimensions(BaseModel):
    """The dimensions of a decoder, under the names of a Llama's config.json."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
    )
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    vocab_size: Count
    tie_word_embeddings: bool
    model_type: str | None = None

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        """Refuse a width that the heads do not divide."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads")
        return self


class PlainRope(BaseModel):
    """A rotary embedding without scaling."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
    )
    rope_type: Literal["default"]
    rope_theta: Number


class PlainLlama(Dimensions):
    """All keys that a plain Llama's config.json may have."""

    model_config = ConfigDict(extra="forbid")
    model_type: Literal["llama"]
    max_position_embeddings: Count
    rope_parameters: PlainRope | None = None
    rope_theta: Number | None = None
    rope_scaling: None = None
    name_or_path: Annotated[str | None, Field(alias="_name_or_path")] = None
    js_config: Annotated[dict[str, Any] | None, Field(alias="transformers.js_config")] = None
    architectures: list[str] | None = None
    attention_bias: bool = False
    attention_dropout: Number = 0.0
    bos_token_id: int | None = None
    dtype: Kind = None
    eos_token_id: int | None = None
    hidden_act: str = "silu"
    initializer_range: Annotated[Real, Field(ge=0, le=1)] = 0.02
    is_llama_config: bool = True
    mlp_bias: bool = False
    pad_token_id: int | None = None
    pretraining_tp: int = 1
    rms_norm_eps: Real = 1e-6
    rope_interleaved: Literal[False] = False
    torch_dtype: Kind = None
    transformers_version: str | None = None
    use_cache: bool = True


AnyDimensions = TypeVar("AnyDimensions", bound=Dimensions)


def config_file(folder: Path) -> Path:
    """The path of config.json in `folder`. Raises UserError if there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no config.json there. A base model is a transformers folder: config.json, "
            "*.safetensors, tokenizer.json. Set base_checkpoint.source to one."
        )
    return path


def plain_llama(folder: Path) -> PlainLlama | None:
    """The config in `folder` if it is a plain Llama's; None leaves it to transformers.

    Raises UserError if there is none.
    """
    return read_dimensions(config_file(folder), PlainLlama)


def read_dimensions(path: Path, kind: type[AnyDimensions]) -> AnyDimensions | None:
    """The values of the JSON file at `path` as a `kind`; None if they are not valid as one."""
    try:
        return kind.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError):
        return None
