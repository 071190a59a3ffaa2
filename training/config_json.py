"""A model's config.json, read as JSON where transformers would find nothing else in it.

transformers brings PyTorch, seconds of work for a plan or a check that takes a tenth of one. So the
config.json of a plain Llama is read here: one that says nothing but what is listed, in these types,
with no default left to fill in where it matters. Every other file is left to transformers, which
knows the defaults of all models and says what is wrong. The cost: what counts as plain is written
down here, and a test holds it against transformers.
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
    """transformers refuses a 1 where a float belongs."""
    if not isinstance(value, float):
        raise ValueError("no float")
    return value


Real = Annotated[float, BeforeValidator(_written_as_float)]


class Dimensions(BaseModel):
    """The dimensions of a decoder, as a Llama's config.json gives them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    vocab_size: Count
    tie_word_embeddings: bool

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads")
        return self


class PlainRope(BaseModel):
    """A rotary embedding that nothing stretches."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    rope_type: Literal["default"]
    rope_theta: Number


class PlainLlama(Dimensions):
    """All that a plain Llama's config.json may say."""

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
    """The config.json in `folder`. Raises UserError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no config.json there. A base model is a transformers folder: config.json, "
            "*.safetensors, tokenizer.json. Set base_checkpoint.source to one."
        )
    return path


def plain_llama(folder: Path) -> PlainLlama | None:
    """The config in `folder` if it is a plain Llama's; None leaves it to transformers. Raises
    UserError where there is none.
    """
    return read_dimensions(config_file(folder), PlainLlama)


def read_dimensions(path: Path, kind: type[AnyDimensions]) -> AnyDimensions | None:
    """What the JSON file at `path` says, if it is all that `kind` asks for; else None."""
    try:
        return kind.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError):
        return None
