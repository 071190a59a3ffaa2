"""Packing loses nothing but one remainder, and invents nothing: every place of every row names
where it came from."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.packing import (
    MOST_PIECES,
    Layout,
    best_fit,
    concatenate,
    copies_together,
    cuts,
    shuffled_rows,
    spans_cut,
)

LENGTHS = st.lists(st.integers(0, 30), max_size=25)
Packing = Callable[[np.ndarray, int], Layout]
BOTH = pytest.mark.parametrize("packing", [concatenate, best_fit])


def places(layout: Layout) -> list[list[tuple[int, int]]]:
    """Each row as the (span, token) that stands at each of its places, found through `at`."""
    rows: list[dict[int, tuple[int, int]]] = [{} for _ in range(layout.rows)]
    for span, start, stop, row, at in zip(
        layout.span, layout.start, layout.stop, layout.row, layout.at, strict=True
    ):
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
    assert sorted(sorted({span for span, _ in row}) for row in places(layout)) == [
        [0, 4],
        [1, 3],
        [2],
    ]
    assert spans_cut(layout, np.array([3, 2, 4, 2, 1]), 4) == 0
    assert spans_cut(concatenate(np.array([3, 2, 4, 2, 1]), 4), np.array([3, 2, 4, 2, 1]), 4) == 2


def in_one_row(layout: Layout, texts: list[int]) -> int:
    """How many spans share a row with an earlier copy."""
    rows = [{span for span, _ in row} for row in places(layout)]
    return sum(len(row) - len({texts[span] for span in row}) for row in rows)


@st.composite
def worlds_of_copies(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Lengths, texts and the length of a row; some texts stand two or three times, each copy of one
    length."""
    size = draw(st.integers(4, 12))
    longest = size * draw(st.sampled_from([1, 1, 2]))
    of_text = draw(
        st.lists(st.tuples(st.integers(1, longest), st.integers(1, 3)), min_size=1, max_size=12)
    )
    spans = [(length, text) for text, (length, copies) in enumerate(of_text) for _ in range(copies)]
    lengths, texts = (list(column) for column in zip(*draw(st.permutations(spans)), strict=True))
    return lengths, texts, size


@given(worlds_of_copies())
def test_copies_are_apart_where_a_text_has_at_most_half_as_many_as_there_are_rows(
    world: tuple[list[int], list[int], int],
) -> None:
    lengths, texts, size = world
    layout = best_fit(np.array(lengths), size, np.array(texts))
    together = in_one_row(layout, texts)
    assert copies_together(layout, np.array(texts)) == together
    if 2 * max(texts.count(text) for text in texts) <= layout.rows and max(lengths) <= size:
        assert together == 0


@given(worlds_of_copies())
def test_with_copies_too_rows_are_full_and_no_token_stands_twice(
    world: tuple[list[int], list[int], int],
) -> None:
    lengths, texts, size = world
    rows = places(best_fit(np.array(lengths), size, np.array(texts)))
    assert [len(row) for row in rows] == [size] * (sum(lengths) // size)
    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= {
        (span, token) for span, length in enumerate(lengths) for token in range(length)
    }


def test_two_copies_that_fit_one_row_stand_in_two() -> None:
    lengths, texts = np.array([2, 2, 2, 2]), np.array([7, 7, 8, 8])
    assert sorted(
        sorted(int(texts[span]) for span, _ in row[::2])
        for row in places(best_fit(lengths, 4, texts))
    ) == [[7, 8], [7, 8]]


def test_a_copy_moves_into_a_row_that_is_full_already() -> None:
    """One long text and a short one twice: the long one must be cut for the copies to be apart."""
    layout = best_fit(np.array([4, 2, 2]), 4, np.array([1, 2, 2]))
    assert in_one_row(layout, [1, 2, 2]) == 0 and spans_cut(layout, np.array([4, 2, 2]), 4) == 1


def test_copies_share_a_row_only_where_there_is_no_other() -> None:
    assert in_one_row(best_fit(np.array([2, 2]), 4, np.array([1, 1])), [1, 1]) == 1


def test_repeated_pages_are_apart_and_hardly_cut() -> None:
    """64 pages four times over: it used to put 87 copies beside each other and to cut one page into
    57 pieces."""
    pages = np.random.default_rng(0).lognormal(np.log(400), 0.8, 64).astype(np.int64) + 5
    lengths, texts = np.tile(pages, 4), np.tile(np.arange(64), 4)
    layout = best_fit(lengths, 2048, texts)
    assert copies_together(layout, texts) == 0
    assert cuts(layout, lengths, 2048) <= layout.rows // 3
    assert np.bincount(layout.span).max() <= MOST_PIECES


def test_pages_close_nearly_every_row_and_none_is_shredded() -> None:
    """5,000 pages in 1,300 rows: it used to cut 189 times, one page into 129 pieces with a median
    of 3 tokens."""
    lengths = np.minimum(
        np.random.default_rng(0).lognormal(np.log(400), 0.8, 5000).astype(np.int64) + 5, 2048
    )
    layout = best_fit(lengths, 2048)
    pieces = np.bincount(layout.span, minlength=len(lengths))
    assert cuts(layout, lengths, 2048) <= layout.rows // 100
    assert pieces.max() <= MOST_PIECES
    assert np.median(layout.length[pieces[layout.span] > 1]) >= 32


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 20))
def test_a_row_costs_at_most_one_cut(lengths: list[int], size: int) -> None:
    """No way to fill rows that no spans fill exactly can do with fewer than one for each but the
    last."""
    array = np.array(lengths, np.int64)
    layout = best_fit(array, size)
    assert cuts(layout, array, size) <= layout.rows


