"""Recipes keep what they promise: shares of domains, shares of long documents, and no more than there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.recipes import Pieces, Recipe, budgets, cut_documents, fill, keyed_order
from assets.stage import UserError

WEIGHTS = {"book": 0.2, "web": 0.8}
LONG = {"book": 0.9, "web": 0.3}


def pieces(lengths: list[int]) -> Pieces:
    """Whole documents of these lengths, with ids 1, 2, 3 and so on."""
    return cut_documents(np.arange(1, len(lengths) + 1, dtype=np.uint64), np.arange(len(lengths)),
                         np.array(lengths, np.int64), 10**9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(2, 15))
def test_cutting_keeps_every_token_once_in_order(lengths: list[int], cut: int) -> None:
    identities = np.arange(len(lengths), dtype=np.uint64)
    cuts = cut_documents(identities, np.arange(len(lengths)), np.array(lengths, np.int64), cut)
    seen = [(row, token) for row, start, stop in zip(cuts.document, cuts.start, cuts.stop, strict=True)
            for token in range(start, stop)]
    assert seen == [(row, token) for row, length in enumerate(lengths) for token in range(length)]
    assert cuts.length.max() <= cut


def test_per_source_keeps_each_domains_share_and_lifts_the_long_share_inside_it() -> None:
    wanted = budgets(Recipe(cut=100, long_share=0.7), WEIGHTS, LONG, 1000)
    assert wanted["web", True] + wanted["web", False] == pytest.approx(800)
    assert wanted["web", True] == pytest.approx(560)
    assert wanted["book", True] == pytest.approx(180), "a domain already above the target keeps its own share"


def test_pooled_upsampling_reaches_the_share_in_all_and_lets_domains_drift() -> None:
    wanted = budgets(Recipe(cut=100, long_share=0.7, across_domains=True), WEIGHTS, LONG, 1000)
    assert sum(wanted.values()) == pytest.approx(1000)
    assert wanted["book", True] + wanted["web", True] == pytest.approx(700)
    assert wanted["book", True] + wanted["book", False] > 200


@given(st.floats(0, 1), st.booleans())
def test_budgets_sum_to_the_token_budget(long_share: float, across: bool) -> None:
    wanted = budgets(Recipe(cut=100, long_share=long_share, across_domains=across), WEIGHTS, LONG, 1000)
    assert sum(wanted.values()) == pytest.approx(1000)
    assert min(wanted.values()) >= -1e-9


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(0.05, 2.9))
def test_filling_comes_within_half_a_document_and_repeats_no_more_than_allowed(lengths: list[int], passes: float
                                                                               ) -> None:
    budget = passes * sum(lengths)
    chosen = fill(pieces(lengths), budget, 3, "web", 0, "web")
    assert abs(int(chosen.length.sum()) - budget) <= max(lengths) / 2 + 1e-6
    assert np.bincount(chosen.document).max(initial=0) <= 3


def test_what_the_corpus_cannot_give_is_refused_with_the_most_it_can() -> None:
    with pytest.raises(UserError, match=r"web, long documents: 100 tokens wanted, but 2 pieces .* give 60"):
        fill(pieces([10, 20]), 100, 2, "web, long documents", 0)


@given(st.permutations(range(8)))
def test_the_draw_depends_on_documents_and_not_on_where_they_lie(order: list[int]) -> None:
    documents = pieces([5, 6, 7, 8, 9, 10, 11, 12])
    shuffled = documents.take(np.array(order))
    first = documents.identity[keyed_order(documents, 0, "x")]
    second = shuffled.identity[keyed_order(shuffled, 0, "x")]
    assert first.tolist() == second.tolist()
