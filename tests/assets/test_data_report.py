"""Every domain is in the picture of the data report and in its legend."""

import pandas as pd

from assets.data_report import stacked


def test_the_legend_names_every_domain_from_the_top() -> None:
    tokens = pd.Series({"_hidden": 3, "plain": 1})
    figure = stacked({"corpus": tokens}, ["_hidden", "plain", "2024"], "domain", ordered=False)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["2024", "plain", "_hidden"]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.75, 0.25, 0]
