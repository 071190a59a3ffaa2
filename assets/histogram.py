"""Lengths in bins of doubling width, as context lengths double: how many documents, and how many tokens are in them."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def histogram(lengths: NDArray[np.int64]) -> pd.DataFrame:
    """Documents and tokens in bins [lower, upper) of doubling width, from the shortest to the longest document."""
    highest = int(lengths.max(initial=1)).bit_length()
    edges = 1 << np.arange(highest + 1)
    documents, _ = np.histogram(lengths, edges)
    tokens, _ = np.histogram(lengths, edges, weights=lengths)
    table = pd.DataFrame({"lower": edges[:-1], "upper": edges[1:], "documents": documents,
                          "tokens": tokens.astype(np.int64)})
    first = int(np.flatnonzero(documents)[0]) if documents.any() else 0
    return table.iloc[first:].reset_index(drop=True)
