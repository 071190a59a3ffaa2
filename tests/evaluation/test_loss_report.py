"""Loss by band: every scored token counts once, in the band of its position."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation.loss_report import add_by_band, band_names
from evaluation.needle_report import summarise


@given(st.lists(st.integers(2, 40), min_size=1, max_size=8))
def test_every_token_but_the_first_is_counted_once_in_the_band_of_its_position(lengths: list[int]) -> None:
    bands = (4, 16, 40)
    sums, counts = np.zeros(3), np.zeros(3, np.int64)
    for length in lengths:
        add_by_band(np.arange(1, length, dtype=np.float32), bands, sums, counts)
    positions = [position for length in lengths for position in range(1, length)]
    expected = [[p for p in positions if low <= p < high] for low, high in ((0, 4), (4, 16), (16, 40))]
    assert counts.tolist() == [len(part) for part in expected]
    assert np.allclose(sums, [sum(part) for part in expected])


def test_bands_are_named_by_their_ends() -> None:
    assert band_names((256, 2048)) == ["0-256", "256-2048"]


def test_depth_one_hundred_is_in_no_mean() -> None:
    import pandas as pd

    cells = pd.DataFrame({"length": [64] * 3, "depth": [0, 50, 100], "exact_match": [0.0, 0.5, 1.0],
                          "gain": [0.0, 1.0, 9.0], "choice": [0.0, 1.0, 1.0], "word_overlap": None, "rouge_1": None,
                          "trial": 0})
    assert summarise(cells) == {"lengths": [64], "exact_match": [0.25], "gain": [0.5], "choice": [0.5],
                                "word_overlap": [None], "rouge_1": [None], "gain_standard_error": None}
