"""Which RoPE base reaches how far. The result is written into the saved config, so any loader sees
what training saw.

Raising the base slows every rotation but the fastest; a position no training row ever reached then
turns by angles that shorter rows have shown already. Source: Fu et al. 2024, section 3, and the
authors' answer in thread 10 of their repository: the base is raised before training, and any whose
longest wavelength passes the target will do. Dynamic scaling is not offered: a model shipped with
it computes something else on short prompts than it was trained on (thread 11 there).
"""

from math import pi
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from core.errors import UserError
from core.params import Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from training.config_json import Dimensions

PARTIAL = "partial_rotary_factor"


class RopeConfig(Config):
    """How the rotary embedding is stretched: exactly one of these."""

    base: Annotated[float, Field(gt=1)] | None = None
    """The base itself (theta), e.g. 5_000_000."""
    ntk_factor: Annotated[float, Field(ge=1)] | None = None
    """The base that dynamic NTK scaling with this factor reaches at the context; the paper's
    loader: 10.
    """
    reach: Annotated[int, Field(ge=16)] | None = None
    """The smallest base whose longest wavelength is this many tokens, if the model's own doesn't
    reach them.
    """
    yarn_factor: Annotated[float, Field(gt=1)] | None = None
    """YaRN by transformers' own implementation: positions stretched by this factor, the base as it
    is.
    """

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(type(self).model_fields)}, not {list(given) or 'none'}"
            )
        return self


def stretched(config: "PretrainedConfig", rope: RopeConfig, context: int) -> dict[str, Any]:
    """The model's rope_parameters after `rope`, for a context of that many tokens.

    A scaling that the model already has (Llama 3's) stays, except under YaRN. Raises UserError
    where the model has no rotary embedding, several of them, or needs no stretching.
    """
    current = getattr(config, "rope_parameters", None)
    if not isinstance(current, dict) or "rope_theta" not in current:
        raise UserError(
            f"{config.model_type}: its config has not one rope_theta for all layers, so its RoPE "
            "base "
            "can't be raised here. Leave out `rope` to train it as it is."
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
    """Tokens the model was first trained on."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


def head_dim(config: "PretrainedConfig | Dimensions") -> int:
    """Dimensions of one attention head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def rotating_dim(config: "PretrainedConfig") -> int:
    """Those of them that rotate: all of Llama's, half of GLM's, a quarter of GPT-NeoX's."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(head_dim(config) * (parameters.get(PARTIAL) or 1.0))


def ntk_base(base: float, factor: float, length: int, trained_length: int, rotating: int) -> float:
    """The base that dynamic NTK scaling with `factor` reaches at `length` tokens, as the released
    loader computes it.

    ntk_base(10_000, 10, 81_920, 4_096, 128) = 2.08 million. Raises ValueError if `length` was
    already trained.
    """
    if length <= trained_length:
        raise ValueError(
            f"length {length} is within the trained {trained_length} tokens: no scaling is needed"
        )
    stretch = factor * length / trained_length - (factor - 1)
    return float(base * stretch ** (rotating / (rotating - 2)))


def longest_wavelength(base: float, rotating: int) -> float:
    """Tokens in one full turn of the slowest rotating pair of dimensions."""
    return float(2 * pi * base ** ((rotating - 2) / rotating))


def base_covering(length: int, rotating: int) -> float:
    """The smallest base whose longest wavelength is `length` tokens: the inverse of
    `longest_wavelength`.
    """
    return float((length / (2 * pi)) ** (rotating / (rotating - 2)))
