"""Layouts as rows that one can check by eye."""

from assets.packing import Layout


def places(layout: Layout) -> list[list[tuple[int, int]]]:
    """For each row the (span, token) at each of its places, found through `at`."""
    rows: list[dict[int, tuple[int, int]]] = [{} for _ in range(layout.rows)]
    pieces = zip(layout.span, layout.start, layout.stop, layout.row, layout.at, strict=True)
    for span, start, stop, row, at in pieces:
        for token in range(start, stop):
            place = int(at + token - start)
            assert place not in rows[row], "two tokens at one place"
            rows[row][place] = (int(span), int(token))
    return [[row[place] for place in sorted(row)] for row in rows]


def tokens_of(lengths: list[int]) -> list[tuple[int, int]]:
    """Every (span, token) of spans with these lengths, in order."""
    return [(span, token) for span, length in enumerate(lengths) for token in range(length)]
