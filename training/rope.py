"""The RoPE base that a context length needs, written into the saved config.

So any loader computes what training computed. Raising the base slows every rotation except the
fastest. A position that no training row reached is then turned by angles that shorter rows have
shown already. Source: Fu et al. 2024, section 3, and the authors' answer in thread 10 of their
repository: the base is raised before training, and any base whose longest wavelength exceeds the
target works. Dynamic scaling is not offered. A model shipped with it computes something else on
short prompts than it was trained on (thread 11 there).
"""

from math import pi
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from core.errors import UserError
from core.params import Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from training.config_json import Dimensions

PARTIAL = "partial_rotary_factor"  # share of a head's dimensions that rotate


class RopeConfig(Config):
    """The change of the rotary embedding: exactly one of these."""

    base: Annotated[float, Field(gt=1)] | None = None
    """The base itself (theta), e.g. 5_000_000."""
    ntk_factor: Annotated[float, Field(ge=1)] | None = None
    """The base that dynamic NTK scaling with this factor has at the context.

    The paper's loader uses 10.
    """
    reach: Annotated[int, Field(ge=16)] | None = None
    """The smallest base whose longest wavelength is this many tokens; the model's own if larger."""
    yarn_factor: Annotated[float, Field(gt=1)] | None = None
    """YaRN as transformers implements it: positions scaled by this factor, the base unchanged."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        """Refuse none of the four, and more than one."""
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(type(self).model_fields)}, not {list(given) or 'none'}"
            )
        return self


def stretched(config: "PretrainedConfig", rope: RopeConfig, context: int) -> dict[str, Any]:
    """The model's rope_parameters after `rope`, for a context of `context` tokens.

    A scaling that the model already has (Llama 3's) is kept, except under YaRN. Raises UserError if
    the model has no rotary embedding, several of them, or needs no change.
    """
    current = getattr(config, "rope_parameters", None)
    if not isinstance(current, dict) or "rope_theta" not in current:
        raise UserError(
            f"{config.model_type}: its config does not have one rope_theta for all layers, so its "
            "RoPE base can't be raised here. Leave out `rope` to train it as it is."
        )

    trained, rotating = trained_context(config), rotating_dim(config)
    if rope.yarn_factor is not None:
        part = {key: current[key] for key in (PARTIAL,) if key in current}
        return {
            "rope_type": "yarn",
            "rope_theta": current["rope_theta"],
            "factor": rope.yarn_factor,
            "original_max_position_embeddings": trained,
            **part,
        }

    if rope.base is not None:
        base = rope.base
    elif rope.ntk_factor is not None:
        try:
            base = ntk_base(current["rope_theta"], rope.ntk_factor, context, trained, rotating)
        except ValueError as error:
            raise UserError(
                f"rope.ntk_factor = {rope.ntk_factor:g}: {error}. Leave out `rope`."
            ) from None
    else:
        assert rope.reach is not None
        base = max(base_covering(rope.reach, rotating), float(current["rope_theta"]))
    return {**current, "rope_theta": base}


def trained_context(config: "PretrainedConfig") -> int:
    """The context that the model was first trained on, in tokens."""
    # A scaled model keeps its first context here; max_position_embeddings is the scaled one.
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


def head_dim(config: "PretrainedConfig | Dimensions") -> int:
    """Dimensions of one attention head."""
    named = getattr(config, "head_dim", None)
    return int(named or config.hidden_size // config.num_attention_heads)


def rotating_dim(config: "PretrainedConfig") -> int:
    """Dimensions of a head that rotate: all of Llama's, half of GLM's, a quarter of GPT-NeoX's."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(head_dim(config) * (parameters.get(PARTIAL) or 1.0))


def ntk_base(base: float, factor: float, length: int, trained_length: int, rotating: int) -> float:
    """The base that dynamic NTK scaling with `factor` has at `length` tokens.

    Computed as in the paper's released loader: ntk_base(10_000, 10, 81_920, 4_096, 128) = 2.08
    million. Raises ValueError if `length` is within the trained context.
    """
    if length <= trained_length:
        raise ValueError(
            f"length {length} is within the trained {trained_length} tokens: no scaling is needed"
        )
    stretch = factor * length / trained_length - (factor - 1)
    return float(base * stretch ** (rotating / (rotating - 2)))


def longest_wavelength(base: float, rotating: int) -> float:
    """Tokens in one full turn of the slowest rotating pair of dimensions."""
    # Pair i of n turns once in 2 pi base^(2i / n) tokens; the last pair has 2i = n - 2.
    return float(2 * pi * base ** ((rotating - 2) / rotating))


def base_covering(length: int, rotating: int) -> float:
    """The base whose longest wavelength is `length` tokens: the inverse of `longest_wavelength`."""
    return float((length / (2 * pi)) ** (rotating / (rotating - 2)))
