"""Needle prompts, grids and scores, on a haystack to check by eye."""

from pathlib import Path

import numpy as np
import pytest
from chat_world import ASSISTANT, write_speaker
from hypothesis import given
from hypothesis import strategies as st

from evaluation.chat import asking
from evaluation.model_under_test import ModelUnderTest, of_user
from evaluation.needle import Cell, Haystacks, Needle, cells, fill, make_needle, prompt
from evaluation.needle_report_config import Drawn, Given, Grid
from evaluation.needle_scores import judge
from training.prices import places_of

BEGIN, STOP, RESERVE = 0, 1, 3
NEEDLE = Needle(
    before=np.array([BEGIN]),
    haystack=np.array([5, 6, 7, STOP] * 30),
    statement=np.array([20, 21, 22, STOP]),
    question=np.array([20]),
    answer=np.array([21, 22]),
    rivals=np.array([5, 6, 7]),
    guesses=np.array([5, 6, 7]),
    said=Given(statement="a", question="b", answer="c"),
)
ENDS = np.array([STOP])


def row(length: int, depth: float, without: bool = False) -> np.ndarray:
    """The prompt of that cell."""
    place = round(NEEDLE.room(length, RESERVE) * depth / 100)
    return prompt(
        NEEDLE, Cell(length=length, depth=depth, place=None if without else place), RESERVE, ENDS
    )


@given(st.integers(16, 100), st.sampled_from([0, 10, 33, 50, 90, 100]), st.booleans())
def test_a_prompt_leaves_the_answers_room_and_ends_in_question(
    length: int, depth: float, without: bool
) -> None:
    asked = row(length, depth, without)
    assert len(asked) == length - RESERVE and asked[0] == BEGIN and asked[-1] == 20


@given(st.integers(16, 100), st.sampled_from([0, 10, 33, 50, 90]))
def test_the_statement_follows_a_sentence_end_or_the_beginning(length: int, depth: float) -> None:
    asked = row(length, depth)
    at = [i for i in range(len(asked) - 3) if asked[i : i + 4].tolist() == [20, 21, 22, STOP]]
    assert len(at) == 1
    assert asked[at[0] - 1] in (BEGIN, STOP)
    assert at[0] <= max(depth / 100 * length, 1) + 1
    rest = np.delete(asked, np.s_[at[0] : at[0] + 4])
    assert rest[1:-1].tolist() == NEEDLE.haystack[: length - RESERVE - 6].tolist()


def test_at_depth_one_hundred_the_statement_touches_the_question() -> None:
    assert row(50, 100)[-5:].tolist() == [20, 21, 22, STOP, 20]


def test_without_a_needle_a_prompt_is_haystack_and_question() -> None:
    assert row(50, 0, without=True)[1:-1].tolist() == NEEDLE.haystack[:45].tolist()


def test_a_shorter_context_is_a_prefix_of_a_longer_one() -> None:
    assert row(40, 0)[:-1].tolist() == row(80, 0)[:36].tolist()


def test_a_haystack_too_short_for_the_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length 500 leaves"):
        row(500, 50)


def test_grids_have_every_depth_or_every_place_that_fits() -> None:
    percent = cells(Grid(lengths=(100, 200), depths=(0, 50)), (80, 180))
    assert [(cell.length, cell.place) for cell in percent] == [
        (100, 0),
        (100, 40),
        (200, 0),
        (200, 90),
    ]
    shared = cells(Grid(kind="shared", lengths=(100, 200), places=4), (80, 180))
    assert [(cell.length, cell.place, cell.depth) for cell in shared] == [
        (100, 0, 0),
        (100, 60, 75),
        (200, 0, 0),
        (200, 60, 33.33),
        (200, 120, 66.67),
        (200, 180, 100),
    ]


def test_forty_places_and_forty_lengths_to_128k_are_820_cells() -> None:
    lengths = tuple(np.linspace(1000, 128_000, 40).round().astype(int).tolist())
    assert (
        len(
            cells(
                Grid(kind="shared", lengths=lengths, places=40),
                [length - 100 for length in lengths],
            )
        )
        == 820
    )


def test_gain_is_a_mean_difference_and_choice_is_in_sight() -> None:
    with_needle, without = np.full((2, 32), -5, np.float32), np.full((2, 32), -6, np.float32)
    with_needle[0, 21], with_needle[1, 22], with_needle[0, 30] = -2, -3, -1
    scores = judge(with_needle, without, np.array([21, 22]), np.array([5, 6, 21]))
    assert scores == {"exact_match": 0.0, "gain": 3.5, "choice": 1.0}
    assert judge(with_needle, without, np.array([21, 22]), np.array([30]))["choice"] == 0.0
    with_needle[0, 30] = -9
    assert judge(with_needle, without, np.array([21, 22]), None) == {
        "exact_match": 1.0,
        "gain": 3.5,
        "choice": None,
    }


def test_choice_is_empty_without_another_value_in_sight() -> None:
    log_probs = np.full((2, 32), -5, np.float32)
    for rivals in ([], [21]):
        assert (
            judge(log_probs, log_probs, np.array([21, 22]), np.array(rivals, np.int64))["choice"]
            is None
        )


