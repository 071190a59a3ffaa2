"""The section comparison of params.yaml (evaluation/comparison.py)."""

from core.params import Config


class ComparisonConfig(Config):
    """What the page compares."""

    title: str = "Comparison"
    """The heading of the page."""
    baseline: str = "original"
    """The model that losses are shown as differences to."""
    untrained: str = "base"
    """The model that the short-context drop is measured against."""
    result: str | None = None
    """The model that the verdict at the top is about; default the one with the best needle."""
