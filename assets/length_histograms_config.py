"""What params.yaml may say of the lengths (assets/length_histograms.py)."""

from typing import Annotated

from pydantic import Field

from core.params import Config


class LengthHistogramsConfig(Config):
    """Lengths worth asking about."""

    thresholds: tuple[Annotated[int, Field(ge=1)], ...]
    """Report the share of documents and of tokens in documents longer than these, in tokens."""
