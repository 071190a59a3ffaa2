"""The verdict says what its tables say, also where the result is bad or a score is missing."""

import pandas as pd
import pytest

from evaluation.plots import verdict as picture
from evaluation.verdict import chosen, reach, sentences

NEEDLE = pd.DataFrame(
    {
        "model": ["base"] * 4 + ["long"] * 4,
        "length": [64, 128, 256, 512] * 2,
        "exact_match": [1.0, 0.5, 0.9, 0.0] + [1.0, 0.8, 0.85, 0.25],
    }
)
RESULTS = pd.DataFrame(
    {
        "model": ["base", "long"],
        "tokens trained": [0, 4096],
        "needle": [80.0, 88.3],
        "short context": [61.0, 58.5],
        "drop": [0.0, 2.5],
    }
)
FACTS = {"base_context": 64, "trained": 256}


def test_a_gap_ends_the_reach() -> None:
    assert reach(NEEDLE, "base") == 64, "256 is read again, but 128 is not"
    assert reach(NEEDLE, "long") == 256, "0.8 itself counts as read"


@pytest.mark.parametrize("score", [0.79, float("nan")])
def test_a_first_length_not_read_is_no_reach(score: float) -> None:
    rows = pd.DataFrame({"model": "m", "length": [64, 128], "exact_match": [score, 1.0]})
    assert reach(rows, "m") is None


def test_the_verdict_is_about_a_trained_model_or_the_named_one() -> None:
    better_base = RESULTS.assign(needle=[99.0, 10.0])
    assert chosen(better_base, None) == "long"
    assert chosen(better_base, "base") == "base"
    assert chosen(RESULTS[:1], None) == "base", "nothing was trained"
    assert chosen(RESULTS.assign(needle=float("nan")), None) == "long"


def test_three_sentences_say_extension_needle_and_cost() -> None:
    assert sentences(RESULTS, NEEDLE, FACTS, "long", "base") == [
        "long extends a context of 64 tokens to 256, by training on 4,096 tokens.",
        "Up to 256 tokens it finds 88 % of the needles, at least 80 % of them up to 256; base "
        "finds 80 %, at least 80 % of them up to 64.",
        "At short context it scores 58.5 %, 2.5 points below base.",
    ]


@pytest.mark.parametrize(
    ("short", "drop", "said"),
    [
        (None, None, "Its scores at short context were not measured."),
        (58.5, None, "At short context it scores 58.5 %; there is no score to compare with."),
        (61.0, 0.04, "At short context it scores 61.0 %, the same as base."),
        (63.0, -2.0, "At short context it scores 63.0 %, 2.0 points above base."),
    ],
)
def test_a_missing_or_better_short_score_is_said_so(
    short: float | None, drop: float | None, said: str
) -> None:
    results = RESULTS.assign(**{"short context": [61.0, short], "drop": [0.0, drop]})
    assert sentences(results, NEEDLE, FACTS, "long", "base")[2] == said


def test_a_needle_that_was_not_asked_for_is_said_so() -> None:
    """As of an endpoint, if all lengths are beyond its context."""
    results = RESULTS.assign(needle=[35.0, None])
    found = sentences(results, NEEDLE, FACTS, "long", "base")[1]
    assert "it was asked for no needle; base finds 35 %" in found and "nan" not in found


def test_without_an_untrained_model_nothing_is_compared() -> None:
    found = sentences(RESULTS[1:], NEEDLE, FACTS, "long", "base")
    assert "base" not in found[1]
    own = sentences(RESULTS, NEEDLE, FACTS, "base", "base")
    assert own[0].startswith("base was not trained") and own[1].count("finds") == 1


@pytest.mark.parametrize("other", ["x", "others", "_x"])
@pytest.mark.parametrize("result", ["long", "_long"])
def test_the_picture_has_every_model_and_two_in_colour(result: str, other: str) -> None:
    needle = NEEDLE.replace({"model": {"long": result}})
    more = pd.concat([needle, NEEDLE[:4].assign(model=other), NEEDLE[:4].assign(model="y")])
    axes = picture(more, result, "base", 64, 256).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(drawn) == 4
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [result, "base", "others"]
