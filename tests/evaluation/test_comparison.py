"""The page shows each score with the flaws of the answers behind it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.sealed import write_json
from evaluation import comparison_page
from evaluation.bootstrap import differences
from evaluation.comparison import _shares, small_drop, trained_length
from evaluation.comparison_config import ComparisonConfig
from evaluation.comparison_tables import (
    answers_table,
    by_length,
    left_out,
    needle_table,
    quantity_table,
    results_table,
)
from evaluation.plots import heatmaps
from evaluation.short_context_report_config import ShortContextReportConfig, Task


def model(**needle: Any) -> dict[str, Any]:
    """The reports of one model: lengths of 64 and 128, the second beyond the trained one."""
    return {
        "tokens_trained": 0,
        "rope_base": 10000,
        "loss": {},
        "short_context": {},
        "needle": {
            "lengths": [64, 128],
            "exact_match": [0.5, 0.0],
            "occurs": [0.75, 0.0],
            "gain": [2.0, None],
            "choice": [None, None],
            "word_overlap": [0.5, 0.0],
            "rouge_1": [0.1, 0.0],
            "empty": [0.25, 1.0],
            "truncated": [0.5, 0.0],
            "repetitive": [0.0, 0.0],
            "gain_standard_error": None,
            "chat": True,
            "beyond_context": [128],
            "warning": None,
            **needle,
        },
        "book_qa": {
            "f1": 0.125,
            "occurs": 0.5,
            "empty": 0.0,
            "truncated": 1.0,
            "repetitive": 0.0,
            "chat": False,
            "warning": "100 % of the answers ...",
        },
    }


SUMMARY = {
    "base_context": 64,
    "models": {"base": model(), "mute": model(warning="25 % of the answers are empty.")},
}


def test_every_score_has_its_prompt_form_and_shares_of_flaws() -> None:
    table = answers_table(SUMMARY, 64).set_index(["model", "report"])
    assert table.loc[("base", "needle")].tolist() == ["in its chat template", 50, 75, 25, 50, 0, ""]
    assert table.loc[("mute", "needle")]["warning"] == "25 % of the answers are empty."
    assert table.loc[("base", "book QA")].tolist() == [
        "in plain text",
        12.5,
        50,
        0,
        100,
        0,
        "100 % of the answers ...",
    ]


def test_what_is_not_by_length_is_in_no_table_of_lengths() -> None:
    assert by_length(model()["needle"])["empty"].tolist() == [0.25, 1]
    assert needle_table(SUMMARY)["length"].tolist() == [64, 128, 64, 128]
    assert "beyond_context" not in needle_table(SUMMARY) and "warning" not in needle_table(SUMMARY)
    results = results_table(SUMMARY, 64, "base").set_index("model")
    assert results.loc["base", ["needle", "occurs", "beyond"]].tolist() == [50, 75, 0]


@pytest.mark.parametrize("notes", [{}, {"mute": "25 % of the answers are empty."}])
def test_a_heatmap_carries_the_warning_of_its_model(notes: dict[str, str]) -> None:
    cells = pd.DataFrame(
        {"length": [64, 128], "depth": 0.0, "exact_match": [0.5, None], "occurs": 1.0, "gain": 0.5}
    )
    figure = heatmaps({"base": cells, "mute": cells}, 64, 64, notes)
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in shown if text.startswith("!")] == [
        f"! {note}" for note in notes.values()
    ]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == [
        "base: exact match",
        "base: answer in the output",
        "base: gain (nats per token)",
    ]


@pytest.mark.parametrize(
    ("scores", "against", "drop", "passed"),
    [
        ({"base": 90.0, "x": 86.0}, "base", 5, True),
        ({"base": 90.0, "x": 84.0}, "base", 5, False),
        ({"base": 90.0, "x": 84.0}, "base", 7, True),
        ({"base": 90.0, "x": float("nan")}, "base", 5, False),
        ({"base": 90.0, "x": 99.0}, "base", 5, True),
        ({"base": 90.0}, "base", 5, None),
        ({"base": 90.0, "x": None}, "base", 5, None),
        ({"base": 90.0, "x": 1.0}, None, 5, None),
    ],
)
def test_a_drop_at_short_context_is_held_to_the_users_limit(
    scores: dict[str, float | None], against: str | None, drop: float, passed: bool | None
) -> None:
    """None of the scores: an endpoint, which gives no probabilities."""
    models = {
        name: {"short_context": {} if score is None else {"mmlu": {"score": score}}}
        for name, score in scores.items()
    }
    config = ShortContextReportConfig(
        tasks={"mmlu": Task(harness="mmlu")}, against=against, drop=drop
    )
    check = small_drop(models, config)
    assert check.passed is passed and not check.blocking
    assert passed is not False or check.found.startswith("x, mmlu: ")


def perplexity(score: float, higher_is_better: bool = False) -> dict[str, Any]:
    """A task's entry in short_context.json whose score is no share."""
    return {
        **{"score": score, "metric": "word_perplexity", "scale": "own"},
        **{"higher_is_better": higher_is_better},
    }


