"""Packing loses nothing, reorders nothing and invents nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assets.packing import pack

SPANS = st.lists(st.tuples(st.sampled_from(["book", "c4"]), st.lists(st.integers(0, 99), max_size=30)), max_size=20)


def test_three_documents_chop_into_rows_wherever_the_row_ends() -> None:
    documents = {"a": [1, 2, 3], "b": [4, 5, 6, 7], "c": [8, 9]}
    rows = list(pack(((name, np.array(ids, np.uint16)) for name, ids in documents.items()), 4))
    assert [row.tokens.tolist() for row in rows] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert rows[0].sources == [("a", 0, 3), ("b", 3, 4)]
    assert rows[1].sources == [("b", 0, 3), ("c", 3, 4)]


@given(SPANS, st.integers(1, 12))
def test_rows_joined_are_the_spans_joined_but_for_less_than_one_row(spans: list[tuple[str, list[int]]], size: int
                                                                    ) -> None:
    rows = list(pack(((name, np.array(ids, np.uint16)) for name, ids in spans), size))
    joined = [token for _, ids in spans for token in ids]
    packed = [token for row in rows for token in row.tokens.tolist()]
    assert packed == joined[:len(packed)]
    assert len(joined) - len(packed) < size
    assert all(len(row.tokens) == size for row in rows)


@given(SPANS, st.integers(1, 12))
def test_the_sources_tile_each_row_and_name_where_each_token_came_from(spans: list[tuple[str, list[int]]], size: int
                                                                       ) -> None:
    owners = [name for name, ids in spans for _ in ids]
    position = 0
    for row in pack(((name, np.array(ids, np.uint16)) for name, ids in spans), size):
        assert row.sources[0][1] == 0 and row.sources[-1][2] == size
        assert all(left[2] == right[1] for left, right in zip(row.sources, row.sources[1:], strict=False))
        assert [name for name, start, end in row.sources for _ in range(start, end)] == owners[position:position + size]
        position += size
