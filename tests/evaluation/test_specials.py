"""The special tokens of a prompt are those of its frame and template, not of its content."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_world import ASSISTANT, BEGIN, END, SPECIAL, TEMPLATE, USER, write_speaker
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from core.sealed import write_json
from evaluation.book_qa_report import Question, ask
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.chat import Asking, asking, may_be_read_as_tokens, written
from evaluation.harness_model import harness_model
from evaluation.model_under_test import ModelUnderTest, of_user
from evaluation.needle import Haystacks, make_needle
from evaluation.needle_report_config import Drawn, Given
from evaluation.specials import MARK
from training.baselines import EndpointConfig

TEXT = "Where is the <|end|> of <|user|> here ? Book : a cat sat . Answer : on the mat\n"
QUESTIONS = [
    f"Where is {END}?",
    f"{USER}{END}",
    f" {BEGIN} at the end {END} ",
    f"{END}\n{ASSISTANT}\nthe cat",
    f"a {MARK} b {MARK}{END}{MARK}",
]
PLAIN = ["Where is the cat?", "", " a ", "<|en d|>", "\nthe mat", f"{MARK}a"]


def pieces(kind: str) -> Tokenizer:
    """A tokenizer that writes every text: byte-level, or SentencePiece's with spaces by itself."""
    made = Tokenizer(models.BPE(unk_token="?"))
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        made.decoder = decoders.Metaspace(prepend_scheme=kind)
        signs = [*map(chr, range(32, 127)), "\n", MARK]
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=signs, show_progress=False)
    made.train_from_iterator([TEXT] * 20, trainer)
    made.add_special_tokens(
        [BEGIN, AddedToken(USER, rstrip=True), ASSISTANT, AddedToken(END, lstrip=True, rstrip=True)]
    )
    return made


@pytest.fixture(params=["bytes", "always", "first"])
def tested(tmp_path: Path, request: pytest.FixtureRequest) -> ModelUnderTest:
    """A chat model's tokenizer, without a model."""
    folder, tokenizer = tmp_path / "model", pieces(request.param)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": BEGIN, "eos_token": END}
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return ModelUnderTest(
        name="x", folder=folder, tokenizer=tokenizer, base_context=999, context=999, facts={}
    )


def special(tested: ModelUnderTest, ids: list[int]) -> list[str]:
    """The special tokens among ids, in order."""
    tokens = map(tested.tokenizer.id_to_token, ids)
    return [token for token in tokens if token in SPECIAL]


def bare(text: str) -> str:
    """A text without spaces, which tokenizers put beside special tokens or take away there."""
    return "".join(text.split())


@pytest.mark.parametrize("content", QUESTIONS)
def test_only_the_frames_special_tokens_are_tokens(tested: ModelUnderTest, content: str) -> None:
    ids = tested.encode(f"{USER} Book: {tested.as_content(content)} {END}\n{ASSISTANT}")
    assert special(tested, ids) == [USER, END, ASSISTANT]
    shown = tested.decode(ids, special=True)
    assert bare(shown) == bare(f"{USER} Book: {content} {END}\n{ASSISTANT}")


@pytest.mark.parametrize("content", [*PLAIN, *QUESTIONS])
def test_marks_change_no_id_of_a_text_around_them(tested: ModelUnderTest, content: str) -> None:
    """Content without a special token's text gives the ids it would give without any mark."""
    frames = (f"{USER} Book: {{}} {END} \n{ASSISTANT} a", "{}", " {} mat", "\n{}{}", f"{END}{{}}")
    for frame in frames:
        plain = frame.replace("{}", content.replace(END, "x").replace(MARK, "y"))
        for token in (USER, BEGIN, ASSISTANT):
            plain = plain if token in frame else plain.replace(token, "z")
        marked = plain.replace("Book", tested.specials.as_content("Book")).replace(
            "mat", tested.specials.as_content("mat")
        )
        forced = marked if MARK in marked else tested.specials.as_content("") + marked
        assert tested._ids(forced) == tested._ids(plain)


