"""The needle test asks what it says it asks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.needle import Needle, prompt
from evaluation.needle_report import judge
from evaluation.scoring import answer_log_probs, token_losses
from training.model import make_reproducible

BEGIN, STOP = 0, 1
HAYSTACK = np.array([BEGIN, *([5, 6, 7, STOP] * 30)])
NEEDLE = Needle(haystack=HAYSTACK, statement=np.array([20, 21, 22, STOP]), question=np.array([20]),
                answer=np.array([21, 22]), rivals=np.array([5, 6, 7]))
ENDS = np.array([STOP])


@given(st.integers(16, 100), st.sampled_from([0, 10, 33, 50, 90, 100, None]))
def test_a_prompt_has_exactly_the_length_asked_and_ends_in_question_and_answer(length: int, depth: float | None
                                                                               ) -> None:
    row = prompt(NEEDLE, length, depth, ENDS)
    assert len(row) == length and row[0] == BEGIN
    assert row[-3:].tolist() == [20, 21, 22]


@given(st.integers(16, 100), st.sampled_from([0, 10, 33, 50, 90]))
def test_the_statement_stands_once_after_a_sentence_end_or_the_begin_token(length: int, depth: float) -> None:
    row = prompt(NEEDLE, length, depth, ENDS)
    at = [i for i in range(length - 6) if row[i:i + 4].tolist() == [20, 21, 22, STOP]]
    assert len(at) == 1
    assert row[at[0] - 1] in (BEGIN, STOP)
    assert at[0] <= max(depth / 100 * length, 1) + 1
    assert np.delete(row, np.s_[at[0]:at[0] + 4])[:-3].tolist() == HAYSTACK[:length - 7].tolist()


def test_without_a_needle_there_is_only_haystack_before_the_question() -> None:
    assert prompt(NEEDLE, 50, None, ENDS)[:-3].tolist() == HAYSTACK[:47].tolist()


def test_a_shorter_context_is_a_prefix_of_a_longer_one() -> None:
    short, long = prompt(NEEDLE, 40, 0, ENDS), prompt(NEEDLE, 80, 0, ENDS)
    assert short[:37].tolist() == long[:37].tolist()


def test_a_haystack_too_short_for_the_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length 500 leaves"):
        prompt(NEEDLE, 500, 50, ENDS)


def tiny() -> LlamaForCausalLM:
    """A random Llama of a few thousand parameters."""
    make_reproducible(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                        num_attention_heads=2, max_position_embeddings=64)).eval()


def test_exact_match_is_what_greedy_decoding_would_say() -> None:
    model = tiny()
    row = prompt(NEEDLE, 30, 50, ENDS)
    with torch.autocast("cpu", torch.bfloat16):
        said = model.generate(torch.from_numpy(row[None, :-2]), max_new_tokens=2, do_sample=False, pad_token_id=0,
                              eos_token_id=None)[0, -2:].numpy()
    for answer in (said, (said + 1) % 32):
        asked = np.concatenate([row[:-2], answer])
        log_probs = answer_log_probs(model, asked[None], 2)[0]
        assert judge(log_probs, log_probs, answer, NEEDLE.rivals)["exact_match"] == float((answer == said).all())


def test_gain_is_the_mean_difference_and_choice_is_against_values_in_sight() -> None:
    with_needle, without = np.full((2, 32), -5, np.float32), np.full((2, 32), -6, np.float32)
    with_needle[0, 21], with_needle[1, 22], with_needle[0, 30] = -2, -3, -1
    scores = judge(with_needle, without, np.array([21, 22]), np.array([5, 6, 21]))
    assert scores == {"exact_match": 0.0, "gain": pytest.approx(3.5), "choice": 1.0}
    assert judge(with_needle, without, np.array([21, 22]), np.array([30]))["choice"] == 0.0


def test_token_losses_are_those_of_the_whole_row() -> None:
    model, row = tiny(), HAYSTACK[:40]
    with torch.no_grad():
        logits = model(torch.from_numpy(row[None])).logits[0, :-1]
    reference = torch.nn.functional.cross_entropy(logits, torch.from_numpy(row[1:]), reduction="none")
    assert np.allclose(token_losses(model, row, tokens_at_once=7), reference, atol=0.02)
