"""Every scored token counts once, in the band of its position."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.bands import in_span, spans
from evaluation.loss_report import by_domain, longest
from evaluation.loss_report_config import LossReportConfig
from evaluation.needle_scores import summarise

CONFIG = LossReportConfig(bands=(4, 16, 40), points=(16, 32), tokens_per_domain=1)
SPANS = spans(CONFIG.bands, CONFIG.points)


@given(st.integers(1, 40))
def test_every_token_after_the_first_counts_once_in_its_band(length: int) -> None:
    losses = np.arange(1, length, dtype=np.float32)
    found = [in_span(losses, span) for span in SPANS[:3]]
    expected = [
        [p for p in range(1, length) if low <= p < high]
        for low, high in ((0, 4), (4, 16), (16, 40))
    ]
    assert found == [(sum(part), len(part)) for part in expected]


def test_a_point_is_the_eighth_before_its_position() -> None:
    at_16, at_32 = SPANS[3:]
    assert in_span(np.arange(1, 32, dtype=np.float32), at_32) == (28 + 29 + 30 + 31, 4)
    assert in_span(np.arange(1, 31, dtype=np.float32), at_32) == (0, 0)
    assert in_span(np.arange(1, 31, dtype=np.float32), at_16) == (14 + 15, 2)


def test_bands_are_named_by_their_ends() -> None:
    assert [span.name for span in spans([256, 2048], [])] == ["0-256", "256-2048"]


def test_a_domains_loss_is_the_mean_over_tokens() -> None:
    documents = pd.DataFrame(
        {"domain": "c4", "document": ["a", "b"], "band": "0-4", "sum": [3.0, 6.0], "tokens": [1, 5]}
    )
    assert by_domain(documents)["loss"].tolist() == [1.5]


def test_depth_one_hundred_is_in_no_mean() -> None:
    cells = pd.DataFrame(
        {
            "length": [64] * 3,
            "depth": [0, 50, 100],
            "exact_match": [0.0, 0.5, 1.0],
            "gain": [0.0, 1.0, 9.0],
            "choice": [0.0, 1.0, 1.0],
            "word_overlap": np.nan,
            "rouge_1": np.nan,
            "trial": 0,
        }
    )
    assert summarise(cells) == {
        "lengths": [64],
        "exact_match": [0.25],
        "gain": [0.5],
        "choice": [0.5],
        "word_overlap": [None],
        "rouge_1": [None],
        "gain_standard_error": None,
    }


def test_the_standard_error_is_over_trials_not_over_cells() -> None:
    cells = pd.DataFrame(
        {
            "length": 64,
            "depth": [0, 50, 0, 50],
            "trial": [0, 0, 1, 1],
            "gain": [1.0, 1.0, 3.0, 3.0],
            "exact_match": 0.0,
            "choice": np.nan,
            "word_overlap": np.nan,
            "rouge_1": np.nan,
        }
    )
    assert summarise(cells)["gain_standard_error"] == 1.0


@pytest.mark.parametrize(("bands", "points", "last"), [((16,), (), 16), ((4, 16), (32,), 32)])
def test_a_document_is_read_to_the_last_position_needed(
    bands: tuple[int, ...], points: tuple[int, ...], last: int
) -> None:
    assert longest(LossReportConfig(bands=bands, points=points, tokens_per_domain=1)) == last
