"""The scores of answers in words, each on cases to check by eye."""

import pytest

from evaluation.answers import f1, normalised, rouge_1, word_overlap

SANDWICH = "eat a sandwich and sit in Dolores Park on a sunny day."


@pytest.mark.parametrize(("response", "words"), [
    (SANDWICH, 11), ("Eat a sandwich and sit in Dolores Park on a sunny day", 10), ("", 0),
    ("go to the park and eat", 3), (f"The best thing is to {SANDWICH} And then home.", 11), ("a a a a", 1)])
def test_the_published_overlap_counts_distinct_expected_words_that_were_said(response: str, words: int) -> None:
    assert word_overlap(response, SANDWICH) == pytest.approx(words / 11)


def test_nothing_expected_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        word_overlap("anything", " ")


def test_rouge_counts_every_word_as_often_as_it_stands_in_both() -> None:
    assert rouge_1("the cat", "The cat sat.") == pytest.approx(2 * 2 / (2 + 3))
    assert rouge_1("the the the", "the cat") == pytest.approx(2 * 1 / (3 + 2))
    assert rouge_1("dog", "cat") == rouge_1("", "cat") == 0


def test_f1_is_the_best_over_the_answers_without_case_punctuation_and_articles() -> None:
    assert normalised("The Old, Grey Cat!") == ["old", "grey", "cat"]
    assert f1("the old cat", ["dog", "Old grey cat."]) == pytest.approx(2 * 2 / (2 + 3))
    assert f1("a cat", ["Cat"]) == 1
    assert f1("cat", []) == 0
