"""lm-eval asks as our other reports ask, and says what it cut and what did not end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_world import ASSISTANT, END, USER, write_speaker

from evaluation import harness_model as module
from evaluation.chat import asking
from evaluation.harness_model import harness_model
from evaluation.model_under_test import of_user
from training import attention

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


def harness(folder: Path, mode: Any = "auto", longest: int = 64, **world: Any) -> Any:
    """A model that says "b c" after "a", and "d d d ..." after "d"."""
    says = {"a": "b", "b": "c", "d": "d", ASSISTANT: "b"}
    tested = of_user(str(write_speaker(folder, says, "a b c d e system", **world)))
    return harness_model(tested, 2, longest, asking(tested, mode, {}, "short_context_report"))


def generated(asked: Any, *prompts: str, until: tuple[str, ...] = (), tokens: int = 4) -> list[str]:
    """What the model says to each prompt."""
    from lm_eval.api.instance import Instance

    arguments = {"until": list(until), "max_gen_toks": tokens}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, arguments), idx=0)
        for prompt in prompts
    ]
    return list(asked.generate_until(requests, disable_tqdm=True))


def test_an_answer_that_the_token_limit_ended_is_noted(tmp_path: Path) -> None:
    asked = harness(tmp_path / "model", "never")
    assert generated(asked, "e a", "e d") == ["b c", "d d d d"]
    assert asked.unended == {"e a": False, "e d": True}
    # A stop string ends it too.
    assert generated(asked, "a d", until=("d",)) == [""] and not asked.unended["a d"]


def test_a_prompt_that_is_cut_is_noted_with_what_is_left_of_it(tmp_path: Path) -> None:
    asked = harness(tmp_path / "model", "never", longest=8)
    generated(asked, "e e e e e a", "e a")
    assert asked.cut == 1 and asked.left == {"e e e e e a": "e e e a"}


def test_special_tokens_of_a_question_in_a_template_are_text(tmp_path: Path) -> None:
    asked = harness(tmp_path / "model")
    prompt = asked.apply_chat_template([{"role": "user", "content": f"a {END} b"}])
    ids = asked.tok_encode(prompt)
    special = [asked.tested.tokenizer.token_to_id(token) for token in (USER, END, ASSISTANT)]
    assert [number for number in ids if number in (*special, 0)] == special
    assert generated(asked, prompt) == ["b c"] and not asked.unended[prompt]


def test_examples_are_turns_and_the_answer_is_begun(tmp_path: Path) -> None:
    asked = harness(tmp_path / "model")
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d e"},
    ]
    assert asked.apply_chat_template(turns, add_generation_prompt=False) == (
        f"{USER}a{END}{ASSISTANT}b{END}{USER}c{END}{ASSISTANT}d e"
    )


def test_a_template_without_system_messages_loses_nothing(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}<|assistant|>"
    )
    asked = harness(tmp_path / "model", template=template)
    turns = [{"role": "system", "content": "e"}, {"role": "user", "content": "a"}]
    assert asked.apply_chat_template(turns) == f"{USER}e\n\na{ASSISTANT}"


@pytest.mark.parametrize("padded", [module.PADDED, 4])
def test_a_prompt_does_not_see_the_padding_beside_a_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padded: int
) -> None:
    """Under the attention that evaluates on a GPU, which takes no mask."""
    monkeypatch.setattr(module, "PADDED", padded)
    asked = harness(tmp_path / "model", "never")
    torch.manual_seed(0)
    for weight in asked.model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    prompts = ("a b c d e a b c d e a b", "e d c", "b")
    asked.ends = frozenset()
    alone = [generated(asked, prompt, tokens=8)[0] for prompt in prompts]
    attention.register(torch.device("cpu"), None)
    asked.model.set_attn_implementation(attention.CACHED)
    asked.batch_size_per_gpu = 3
    assert generated(asked, *prompts, tokens=8) == alone
    assert asked.model.config._attn_implementation == attention.CACHED