def test_what_fills_up_a_shorter_answer_is_not_judged() -> None:
    log_probs = np.full((3, 32), -5, np.float32)
    log_probs[0, 21] = log_probs[1, 22] = log_probs[2, 9] = -1
    assert judge(log_probs, log_probs, np.array([21, 22]), None)["exact_match"] == 1.0


def test_only_named_places_are_filled_and_only_once() -> None:
    values = {"key": "{value}", "value": "{key}"}
    assert fill('{"name": "{key}", "n": {0}, "value": "{value}", {} }', values) == (
        '{"name": "{value}", "n": {0}, "value": "{key}", {} }'
    )


GRASS = "The grass is green . The sky is blue . " * 40
NAMES = "Ada Bea Cid Dan Eve Fay Gus Hal"


def speaker(folder: Path) -> ModelUnderTest:
    """A model whose words are one token each."""
    words = f'{GRASS} {NAMES} "name" : , {{ }} the value of is Where ? [ ]'
    return of_user(str(write_speaker(folder / "model", {}, words)))


@pytest.mark.parametrize("chat", ["never", "always"])
def test_needle_frame_question_and_answer_may_hold_braces(tmp_path: Path, chat: str) -> None:
    tested = speaker(tmp_path)
    asked = asking(tested, chat, {}, "needle_report")
    frame = 'the {"value"} : {context} { {question} }'
    drawn = Drawn(
        words=tuple(NAMES.split()),
        value_words=1,
        statement='{"name" : "{key}" , "value" : "{value}"}',
        question="the {value} of {key} is {",
        answer_prefix='{ "{key}"',
    )
    made = make_needle(tested, drawn, frame, Haystacks(tested, [GRASS]), 64, 0, 0, asked)
    assert made.said.statement.startswith('{"name" : "') and made.said.answer in NAMES.split()
    question = tested.decode(made.question.tolist()).replace(" ", "")
    assert question.endswith("is{}{" + f'"{made.said.question.split()[3]}"')
    given = [Given(statement="{x}", question="{0}?", answer="{ }", answer_prefix="{")]
    made = make_needle(tested, given, frame, Haystacks(tested, [GRASS]), 64, 0, 0, asked)
    assert tested.decode(made.answer.tolist()).replace(" ", "") == "{}"


@pytest.mark.parametrize("chat", ["never", "always"])
def test_a_question_may_stand_before_the_context_too(tmp_path: Path, chat: str) -> None:
    subject = speaker(tmp_path)
    asked = asking(subject, chat, {}, "needle_report")
    given = [Given(statement="the value", question="Where is the name?", answer="of")]
    frame = "{question} : {context} {question}"
    made = make_needle(subject, given, frame, Haystacks(subject, [GRASS]), 64, 0, 0, asked)
    before, after = (subject.decode(ids.tolist()) for ids in (made.before, made.question))
    assert "Where is the name ?" in before and "Where is the name ?" in after
    assert "question" not in before + after and "?!" not in before + after


def test_a_guess_is_judged_by_its_token_in_the_answers_place(tmp_path: Path) -> None:
    tested = speaker(tmp_path)
    drawn = Drawn(
        words=tuple(NAMES.split()),
        value_words=1,
        statement="the {key} is {value} .",
        question="{key} is",
    )
    hay = Haystacks(tested, [GRASS.replace("sky", "Ada").replace("blue", "Bea")])
    made = make_needle(
        tested, drawn, "{context} {question}", hay, 64, 0, 0, asking(tested, "auto", {}, "x")
    )
    assert tested.decode(made.guesses.tolist()).split() == ["Ada", "Bea"]
    assert made.question[-1] == tested.tokenizer.token_to_id(ASSISTANT) and len(made.answer) == 1


@pytest.mark.parametrize("field", ["statement", "answer"])
def test_a_needle_without_words_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Given.model_validate({"statement": "a", "question": "b", "answer": "c", field: " "})


def test_a_haystack_that_has_to_be_repeated_says_so(tmp_path: Path) -> None:
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "a b c")))
    haystacks = Haystacks(tested, ["a b c", "c b a"])
    assert len(haystacks.draw(6, 0, 0)) == 6
    assert haystacks.repeated is None
    assert len(haystacks.draw(64, 0, 0)) == len(haystacks.draw(64, 0, 1)) == 64
    assert "texts are 6 tokens and 64 are asked for, so they are repeated" in str(
        haystacks.repeated
    )


@pytest.mark.parametrize("given", [{}, {"depths": [0, 50]}, {"kind": "shared"}])
def test_the_plan_prices_the_places_that_a_grid_has(given: dict[str, object]) -> None:
    grid: dict[str, object] = {"lengths": [100, 200], **given}
    found = cells(Grid.model_validate(grid), [100, 200])
    assert set(places_of(grid)) == {cell.place for cell in found}


@pytest.mark.parametrize("word", ["", " "])
def test_a_word_of_spaces_is_no_word_to_draw(word: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        Drawn(words=(word, *"abcdefgh"), statement="{key} {value}", question="{key}")
