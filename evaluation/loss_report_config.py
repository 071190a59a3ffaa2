"""The section loss_report of params.yaml (evaluation/loss_report.py)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from core.params import Config


class LossReportConfig(Config):
    """The tokens that are scored."""

    seed: int = 0
    """Of the choice of documents."""
    bands: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    """Upper ends of the bands, in tokens, rising: [256, 2048] gives 0-256 and 256-2048."""
    points: tuple[Annotated[int, Field(ge=16)], ...] = ()
    """Positions at which the loss is reported too, as the mean over the eighth before them."""
    tokens_per_domain: Annotated[int, Field(ge=1)]
    """Whole documents are drawn until this many tokens of the domain are scored."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        """Refuse bands that are not ascending."""
        if list(self.bands) != sorted(set(self.bands)):
            raise ValueError("bands must rise, as in [256, 2048]")
        return self
