"""What params.yaml may say about length histograms (assets/length_histograms.py)."""

from typing import Annotated

from pydantic import Field

from core.params import Config


class LengthHistogramsConfig(Config):
    """The lengths that matter to the user."""

    thresholds: tuple[Annotated[int, Field(ge=1)], ...]
    """Tokens. Report the share of tokens in documents longer than these."""
