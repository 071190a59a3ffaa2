"""Packing loses nothing but one remainder, and invents nothing: every place of every row names where it came from."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.packing import Layout, best_fit, concatenate, shuffled_rows, spans_cut

LENGTHS = st.lists(st.integers(0, 30), max_size=25)
Packing = Callable[[np.ndarray, int], Layout]
BOTH = pytest.mark.parametrize("packing", [concatenate, best_fit])


def places(layout: Layout) -> list[list[tuple[int, int]]]:
    """Each row as the (span, token) that stands at each of its places, found through `at`."""
    rows: list[dict[int, tuple[int, int]]] = [{} for _ in range(layout.rows)]
    for span, start, stop, row, at in zip(layout.span, layout.start, layout.stop, layout.row, layout.at, strict=True):
        for token in range(start, stop):
            place = int(at + token - start)
            assert place not in rows[row], "two tokens on one place"
            rows[row][place] = (int(span), int(token))
    return [[row[place] for place in sorted(row)] for row in rows]


def test_three_documents_chop_into_rows_wherever_the_row_ends() -> None:
    layout = concatenate(np.array([3, 4, 2]), 4)
    assert places(layout) == [[(0, 0), (0, 1), (0, 2), (1, 0)], [(1, 1), (1, 2), (1, 3), (2, 0)]]


def test_best_fit_keeps_documents_whole_that_fit_together() -> None:
    layout = best_fit(np.array([3, 2, 4, 2, 1]), 4)
    assert sorted(sorted({span for span, _ in row}) for row in places(layout)) == [[0, 4], [1, 3], [2]]
    assert spans_cut(layout, np.array([3, 2, 4, 2, 1]), 4) == 0
    assert spans_cut(concatenate(np.array([3, 2, 4, 2, 1]), 4), np.array([3, 2, 4, 2, 1]), 4) == 2


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_every_row_is_full_and_no_token_stands_twice(packing: Packing, lengths: list[int], size: int) -> None:
    rows = places(packing(np.array(lengths, np.int64), size))
    assert len(rows) == sum(lengths) // size
    assert all(len(row) == size for row in rows)
    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= {(span, token) for span, length in enumerate(lengths) for token in range(length)}


@given(LENGTHS, st.integers(1, 12))
def test_concatenated_rows_joined_are_the_documents_joined(lengths: list[int], size: int) -> None:
    joined = [(span, token) for span, length in enumerate(lengths) for token in range(length)]
    packed = [token for row in places(concatenate(np.array(lengths, np.int64), size)) for token in row]
    assert packed == joined[:len(packed)]


@given(st.lists(st.integers(1, 12), min_size=30, max_size=60))
def test_best_fit_cuts_no_more_documents_than_chopping(lengths: list[int]) -> None:
    array = np.array(lengths, np.int64)
    assert spans_cut(best_fit(array, 12), array, 12) <= spans_cut(concatenate(array, 12), array, 12) + 1


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_shuffling_rows_moves_them_whole(packing: Packing, lengths: list[int], size: int) -> None:
    layout = packing(np.array(lengths, np.int64), size)
    order = np.random.default_rng(len(lengths)).permutation(layout.rows)
    rows = places(layout)
    assert places(shuffled_rows(layout, order)) == [rows[number] for number in order]
