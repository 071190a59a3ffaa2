"""What params.yaml may say of the page that compares (evaluation/comparison.py)."""

from core.params import Config


class ComparisonConfig(Config):
    """What the page sets beside what."""

    title: str = "Comparison"
    baseline: str = "original"
    """Losses are shown as differences to this model."""
    untrained: str = "base"
    """The short-context drop is against this model."""
