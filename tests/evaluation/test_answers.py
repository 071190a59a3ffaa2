"""The scores of answers as text, on cases to check by eye."""

import pytest

from evaluation.answers import (
    f1,
    flaws,
    normalised,
    occurs,
    repetitive,
    rouge_1,
    warning,
    without_thoughts,
    word_overlap,
)

SANDWICH = "eat a sandwich and sit in Dolores Park on a sunny day."


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (SANDWICH, 11),
        ("Eat a sandwich and sit in Dolores Park on a sunny day", 10),
        ("", 0),
        ("go to the park and eat", 3),
        (f"The best thing is to {SANDWICH} And then home.", 11),
        ("a a a a", 1),
    ],
)
def test_word_overlap_counts_distinct_expected_words(response: str, words: int) -> None:
    assert word_overlap(response, SANDWICH) == pytest.approx(words / 11)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("plum", "plum"),
        ("<think>A pear? No.</think>\n\nplum", "\n\nplum"),
        ("A pear? No.\n</think>plum", "plum"),
        ("<think>\n</think><think>No.</think> plum", " plum"),
        (" <think>\nA plum, or", ""),
        ("<thinkers> plum", "<thinkers> plum"),
    ],
)
def test_the_thoughts_of_a_model_are_no_part_of_its_answer(response: str, answer: str) -> None:
    assert without_thoughts(response) == answer


def test_nothing_expected_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        word_overlap("anything", " ")


def test_rouge_counts_every_word_as_often_as_it_stands_in_both() -> None:
    assert rouge_1("the cat", "The cat sat.") == pytest.approx(2 * 2 / (2 + 3))
    assert rouge_1("the the the", "the cat") == pytest.approx(2 * 1 / (3 + 2))
    assert rouge_1("dog", "cat") == rouge_1("", "cat") == 0


def test_f1_is_the_best_over_answers_without_case_and_articles() -> None:
    assert normalised("The Old, Grey Cat!") == ["old", "grey", "cat"]
    assert f1("the old cat", ["dog", "Old grey cat."]) == pytest.approx(2 * 2 / (2 + 3))
    assert f1("a cat", ["Cat"]) == 1
    assert f1("cat", []) == 0


@pytest.mark.parametrize(
    ("response", "answer", "there"),
    [
        (f"The best thing is to {SANDWICH}", SANDWICH, True),
        (SANDWICH.upper().replace(" ", "\n "), SANDWICH, True),
        ("Eat a sandwich and sit in Dolores Park on a sunny day!", SANDWICH, True),
        ("Eat a sandwich.", SANDWICH, False),
        ("plumbers and plums", "plum", False),
        ("A plum, she said", "plum", True),
        ("it is 128", "12", False),
        ("12%", "12", True),
        ("the plumber's plum", "plum", True),
        ("in der Straße", "strasse", True),
        ("答案是北京。", "北京", True),
        ("Zoé", "Zo", False),
        ("ｆｕｌｌ width", "full", True),
        ("", "plum", False),
        ("say {x}", "{x}", True),
        ("a . b", ".", True),
    ],
)
def test_an_answer_occurs_where_it_stands_alone_in_any_case(
    response: str, answer: str, there: bool
) -> None:
    assert occurs(response, [answer]) is there
    assert occurs(response, ["nothing of the kind", answer]) is there


@pytest.mark.parametrize(
    ("response", "loops"),
    [
        ("the park the park the park", True),
        ("I say: no no no no no no", True),
        ("!!!!!!!!!!!!!!!!", True),
        ("in the park, in the park, in the par", False),
        ("one two one two one two three", False),
        (SANDWICH, False),
        ("ha ha ha", False),
        ("", False),
        ("北京北京北京北京北京北京", True),
        ("He went home at last and slept. He ate. He ate. He ate. ", False),
        (f"{SANDWICH} {SANDWICH} {SANDWICH}", True),
    ],
)
def test_an_answer_is_repetitive_if_half_of_it_is_a_loop(response: str, loops: bool) -> None:
    assert repetitive(response) is loops


@pytest.mark.parametrize(
    ("response", "empty"),
    [("", 1), (" \n", 1), ("...", 1), ("7", 0), ("+", 0), ("é", 0), ("北", 0)],
)
def test_an_answer_without_letter_digit_or_symbol_is_empty(response: str, empty: int) -> None:
    assert flaws(response, truncated=False) == {"empty": empty, "truncated": 0, "repetitive": 0}


def test_more_than_a_tenth_of_flawed_answers_is_a_warning() -> None:
    none = {"empty": 0.1, "truncated": 1.0, "repetitive": 0.0}
    assert warning(none, 0.1, "new_tokens") is None
    line = warning({**none, "empty": 0.11}, 0.25, "needle_report.new_tokens")
    assert line == (
        "11 % of the answers are empty, 25 % of the answers were cut off before the expected "
        "answer came. "
        "To measure what it can do, set chat or answer_prefix and raise needle_report.new_tokens "
        "if it was "
        "still to come."
    )
    assert warning(dict.fromkeys(none), None, "new_tokens") is None
    assert "temperature 0" in (warning(none, 0.0, "new_tokens", drawn=True) or "")
