"""Differences in loss are paired by document and weighted by token; noise is not significant."""

import numpy as np
import pandas as pd

from evaluation.bootstrap import differences, marked


def documents(model: str, sums: list[float], tokens: list[int]) -> pd.DataFrame:
    """Documents 0, 1, ... of one domain and band."""
    return pd.DataFrame(
        {
            "model": model,
            "domain": "book",
            "document": [f"{i}" for i in range(len(sums))],
            "band": "0-256",
            "sum": sums,
            "tokens": tokens,
        }
    )


def test_a_difference_is_over_the_tokens_of_shared_documents() -> None:
    original, shorter = (
        documents("original", [10, 30, 99], [10, 30, 9]),
        documents("other", [12, 33], [10, 30]),
    )
    table = differences(pd.concat([original, shorter]), "original")
    other = table[table["model"] == "other"].iloc[0]
    assert other["difference"] == 5 / 40 and other["loss"] == 45 / 40
    assert table[table["model"] == "original"]["difference"].tolist() == [0]


def test_the_interval_leaves_zero_out_only_where_documents_agree() -> None:
    tokens, draw = [100] * 40, np.random.default_rng(0)
    base = draw.normal(200, 20, 40)
    noise = documents("noise", list(base + draw.normal(0, 5, 40)), tokens)
    shift, original = (
        documents("shift", list(base + 3), tokens),
        documents("original", list(base), tokens),
    )
    table = differences(pd.concat([original, noise, shift]), "original").set_index("model")
    assert table.loc["noise", "low"] < 0 < table.loc["noise", "high"]
    assert marked(table.loc["shift"]) == "+0.030*°"
    assert "°" not in marked(table.loc["noise"])


def test_the_same_documents_give_the_same_interval() -> None:
    both = pd.concat(
        [documents("original", [1, 2, 3], [1, 1, 1]), documents("other", [2, 2, 2], [1, 1, 1])]
    )
    pd.testing.assert_frame_equal(differences(both, "original"), differences(both, "original"))
