"""A legend names everything that is drawn, and there is none where nothing is."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluation import plots

NAMES = ["_hidden", "plain", "2024"]


def legend(figure: Figure) -> list[str]:
    """The names in the picture's legend. Empty without a legend."""
    found = figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


@pytest.mark.parametrize("names", [[], NAMES[:1], NAMES])
def test_a_legend_names_every_curve(names: list[str]) -> None:
    curves = {name: ([1, 2], [3, 4]) for name in names}
    assert legend(plots.lines(curves, "x", "y", "title")) == names


@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_a_legend_names_every_bar(names: list[str]) -> None:
    table = pd.DataFrame({name: [1.0, 2.0] for name in names})
    assert legend(plots.bars(table, "y", "title")) == names
