"""Histogram: documents and tokens by document length, in bins of doubling width.

The widths double because context lengths do. The cost: a bin holds lengths that differ by up to a
factor of two.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def histogram(lengths: NDArray[np.int64]) -> pd.DataFrame:
    """Documents and tokens in bins of doubling width: more than `lower` and at most `upper` tokens.

    Columns: lower, upper, documents, tokens (all int64).
    So a piece that is cut at a power of two is in the bin below it. A document of one token is in
    the first bin, with those of two.
    """
    # np.histogram has bins that include their lower edge. One less, and they include the upper one.
    below = np.maximum(lengths - 1, 1)
    edges = 1 << np.arange(int(below.max(initial=1)).bit_length() + 1)
    documents, _ = np.histogram(below, edges)
    tokens, _ = np.histogram(below, edges, weights=lengths)
    table = pd.DataFrame(
        {
            "lower": edges[:-1],
            "upper": edges[1:],
            "documents": documents,
            "tokens": tokens.astype(np.int64),
        }
    )
    # The table begins at the first bin that has a document.
    first = int(np.flatnonzero(documents)[0]) if documents.any() else 0
    return table.iloc[first:].reset_index(drop=True)
