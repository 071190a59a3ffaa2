"""Several keys, values and queries, as RULER defines them: every statement is in the prompt, and the
score is the share of the values that the model says.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chat_world import write_speaker

from evaluation.chat import asking
from evaluation.kept_answers import kept_file
from evaluation.model_under_test import ModelUnderTest, of_user
from evaluation.needle import Cell, Haystacks, Needle, make_needle, prompt
from evaluation.needle_report import measure
from evaluation.needle_report_config import Drawn, Given, Grid, NeedleReportConfig
from evaluation.needle_scores import judge_text
from evaluation.needle_trials import make_trials

BEGIN, STOP, RESERVE = 0, 1, 3
GRASS = "The grass is green . The sky is blue . " * 40
WORDS = tuple(f"{letter}{number}" for letter in "abcd" for number in range(8))
STATEMENT, QUESTION = "One number for {key} is {value} .", "The numbers for {key} are"


def needle(others: int = 0, distractors: int = 0) -> Needle:
    """Statements are one token: 20 is at the cell's place, 21, 22 ... are asked for too, 30, 31 ...
    distract. Every haystack token ends a sentence.
    """
    return Needle(
        before=np.array([BEGIN]),
        haystack=np.full(200, STOP),
        statement=np.array([20]),
        question=np.array([9]),
        answer=np.array([8]),
        rivals=np.array([], np.int64),
        guesses=np.array([], np.int64),
        said=Given(statement="a", question="b", answer="c"),
        others=tuple(np.array([21 + number]) for number in range(others)),
        distractors=tuple(np.array([30 + number]) for number in range(distractors)),
    )


def places(made: Needle, length: int, place: int | None) -> dict[int, int]:
    """Statement -> tokens of haystack before it; the prompt has its length."""
    depth = 0 if place is None else 100 * place / made.room(length, RESERVE)
    cell = Cell(length=length, depth=depth, place=place)
    row = prompt(made, cell, RESERVE, np.array([STOP]))
    assert len(row) == length - RESERVE and row[0] == BEGIN and row[-1] == 9
    return {
        int(token): int((row[:at] == STOP).sum())
        for at, token in enumerate(row)
        if token not in (BEGIN, STOP, 9)
    }


def test_further_statements_stand_at_equal_distances() -> None:
    made = needle(others=3)  # 4 statements in 40 tokens of haystack
    length = 40 + RESERVE + 6
    assert made.room(length, RESERVE) == 40
    assert places(made, length, 0) == {20: 0, 21: 10, 22: 20, 23: 30}
    assert places(made, length, 25) == {20: 25, 21: 35, 22: 5, 23: 15}
    assert places(made, length, 40) == {20: 40, 21: 10, 22: 20, 23: 30}
    assert places(made, length, None) == {}


def test_distractors_are_there_without_the_needle_too() -> None:
    made = needle(distractors=3)
    for room in (40, 80):
        length = room + RESERVE + 6
        spread = {30: room // 4, 31: room // 2, 32: 3 * room // 4}
        assert places(made, length, None) == spread
        assert places(made, length, 7) == {20: 7, **spread}


def speaker(folder: Path, says: dict[str, str] | None = None) -> ModelUnderTest:
    """A model whose words are one token each."""
    words = f"{GRASS} {' '.join(WORDS)} One number for is The numbers are and ,"
    return of_user(str(write_speaker(folder / "model", says or {}, words, template=None)))


@pytest.mark.parametrize(
    ("kinds", "asked", "statements", "distractors"),
    [
        ({}, 1, 1, 0),
        ({"keys": 4}, 1, 1, 3),
        ({"values": 3}, 1, 3, 0),
        ({"queries": 3}, 3, 3, 0),
        ({"keys": 4, "values": 2, "queries": 2}, 2, 4, 4),
        ({"keys": 2, "queries": 3}, 3, 3, 0),  # at least as many keys as are asked for
    ],
)
def test_each_value_has_a_statement_and_each_key_is_asked(
    tmp_path: Path, kinds: dict[str, int], asked: int, statements: int, distractors: int
) -> None:
    tested = speaker(tmp_path)
    drawn = Drawn(words=WORDS, value_words=1, statement=STATEMENT, question=QUESTION, **kinds)
    how = asking(tested, "never", {}, "needle_report")
    hay = Haystacks(tested, [GRASS])
    made = make_needle(tested, drawn, "{context} {question}", hay, 128, 0, 0, how)

    hidden = [tested.decode(ids.tolist()).split() for ids in made.hidden]
    others = [tested.decode(ids.tolist()).split() for ids in made.distractors]
    assert (len(hidden), len(others)) == (statements, distractors)
    keys = dict.fromkeys(words[3] for words in hidden)
    assert len(keys) == asked and not keys.keys() & {words[3] for words in others}
    listed = list(keys)
    if asked > 1:
        listed = [", ".join(listed[:-1]) + f", and {listed[-1]}"]
    assert made.said.question == f"The numbers for {listed[0]} are"
    values = [words[5] for words in hidden]
    assert made.said.answer == ", ".join(values) and len(set(values)) == statements
    assert made.expected == (tuple(values) if statements > 1 else ())
    # A model that takes another key's value has not chosen the true one.
    rivals = {tested.decode([number]) for number in made.rivals.tolist()}
    assert rivals == {words[5] for words in others}


@pytest.mark.parametrize(
    ("text", "occurs", "exact"),
    [
        ("b2 , a1 and c3", 1, 1),  # any order
        ("a1 , b2 , x", 0.66667, 0),
        ("A1.", 0.33333, 0),
        ("a1 a1 a1", 0.33333, 0),
        ("a11 b22", 0, 0),  # not inside of a word
        ("", 0, 0),
    ],
)
def test_several_values_score_the_share_that_is_said(
    text: str, occurs: float, exact: float
) -> None:
    made = replace(needle(), expected=("a1", "b2", "c3"))
    scores = judge_text(text, False, made)
    assert (scores["occurs"], scores["exact_match"]) == (occurs, exact)


def test_one_value_leaves_exact_match_to_the_probabilities() -> None:
    assert "exact_match" not in judge_text("c", False, needle())


def config(folder: Path, **kinds: int) -> NeedleReportConfig:
    """Two lengths, two depths, two trials of needles of one word."""
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "texts/one.txt").write_text(GRASS)
    return NeedleReportConfig(
        haystack=folder / "texts",
        grid=Grid(lengths=(96, 128), depths=(0, 50)),
        trials=2,
        new_tokens=4,
        drawn=Drawn(words=WORDS, value_words=1, statement=STATEMENT, question=QUESTION, **kinds),
    )


def test_a_model_that_says_one_of_two_values_scores_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, values=2)
    first, _ = make_trials(speaker(tmp_path), settings).needles
    value, other = first.expected
    (tmp_path / "two").mkdir()
    for says, share in (({"are": value}, 0.5), ({"are": value, value: other}, 1.0)):
        out = tmp_path / f"out{share}"
        out.mkdir()
        tested = speaker(tmp_path / f"says{share}", says)
        metrics = measure(tested, settings, out)
        table = pd.read_csv(out / "trials.csv")
        mine = table[table["trial"] == 0]
        assert mine["occurs"].tolist() == [share] * 4
        assert mine["exact_match"].tolist() == [float(share == 1)] * 4
        assert metrics["mean_occurs"] == table["occurs"].mean().round(5)
        assert json.loads((out / "needle.json").read_text())["lengths"] == [96, 128]


@pytest.mark.parametrize("kinds", [{"keys": 2}, {"values": 2}, {"queries": 2}])
def test_answers_kept_for_one_kind_are_not_taken_for_another(
    tmp_path: Path, kinds: dict[str, int]
) -> None:
    tested = speaker(tmp_path)
    plain = config(tmp_path)
    again = plain.model_copy(update={"drawn": Drawn(**plain.drawn.model_dump())})  # type: ignore[union-attr]
    names: list[Any] = [
        kept_file(tested, make_trials(tested, settings))
        for settings in (plain, again, config(tmp_path, **kinds))
    ]
    assert names[0] == names[1] != names[2]


def test_several_values_need_a_model_that_speaks() -> None:
    with pytest.raises(ValueError, match="several values are found in what the model says"):
        NeedleReportConfig(
            haystack=Path("x"),
            grid=Grid(lengths=(96,)),
            new_tokens=0,
            drawn=Drawn(words=WORDS, statement=STATEMENT, question=QUESTION, values=2),
        )
