"""A task's score is its own first metric, in the task's direction and on the metric's scale."""

from typing import Any

import pytest

from core.errors import UserError
from evaluation.task_metrics import scores_of


@pytest.mark.parametrize(
    ("results", "more", "name", "filtered", "higher", "scale", "value"),
    [
        # The first metric that the task lists, and not the first one of the results.
        (
            {"acc_norm,none": 0.5, "acc,none": 0.25},
            {"acc": True, "acc_norm": True},
            *("acc", "none", True, "percent", 25),
        ),
        # A task with filters: the first of them.
        (
            {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 0.75},
            {"exact_match": True},
            *("exact_match", "strict-match", True, "percent", 50),
        ),
        ({"f1,none": 0.5}, {"f1": True}, "f1", "none", True, "percent", 50),
        ({"rouge1,none": 0.5}, {"rouge1": True}, "rouge1", "none", True, "percent", 50),
        ({"rougeLsum,none": 0.5}, {"rougeLsum": None}, "rougeLsum", "none", True, "percent", 50),
        ({"qa_f1_score,none": 0.5}, {"qa_f1_score": True}, "qa_f1_score", "none", True, "percent", 50),
        ({"pass@1,create_test": 0.5}, {"pass@1": True}, "pass@1", "create_test", True, "percent", 50),
        # Of 0 to 100: 0.5 is half a percent.
        ({"bleu,none": 0.5}, {"bleu": True}, "bleu", "none", True, "percent", 0.5),
        ({"exact,none": 34.5, "f1,none": 40}, {"exact": True}, "exact", "none", True, "percent", 34.5),
        # No shares: as the task gives it.
        ({"word_perplexity,none": 12.5}, {"word_perplexity": False}, "word_perplexity", "none", False, "own", 12.5),
        ({"score,none": 0.5}, {"score": False}, "score", "none", False, "own", 0.5),
        ({"mcc,none": -0.5}, {"mcc": True}, "mcc", "none", True, "own", -0.5),
        # The first metric has no number here.
        (
            {"bertscore,none": [0.5], "acc,none": 1.0},
            {"bertscore": True, "acc": True},
            *("acc", "none", True, "percent", 100),
        ),
        (
            {"f1,none": float("nan"), "acc,none": 1.0},
            {"f1": True, "acc": True},
            *("acc", "none", True, "percent", 100),
        ),
    ],
)  # fmt: skip
def test_the_first_metric_of_the_task_is_its_score(
    results: dict[str, Any],
    more: dict[str, Any],
    name: str,
    filtered: str,
    higher: bool,
    scale: str,
    value: float,
) -> None:
    (score,) = scores_of("t", {"alias": "t", **results, "acc_stderr,none": "N/A"}, more, {})
    assert (score.metric.name, score.metric.filter) == (name, filtered)
    assert (score.metric.higher_is_better, score.metric.scale) == (higher, scale)
    assert score.value == pytest.approx(value) and score.key == name


def test_a_mean_of_bleu_over_documents_is_not_taken_for_percent() -> None:
    """lm-eval's own BLEU over a corpus is 0 to 100; a package's mean over documents is 0 to 1."""
    (score,) = scores_of("t", {"bleu,none": 0.5}, {"bleu": True}, {"bleu": "nanmean"})
    assert (score.metric.scale, score.value) == ("own", 0.5)
    (score,) = scores_of("t", {"bleu,none": 0.5}, {"bleu": True}, {"bleu": "nanmean"}, scale=1)
    assert (score.metric.scale, score.value) == ("percent", 50)


def test_a_user_names_another_metric_with_or_without_its_filter() -> None:
    results = {"exact_match,strict": 0.25, "exact_match,loose": 0.5, "acc,none": 1.0}
    more = {"acc": True, "exact_match": True}
    found = {
        metric: scores_of("t", results, more, {}, metric)[0].value
        for metric in (None, "exact_match", "exact_match,loose")
    }
    assert found == {None: 100, "exact_match": 25, "exact_match,loose": 50}
    with pytest.raises(UserError, match=r"t: lm-eval gives no metric f1, only exact_match,strict"):
        scores_of("t", results, more, {}, "f1")


def test_a_score_outside_of_its_scale_is_refused_and_not_guessed() -> None:
    with pytest.raises(UserError, match="t: f1 = 34.5 is not from 0 to 1. Set `scale`"):
        scores_of("t", {"f1,none": 34.5}, {"f1": True}, {})
    (score,) = scores_of("t", {"f1,none": 34.5}, {"f1": True}, {}, scale=100)
    assert (score.metric.scale, score.value) == ("percent", 34.5)
    (score,) = scores_of("t", {"f1,none": 34.5}, {"f1": True}, {}, scale=0)
    assert (score.metric.scale, score.value) == ("own", 34.5)


def test_ruler_has_a_score_for_each_length_that_was_asked() -> None:
    results = {"4096,none": -1, "8192,none": 0.75, "16384,none": 0.5, "8192_stderr,none": "N/A"}
    found = scores_of("t", results, {"4096": True, "8192": True}, {})
    assert [(score.suffix, score.value) for score in found] == [(" 8192", 75), (" 16384", 50)]
    with pytest.raises(UserError, match="t: lm-eval gives no score for any length"):
        scores_of("t", {"4096,none": -1}, {"4096": True}, {})
