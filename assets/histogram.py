"""Lengths in bins of doubling width, as context lengths double: how many documents, and how many
tokens are in them.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def histogram(lengths: NDArray[np.int64]) -> pd.DataFrame:
    """Documents and tokens in bins of doubling width: more than `lower` and at most `upper` tokens.

    A piece cut at a power of two so stands below it, not above. A document of one token counts
    among those of two.
    """
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
    first = int(np.flatnonzero(documents)[0]) if documents.any() else 0
    return table.iloc[first:].reset_index(drop=True)