@pytest.mark.parametrize(
    ("lengths", "size", "spans", "number"),
    [
        ([4, 4], 4, 0, 0),
        ([3, 3, 2], 4, 1, 1),
        ([9], 4, 1, 0),
        ([3, 6, 3], 4, 1, 1),
        ([2, 8, 2], 4, 1, 1),
        ([2, 1], 2, 0, 0),
    ],
)
def test_a_span_counts_as_cut_when_it_has_more_pieces_than_rows_it_fills(
    lengths: list[int], size: int, spans: int, number: int
) -> None:
    """Chopped: of 3, 3, 2 in rows of 4 the second is in two; 9 loses a token; 6 after 3, and 8
    after 2, are in three pieces where two would do."""
    array = np.array(lengths)
    layout = concatenate(array, size)
    assert (spans_cut(layout, array, size), cuts(layout, array, size)) == (spans, number)


def test_the_rest_of_a_long_span_counts_when_it_is_cut() -> None:
    """10 tokens in rows of 4 need three pieces; where two 3s and two 1s surround the rest of 2, it
    can stay whole."""
    layout = best_fit(np.array([10, 3, 3]), 4)
    pieces = np.bincount(layout.span)
    assert spans_cut(layout, np.array([10, 3, 3]), 4) == 1 == int((pieces > [3, 1, 1]).sum())


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_every_row_is_full_and_no_token_stands_twice(
    packing: Packing, lengths: list[int], size: int
) -> None:
    rows = places(packing(np.array(lengths, np.int64), size))
    assert len(rows) == sum(lengths) // size
    assert all(len(row) == size for row in rows)
    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= {
        (span, token) for span, length in enumerate(lengths) for token in range(length)
    }


@given(LENGTHS, st.integers(1, 12))
def test_concatenated_rows_joined_are_the_documents_joined(lengths: list[int], size: int) -> None:
    joined = [(span, token) for span, length in enumerate(lengths) for token in range(length)]
    packed = [
        token for row in places(concatenate(np.array(lengths, np.int64), size)) for token in row
    ]
    assert packed == joined[: len(packed)]


@given(st.lists(st.integers(1, 12), min_size=30, max_size=60))
def test_best_fit_cuts_no_more_documents_than_chopping(lengths: list[int]) -> None:
    array = np.array(lengths, np.int64)
    assert (
        spans_cut(best_fit(array, 12), array, 12)
        <= spans_cut(concatenate(array, 12), array, 12) + 1
    )


@BOTH
@given(LENGTHS, st.integers(1, 12))
def test_shuffling_rows_moves_them_whole(packing: Packing, lengths: list[int], size: int) -> None:
    layout = packing(np.array(lengths, np.int64), size)
    order = np.random.default_rng(len(lengths)).permutation(layout.rows)
    rows = places(layout)
    assert places(shuffled_rows(layout, order)) == [rows[number] for number in order]
