"""Rows are full, every token has one place, and only one remainder is dropped.

Run it alone: pytest tests/assets/test_packing.py
"""

import doctest
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import places, tokens_of

from assets import packing as packing_module
from assets.best_fit import best_fit
from assets.packing import Layout, concatenate, cuts, shuffled_rows, spans_cut

LENGTHS = st.lists(st.integers(0, 30), max_size=25)
Packing = Callable[[np.ndarray, int], Layout]
BOTH = pytest.mark.parametrize("packing", [concatenate, best_fit])


def test_the_worked_example_holds() -> None:
    result = doctest.testmod(packing_module)
    assert result.attempted > 5 and result.failed == 0


def test_concatenated_documents_are_cut_at_the_end_of_a_row() -> None:
    layout = concatenate(np.array([3, 4, 2]), 4)
    assert places(layout) == [[(0, 0), (0, 1), (0, 2), (1, 0)], [(1, 1), (1, 2), (1, 3), (2, 0)]]


@given(LENGTHS, st.integers(1, 12))
def test_concatenated_rows_joined_are_the_documents_joined(lengths: list[int], size: int) -> None:
    rows = places(concatenate(np.array(lengths, np.int64), size))
    packed = [token for row in rows for token in row]
    assert packed == tokens_of(lengths)[: len(packed)]


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_every_row_is_full_and_tokens_are_unique(
    packing: Packing, lengths: list[int], size: int
) -> None:
    rows = places(packing(np.array(lengths, np.int64), size))
    assert [len(row) for row in rows] == [size] * (sum(lengths) // size)

    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= set(tokens_of(lengths))


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_shuffling_rows_moves_them_whole(packing: Packing, lengths: list[int], size: int) -> None:
    layout = packing(np.array(lengths, np.int64), size)
    order = np.random.default_rng(len(lengths)).permutation(layout.rows)
    rows = places(layout)
    assert places(shuffled_rows(layout, order)) == [rows[number] for number in order]


@pytest.mark.parametrize(
    ("lengths", "size", "spans", "number"),
    [
        ([4, 4], 4, 0, 0),
        ([3, 3, 2], 4, 1, 1),  # the second is in two rows
        ([9], 4, 1, 0),  # one token is dropped
        ([3, 6, 3], 4, 1, 1),  # 6 tokens are in three pieces, and two would do
        ([2, 8, 2], 4, 1, 1),  # so are 8
        ([2, 1], 2, 0, 0),  # 1 is dropped whole
    ],
)
def test_a_span_is_cut_if_it_has_more_pieces_than_it_needs(
    lengths: list[int], size: int, spans: int, number: int
) -> None:
    array = np.array(lengths)
    layout = concatenate(array, size)
    assert (spans_cut(layout, array, size), cuts(layout, array, size)) == (spans, number)
