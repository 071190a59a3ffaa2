"""Best fit cuts few spans, cuts none into crumbs, and puts copies into different rows.

Run it alone: pytest tests/assets/test_best_fit.py
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from layouts import places, tokens_of

from assets.best_fit import MOST_PIECES, best_fit
from assets.packing import Layout, concatenate, copies_together, cuts, spans_cut


def in_one_row(layout: Layout, texts: list[int]) -> int:
    """The number of spans that share a row with an earlier copy."""
    rows = [{span for span, _ in row} for row in places(layout)]
    return sum(len(row) - len({texts[span] for span in row}) for row in rows)


def web_pages(count: int) -> np.ndarray:
    """Lengths of web pages: log-normal, with a median of about 400 tokens."""
    return np.random.default_rng(0).lognormal(np.log(400), 0.8, count).astype(np.int64) + 5


@st.composite
def worlds_of_copies(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Lengths, texts and the length of a row. Some texts occur two or three times."""
    size = draw(st.integers(4, 12))
    longest = size * draw(st.sampled_from([1, 1, 2]))
    of_text = draw(
        st.lists(st.tuples(st.integers(1, longest), st.integers(1, 3)), min_size=1, max_size=12)
    )
    spans: list[tuple[int, int]] = []
    for text, (length, copies) in enumerate(of_text):
        spans += [(length, text)] * copies
    lengths, texts = (list(column) for column in zip(*draw(st.permutations(spans)), strict=True))
    return lengths, texts, size


def test_best_fit_keeps_documents_whole_if_they_fit() -> None:
    lengths = np.array([3, 2, 4, 2, 1])
    layout = best_fit(lengths, 4)
    spans = sorted(sorted({span for span, _ in row}) for row in places(layout))
    assert spans == [[0, 4], [1, 3], [2]]
    assert spans_cut(layout, lengths, 4) == 0
    assert spans_cut(concatenate(lengths, 4), lengths, 4) == 2


@given(worlds_of_copies())
def test_copies_are_apart_if_they_are_at_most_half_the_rows(
    world: tuple[list[int], list[int], int],
) -> None:
    lengths, texts, size = world
    layout = best_fit(np.array(lengths), size, np.array(texts))
    together = in_one_row(layout, texts)
    assert copies_together(layout, np.array(texts)) == together

    most_copies = max(texts.count(text) for text in texts)
    if 2 * most_copies <= layout.rows and max(lengths) <= size:
        assert together == 0


@given(worlds_of_copies())
def test_rows_are_full_and_tokens_unique_also_with_copies(
    world: tuple[list[int], list[int], int],
) -> None:
    lengths, texts, size = world
    rows = places(best_fit(np.array(lengths), size, np.array(texts)))
    assert [len(row) for row in rows] == [size] * (sum(lengths) // size)

    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) == len(tokens)
    assert set(tokens) <= set(tokens_of(lengths))


def test_two_copies_that_fit_one_row_stand_in_two() -> None:
    lengths, texts = np.array([2, 2, 2, 2]), np.array([7, 7, 8, 8])
    rows = places(best_fit(lengths, 4, texts))
    assert [sorted(int(texts[span]) for span, _ in row[::2]) for row in rows] == [[7, 8], [7, 8]]


def test_a_copy_moves_into_a_row_that_is_full_already() -> None:
    """A long text and two short copies: the long one must be cut to separate the copies."""
    lengths = np.array([4, 2, 2])
    layout = best_fit(lengths, 4, np.array([1, 2, 2]))
    assert in_one_row(layout, [1, 2, 2]) == 0
    assert spans_cut(layout, lengths, 4) == 1


def test_copies_share_a_row_only_if_there_is_no_other() -> None:
    layout = best_fit(np.array([2, 2]), 4, np.array([1, 1]))
    assert in_one_row(layout, [1, 1]) == 1


def test_repeated_pages_are_apart_and_hardly_cut() -> None:
    """64 pages, four times. An earlier version put 87 copies together and cut a page 57 times."""
    lengths, texts = np.tile(web_pages(64), 4), np.tile(np.arange(64), 4)
    layout = best_fit(lengths, 2048, texts)
    assert copies_together(layout, texts) == 0
    assert cuts(layout, lengths, 2048) <= layout.rows // 3
    assert np.bincount(layout.span).max() <= MOST_PIECES


def test_pages_close_nearly_every_row_and_none_is_shredded() -> None:
    """5,000 pages, 1,300 rows. An earlier version cut 189 times, one page into 129 pieces."""
    lengths = np.minimum(web_pages(5000), 2048)
    layout = best_fit(lengths, 2048)
    pieces = np.bincount(layout.span, minlength=len(lengths))
    assert cuts(layout, lengths, 2048) <= layout.rows // 100
    assert pieces.max() <= MOST_PIECES
    assert np.median(layout.length[pieces[layout.span] > 1]) >= 32


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 20))
def test_a_row_costs_at_most_one_cut(lengths: list[int], size: int) -> None:
    """If no spans fill a row exactly, no packing can do with fewer than one cut a row."""
    array = np.array(lengths, np.int64)
    layout = best_fit(array, size)
    assert cuts(layout, array, size) <= layout.rows


def test_the_rest_of_a_long_span_counts_when_it_is_cut() -> None:
    """10 tokens in rows of 4 need three pieces. The two spans of 3 leave no room for the rest."""
    lengths = np.array([10, 3, 3])
    layout = best_fit(lengths, 4)
    pieces = np.bincount(layout.span)
    assert spans_cut(layout, lengths, 4) == 1 == int((pieces > [3, 1, 1]).sum())


@given(st.lists(st.integers(1, 12), min_size=30, max_size=60))
def test_best_fit_cuts_no_more_documents_than_chopping(lengths: list[int]) -> None:
    array = np.array(lengths, np.int64)
    chopped = spans_cut(concatenate(array, 12), array, 12)
    assert spans_cut(best_fit(array, 12), array, 12) <= chopped + 1