@pytest.mark.parametrize(
    ("base", "after", "passed"),
    [
        (perplexity(10), perplexity(10.4), True),
        (perplexity(10), perplexity(10.6), False),  # 6 % worse
        (perplexity(10), perplexity(5), True),  # less is better
        (perplexity(-0.5, True), perplexity(-0.6, True), False),
        (perplexity(0), perplexity(0), True),
        (perplexity(0), perplexity(0.1), False),
        ({**perplexity(10), "scale": "percent"}, {**perplexity(14), "scale": "percent"}, True),
        ({**perplexity(10), "scale": "percent"}, {**perplexity(16), "scale": "percent"}, False),
    ],
)
def test_a_drop_respects_the_metrics_direction_and_scale(
    base: dict[str, Any], after: dict[str, Any], passed: bool
) -> None:
    """In points of a share; in percent of the base's score where it is none."""
    config = ShortContextReportConfig(
        tasks={"wiki": Task(harness="wikitext")}, against="base", drop=5
    )
    models = {"base": {"short_context": {"wiki": base}}, "x": {"short_context": {"wiki": after}}}
    check = small_drop(models, config)
    assert check.passed is passed
    if base == perplexity(10) and not passed:
        assert check.found == "x, wiki: 6.0 % worse in word_perplexity, 10 to 10.6"


def test_the_short_mean_has_shares_only_and_names_others() -> None:
    rouge = {"score": 30.0, "metric": "rouge1", "scale": "percent", "higher_is_better": True}
    flawed = {**rouge, "empty": 0.5, "truncated": 0.25, "repetitive": 0.0}
    tasks = {
        "mmlu": {"score": 50.0},
        "wiki": perplexity(12.5),
        "sums": {**flawed, "chat": True, "warning": "50 % of the answers are empty."},
    }
    summary = {"base_context": 64, "models": {"base": {**model(), "short_context": tasks}}}
    assert results_table(summary, 64, "base")["short context"].tolist() == [40]
    assert left_out(summary) == ["wiki (word_perplexity)"]
    # A task whose answers are generated shows their flaws.
    row = answers_table(summary, 64).set_index("report").loc["sums"]
    assert row["score"] == 30 and row[["empty", "truncated", "repetitive"]].tolist() == [50, 25, 0]
    assert row["warning"] == "50 % of the answers are empty."


def test_a_comparison_without_recipes_has_no_section_of_recipes(tmp_path: Path) -> None:
    """As of models that others made. They have no loss by position either."""
    losses = pd.DataFrame(columns=["model", "domain", "document", "band", "loss", "sum", "tokens"])
    tables = {
        "results": results_table(SUMMARY, 64, "base"),
        "needle": needle_table(SUMMARY),
        "answers": answers_table(SUMMARY, 64),
        "loss": losses,
        "differences": differences(losses, "base"),
        "quantity": quantity_table(SUMMARY, {"base": None, "mute": None}, losses, 64),
        "training": pd.DataFrame(columns=["model", "tokens", "loss"]),
        "shares": _shares([]),
    }
    cells = pd.DataFrame(
        {"length": [64, 128], "depth": 0.0, "exact_match": 0.5, "occurs": 1.0, "gain": float("nan")}
    )
    lengths = pd.DataFrame({"domain": "book", "lower": [1, 2], "tokens": [3, 4]})
    config, by_model = ComparisonConfig(), {"base": cells, "mute": cells}
    comparison_page.draw(config, tmp_path, tables, by_model, lengths, 64, 64, {})
    html = comparison_page.report(config, tmp_path, tables, SUMMARY, 64, {})
    assert "Every model" in html and "What the recipes did" not in html
    assert not (tmp_path / "mixture.png").exists()


def test_with_endpoints_only_the_longest_context_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, context in (("a", 4096), ("b", 8192)):
        folder = Path("data/checkpoint") / name
        folder.mkdir(parents=True)
        write_json(folder / "record.json", {"base_context": context})
    assert trained_length(["a", "b"]) == 8192
    write_json(Path("data/checkpoint/a/config.json"), {"max_position_embeddings": 512})
    assert trained_length(["a", "b"]) == 512