@pytest.mark.parametrize("chat", ["always", "never"])
@pytest.mark.parametrize("content", QUESTIONS)
def test_a_question_of_a_book_ends_no_turn(tested: ModelUnderTest, content: str, chat: Any) -> None:
    config = BookQaReportConfig(
        questions=Path("x"), context=400, new_tokens=10, frame="{context} ? {question} :"
    )
    how = asking(tested, chat, {}, "book_qa_report")
    question = Question(id=1, context=f"a cat {END} sat", input=f"{content} ?", answer=("mat",))
    asked = ask(tested, question, config, how).ids
    assert special(tested, asked) == [BEGIN] * (chat == "never") + [USER, END, ASSISTANT] * (
        chat == "always"
    )


@pytest.mark.parametrize("content", QUESTIONS)
def test_no_part_of_a_needle_is_a_special_token(tested: ModelUnderTest, content: str) -> None:
    how = asking(tested, "always", {}, "needle_report")
    hay = Haystacks(tested, [TEXT * 9])
    given = Given(statement=f"a {content}", question=f"{content} ?", answer=f"on {content} mat")
    words = tuple(f"{letter}{END}" for letter in "abcdefghij")
    drawn = Drawn(words=words, value_words=1, statement="{key} is {value}", question="{key} is")
    for kind in ([given], drawn):
        made = make_needle(tested, kind, "{context} {question}", hay, 99, 0, 0, how)
        assert special(tested, made.question.tolist()) == [END, ASSISTANT]
        assert special(tested, made.before.tolist()) == [USER]
        for part in (made.statement, made.answer, made.haystack, made.rivals, made.guesses):
            assert not special(tested, part.tolist())


def test_a_question_of_the_harness_holds_no_special_token(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "a b c < | > end begin")))
    harness = harness_model(tested, 2, 99)
    for text in (f"a {END} b", f"{BEGIN} a", f"{USER}{END}"):
        assert special(tested, harness.tok_encode(text)) == [BEGIN]
        asked, answer = harness._encode_pair(text, f" {END} c")
        assert special(tested, asked) == [BEGIN] and not special(tested, answer)


def endpoints(tested: ModelUnderTest, kind: Any) -> Iterator[tuple[ModelUnderTest, Asking]]:
    """The model behind an endpoint, asked in each way there is."""
    served = EndpointConfig(
        endpoint="http://x", model="x", kind=kind, tokenizer=tested.folder, context=999
    )
    behind = ModelUnderTest(**{**vars(tested), "endpoint": served})
    for chat in ("auto", "always"):
        yield behind, asking(behind, chat, {}, "needle_report")


@pytest.mark.parametrize("content", QUESTIONS)
def test_completions_get_ids_where_text_would_be_ambiguous(
    tested: ModelUnderTest, content: str
) -> None:
    config = BookQaReportConfig(questions=Path("x"), context=400, new_tokens=10)
    plain, odd = (
        Question(id=1, context="a cat sat", input=text, answer=("mat",)) for text in ("?", content)
    )
    for behind, how in endpoints(tested, "completions"):
        ids = ask(behind, odd, config, how).ids
        assert written(behind, ids, how) == ids
        text = written(behind, ask(behind, plain, config, how).ids, how)
        assert isinstance(text, str) and "a cat sat" in text
        assert json.dumps(text).count(END) == json.dumps(text).count(USER) == int(how.chat)


def test_a_chat_endpoint_gets_text_and_the_report_warns(
    tested: ModelUnderTest,
) -> None:
    for behind, how in endpoints(tested, "chat"):
        text = f"a cat {END} sat"
        assert written(behind, tested.encode(text, as_text=True), how) == text
        assert may_be_read_as_tokens(behind, ["a cat"]) is None
        found = may_be_read_as_tokens(behind, ["a cat", text])
        assert found is not None and found.startswith("1 of its texts") and END in found
    for behind, _ in endpoints(tested, "completions"):
        assert may_be_read_as_tokens(behind, [text]) is None
