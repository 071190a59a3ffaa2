"""The verdict at the top of the comparison: three sentences for readers who read nothing else.

From what length to what length the model was extended, whether it finds the needle there, and what
it lost at short context. The model is named in params.yaml (`comparison.result`) or is the one with
the best needle. The cost of a best one: among models that do not differ, it is the luckiest.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

FOUND = 0.8
"""Exact match from which a length counts as read: four of five trials."""


def chosen(results: pd.DataFrame, wanted: str | None) -> str:
    """The model that the verdict is about: `wanted`, or the trained one with the best needle.

    results: of comparison_tables.results_table. With no trained model, the best of all.
    """
    if wanted is not None:
        return wanted
    trained = results[results["tokens trained"] > 0]
    candidates = trained if len(trained) else results
    # Without any needle score, the first of them.
    scores = candidates["needle"].fillna(-1.0)
    return str(candidates["model"].iloc[int(scores.argmax())])


def reach(needle: pd.DataFrame, model: str) -> int | None:
    """The longest length up to which the model finds the needle, in tokens; None at no length.

    needle: one row per model and length: model, length, exact_match (0 to 1). Every shorter length
    must be read too: a gap ends the reach.
    """
    found = None
    rows = needle[needle["model"] == model].sort_values("length")
    for length, score in zip(rows["length"], rows["exact_match"], strict=True):
        # Not (score < FOUND): a missing score is no success.
        if not score >= FOUND:
            break
        found = int(length)
    return found


def sentences(
    results: pd.DataFrame,
    needle: pd.DataFrame,
    facts: Mapping[str, Any],
    result: str,
    untrained: str,
) -> list[str]:
    """The three sentences: the extension, the needle, short context.

    results, needle: tables of the comparison. facts: base_context and trained, in tokens.
    result: the model of the verdict. untrained: the one before the extension.
    """
    rows = {str(row["model"]): row for row in results.to_dict("records")}
    after = rows[result]
    before = rows.get(untrained) if untrained != result else None
    extension = (
        f"{result} extends a context of {facts['base_context']:,} tokens to {facts['trained']:,}, "
        f"by training on {int(after['tokens trained']):,} tokens."
    )
    if not after["tokens trained"]:
        extension = (
            f"{result} was not trained; its base's context is {facts['base_context']:,} tokens, "
            f"the longest context here {facts['trained']:,}."
        )

    found = f"Up to {facts['trained']:,} tokens {_found('it', after, needle, ' of the needles')}"
    if before is not None:
        found += f"; {_found(untrained, before, needle)}"
    return [extension, f"{found}.", _short_context(after, before, untrained)]


def _found(who: str, row: Mapping[Hashable, Any], needle: pd.DataFrame, what: str = "") -> str:
    """What a model finds and how far, as a part of a sentence.

    who: the model, as the subject. row: of the results. what: said of the first share.
    """
    if pd.isna(row["needle"]):
        return f"{who} was asked for no needle"
    far = _reach(reach(needle, str(row["model"])))
    return f"{who} finds {row['needle']:.0f} %{what}, {far}"


def _reach(length: int | None) -> str:
    """How far the needle is found, as a part of a sentence."""
    share = f"{FOUND:.0%}".replace("%", " %")
    if length is None:
        return f"at no length {share} of them"
    return f"at least {share} of them up to {length:,}"


def _short_context(
    after: Mapping[Hashable, Any], before: Mapping[Hashable, Any] | None, untrained: str
) -> str:
    """What the extension cost at short context, as a sentence."""
    if pd.isna(after["short context"]):
        return "Its scores at short context were not measured."
    score = f"At short context it scores {after['short context']:.1f} %"
    if before is None or pd.isna(after["drop"]):
        return f"{score}; there is no score to compare with."
    drop = float(after["drop"])
    if round(drop, 1) == 0:
        return f"{score}, the same as {untrained}."
    side = "below" if drop > 0 else "above"
    return f"{score}, {abs(drop):.1f} points {side} {untrained}."
