"""A chat model is asked in its template, and empty answers give a warning beside the score."""

import json
from pathlib import Path

import pandas as pd
import pytest
from chat_world import ASSISTANT, BEGIN, END, TEMPLATE, USER, write_speaker
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from core.errors import UserError
from core.sealed import write_json
from evaluation import book_qa_report, needle_report
from evaluation.book_qa_report import Question, ask
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.chat import asking, last_ids, rendered, seam
from evaluation.model_under_test import ModelUnderTest, of_user
from evaluation.needle import Haystacks
from evaluation.needle_report_config import NeedleReportConfig

GRASS = "The grass is green . The sky is blue . " * 40
WORDS = f"{GRASS} the key under a red stone Where Book Answer ? : go Stone"
SAYS = {ASSISTANT: "under", "under": "a", "a": "red", "red": "stone"}


def needle_config(root: Path, **changes: object) -> NeedleReportConfig:
    """One needle at two depths of two lengths."""
    (root / "hay.txt").write_text(GRASS)
    return NeedleReportConfig.model_validate(
        {
            "haystack": str(root / "hay.txt"),
            "frame": "Book : {context} {question} Answer :",
            "new_tokens": 8,
            "needles": [
                {
                    "statement": "the key is under a red stone .",
                    "question": "Where is the key ?",
                    "answer": "under a red stone",
                }
            ],
            "grid": {"lengths": [64, 128], "depths": [0, 50]},
            **changes,
        }
    )


def measured(root: Path, config: NeedleReportConfig, model: Path) -> dict[str, object]:
    """Metrics of the needle report on the model in a folder."""
    out = root / f"out{len(list(root.iterdir()))}"
    out.mkdir()
    return needle_report.measure(of_user(str(model)), config, out)


def test_a_chat_model_is_scored_in_its_template_or_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_speaker(tmp_path / "model", SAYS, WORDS)
    chat = measured(tmp_path, needle_config(tmp_path), model)
    assert (
        chat["mean_exact_match"] == chat["mean_occurs"] == 1 and chat["empty"] == 0 and chat["chat"]
    )
    assert "warning" not in chat and "warning" not in capsys.readouterr().err

    plain = measured(tmp_path, needle_config(tmp_path, chat="never"), model)
    assert (
        plain["mean_exact_match"] == plain["mean_occurs"] == 0
        and plain["empty"] == 1
        and not plain["chat"]
    )
    line = "100 % of the answers are empty. To measure what it can do, set chat or answer_prefix."
    assert plain["warning"] == line and f"warning: {line}" in capsys.readouterr().err


def test_a_repeated_haystack_is_named_beside_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, config, out = (
        write_speaker(tmp_path / "model", SAYS, WORDS),
        needle_config(tmp_path),
        tmp_path / "out",
    )
    out.mkdir()
    assert "warning" not in needle_report.measure(of_user(str(model)), config, out)
    (tmp_path / "hay.txt").write_text("The grass is green .")
    metrics = needle_report.measure(of_user(str(model)), config, out)
    line = "The haystack's texts are 5 tokens and 128 are asked for, so they are repeated"
    for place in (
        metrics["warning"],
        json.loads((out / "needle.json").read_text())["warning"],
        capsys.readouterr().err,
    ):
        assert line in place


def test_the_report_has_prompt_form_and_flaws_by_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, out = write_speaker(tmp_path / "model", SAYS, WORDS, template=None), tmp_path / "out"
    out.mkdir()
    needle_report.measure(of_user(str(model)), needle_config(tmp_path), out)
    summary = json.loads((out / "needle.json").read_text())
    assert summary["chat"] is False and summary["empty"] == [1, 1] and "100 %" in summary["warning"]
    assert pd.read_csv(out / "trials.csv")["empty"].eq(1).all() and "empty" in pd.read_csv(
        out / "cells.csv"
    )


def test_an_answer_prefix_is_continued_by_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_speaker(tmp_path / "model", {"go": "under", **SAYS}, WORDS, template=None)
    needle = {
        "statement": "the key is under a red stone .",
        "question": "Where is the key ?",
        "answer": "under a red stone",
    }
    assert measured(tmp_path, needle_config(tmp_path), model)["mean_occurs"] == 0
    begun = needle_config(tmp_path, needles=[{**needle, "answer_prefix": "go "}])
    metrics = measured(tmp_path, begun, model)
    assert metrics["mean_exact_match"] == metrics["mean_occurs"] == 1


def test_an_answer_inside_a_text_occurs_and_is_no_exact_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_speaker(tmp_path / "model", {**SAYS, ASSISTANT: "go", "go": "under"}, WORDS)
    metrics = measured(tmp_path, needle_config(tmp_path), model)
    assert metrics["mean_exact_match"] == 0 and metrics["mean_occurs"] == 1


@pytest.mark.parametrize(
    ("says", "flaw", "line"),
    [
        (
            {ASSISTANT: "red", "red": "stone", "stone": "red"},
            "repetitive",
            "100 % of the answers repeat themselves",
        ),
        (
            {
                ASSISTANT: "go",
                "go": "green",
                "green": "sky",
                "sky": "is",
                "is": "grass",
                "grass": "blue",
                "blue": "under",
                "under": "a",
                "a": "red",
                "red": "stone",
            },
            "truncated",
            "100 % of the answers were cut off before the expected answer came. .* raise "
            "needle_report.new_tokens",
        ),
    ],
)
def test_a_loop_and_an_answer_cut_off_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: dict[str, str], flaw: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = measured(
        tmp_path, needle_config(tmp_path), write_speaker(tmp_path / "model", says, WORDS)
    )
    assert metrics[flaw] == 1
    with pytest.raises(AssertionError, match=line):
        raise AssertionError(metrics["warning"])


def test_lengths_beyond_the_context_are_read_in_full_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_speaker(tmp_path / "model", SAYS, WORDS, context=100)
    metrics = measured(tmp_path, needle_config(tmp_path), model)
    assert metrics["mean_exact_match"] == 1
    assert (
        "lengths 128 are beyond its context of 100 tokens: read in full" in capsys.readouterr().err
    )


def test_a_book_is_asked_about_under_the_template_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = of_user(str(write_speaker(tmp_path / "model", SAYS, WORDS)))
    question = {"id": 1, "context": GRASS, "input": "Where is the key ?", "answer": ["A red stone"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(question))
    config = BookQaReportConfig(questions=tmp_path / "q.jsonl", context=300, new_tokens=6)
    chat = book_qa_report.measure(model, config, tmp_path)
    assert chat["occurs"] == 1 and chat["f1"] == pytest.approx(2 * 2 / (3 + 2)) and chat["chat"]
    assert "beyond its context of 256" in capsys.readouterr().err
    plain = book_qa_report.measure(model, config.model_copy(update={"chat": "never"}), tmp_path)
    assert plain["empty"] == 1 and "100 % of the answers are empty" in str(plain["warning"])
    assert json.loads((tmp_path / "book_qa.json").read_text())["warning"] == plain["warning"]


def test_an_answer_in_the_thoughts_of_a_local_model_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first model says it after its thoughts, the second one thinks it and says nothing."""
    monkeypatch.chdir(tmp_path)
    speaking = {**SAYS, ASSISTANT: "Stone", "Stone": "under"}
    for says, occurs in ((speaking, 1), ({**SAYS, "stone": "Stone"}, 0)):
        model = write_speaker(tmp_path / f"model{occurs}", says, WORDS)
        described = json.loads((model / "tokenizer.json").read_text())
        vocabulary = described["model"]["vocab"]
        number = vocabulary["</think>"] = vocabulary.pop("Stone")
        token = {**described["added_tokens"][-1], "special": False}
        described["added_tokens"].append({**token, "id": number, "content": "</think>"})
        (model / "tokenizer.json").write_text(json.dumps(described))
        metrics = measured(tmp_path, needle_config(tmp_path), model)
        assert metrics["mean_occurs"] == occurs and metrics["empty"] == 1 - occurs


def test_a_template_that_is_asked_for_and_not_there_is_a_line(tmp_path: Path) -> None:
    tested = of_user(str(write_speaker(tmp_path / "model", SAYS, WORDS, template=None)))
    with pytest.raises(
        UserError, match="needle_report.chat = always, but .* holds no chat template"
    ):
        asking(tested, "always", {}, "needle_report")


def test_a_template_that_refuses_or_drops_the_prompt_is_a_line(tmp_path: Path) -> None:
    for number, (template, message) in enumerate(
        (
            ("{{ raise_exception('System first') }}", "refuses the prompt: System first"),
            ("{{ raise_exception('') }}", "refuses the prompt: TemplateError"),
            ("Hello.", "shows a message 0 times"),
            ("{{ messages[0]['content'] * 2 }}", "shows a message 2 times"),
        )
    ):
        tested = of_user(str(write_speaker(tmp_path / str(number), SAYS, WORDS, template=template)))
        with pytest.raises(UserError, match=message):
            asking(tested, "auto", {}, "needle_report").turn("a ", " b", "")


def test_a_template_with_a_date_gives_one_prompt_on_any_day(tmp_path: Path) -> None:
    template = (
        "{{ strftime_now('%d %b %Y') }} {{ date_string }} {{ mood }} {{ messages[0]['content'] }}"
    )
    model = write_speaker(tmp_path / "model", SAYS, WORDS, template=template)
    assert (
        rendered(model, [{"role": "user", "content": "?"}], {"mood": "calm"})
        == "26 Jul 2024 26 Jul 2024 calm ?"
    )


def test_the_end_of_turn_ends_an_answer_and_templates_get_no_bos(
    tmp_path: Path,
) -> None:
    model = write_speaker(tmp_path / "model", SAYS, WORDS, template=TEMPLATE.replace(END, BEGIN))
    asked = asking(of_user(str(model)), "auto", {}, "needle_report")
    assert asked.begin == [] and asked.ends == {0, 3}
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    assert of_user(str(model)).ends == {1, 3}


def tokenizer_of(kind: str) -> Tokenizer:
    """Byte-level BPE with and without a space of its own at a text's beginning, and SentencePiece's
    way.
    """
    special = ["<s>", "</s>", USER, ASSISTANT, END]
    if kind == "metaspace":
        made = Tokenizer(models.BPE(unk_token="</s>"))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefixed")
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
    made.train_from_iterator(
        [f"{WORDS}\nAnswer: eat a sandwich.\nThe best thing: eat\n" * 20], trainer
    )
    return made


def opened(folder: Path, tokenizer: Tokenizer, **config: object) -> ModelUnderTest:
    """A model under test without its weights."""
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    )
    return ModelUnderTest(
        name="x", folder=folder, tokenizer=tokenizer, base_context=64, context=64, facts={}
    )


LINES = TEMPLATE.replace("'|>'", "'|>\\n'").replace("'<|assistant|>'", "'<|assistant|>\\n'")
SPACED = TEMPLATE.replace("message['content']", "' ' + message['content']")


@pytest.mark.parametrize("kind", ["plain", "prefixed", "metaspace"])
@pytest.mark.parametrize(
    ("template", "prefix", "gap"),
    [
        (None, "", " "),
        (None, "The best thing:", " "),
        (None, "The best thing: ", ""),
        (None, "\nThe best thing:\n", ""),
        (LINES, "", ""),
        (LINES, "The best thing:", " "),
        (LINES, " The best thing: ", ""),
        (SPACED, "", " "),
        (SPACED, "The best thing:", " "),
        (TEMPLATE, "", ""),
    ],
)
def test_prompt_and_answer_are_the_tokens_of_their_joined_text(
    tmp_path: Path, kind: str, template: str | None, prefix: str, gap: str
) -> None:
    tested = opened(tmp_path / "model", tokenizer_of(kind), bos_token="<s>", eos_token="</s>")
    if template is not None:
        (tested.folder / "chat_template.jinja").write_text(template)
    turn = asking(tested, "auto", {}, "needle_report").turn("Book: ", " Where?\nAnswer:", prefix)
    question, answer = seam(tested, turn, "eat a sandwich.")
    assert turn.gap == gap
    assert question + answer == tested.encode(f"{turn.after}{gap}eat a sandwich.")
    assert (
        question
        == tested.encode(turn.after)[: len(question)]
        == last_ids(tested, turn)[: len(question)]
    )
    assert tested.decode(answer).strip() == "eat a sandwich."
    shown = tested.decode(
        question, special=True
    )  # tokenizers put spaces at the beginning and after special tokens
    assert shown.replace(" ", "") == turn.after.replace(" ", "")


def begins(name: str, post: str, **config: object) -> tuple[Tokenizer, dict[str, object]]:
    """A tokenizer whose template puts special tokens around a text."""
    tokenizer = tokenizer_of(name)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>") if token in post]
    tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=ids)
    return tokenizer, config


@pytest.mark.parametrize(
    ("post", "bos", "eos", "begin"),
    [
        ("<s> $A", "<s>", "</s>", ["<s>"]),
        ("<s> $A </s>", "<s>", "</s>", ["<s>"]),
        ("$A </s>", "<s>", "</s>", ["<s>"]),
        ("$A </s>", None, "</s>", []),
        ("</s> $A", None, "</s>", []),
        ("$A", None, "</s>", []),
        ("</s> $A", "</s>", "</s>", ["</s>"]),
        ("<s> $A", None, "</s>", ["<s>"]),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "prefixed", "metaspace"])
def test_a_text_begins_with_bos_or_nothing_and_never_with_eos(
    tmp_path: Path, kind: str, post: str, bos: str | None, eos: str, begin: list[str]
) -> None:
    tokenizer, config = begins(kind, post, bos_token=bos, eos_token=eos)
    tested = opened(tmp_path / "model", tokenizer, **config)
    assert [tokenizer.id_to_token(token) for token in tested.begin] == begin


@pytest.mark.parametrize("kind", ["plain", "prefixed", "metaspace"])
def test_continued_text_has_exactly_its_own_spaces(tmp_path: Path, kind: str) -> None:
    tested = opened(tmp_path / "model", tokenizer_of(kind), bos_token="<s>", eos_token="</s>")
    for text in (" the key", "\nAnswer: eat", "\n\nThe"):
        joined = tested.decode(tested.encode("grass") + tested.encode(text))
        assert joined.removeprefix(" ") == f"grass{text}"


@pytest.mark.parametrize("kind", ["plain", "prefixed", "metaspace"])
def test_a_special_token_in_a_haystack_is_text(tmp_path: Path, kind: str) -> None:
    tested = opened(tmp_path / "model", tokenizer_of(kind), bos_token="<s>", eos_token="</s>")
    special = {tested.tokenizer.token_to_id(token) for token in (END, USER)}
    haystack = f"the cat {END} sat{USER} the cat"
    assert special <= set(tested.encode(haystack))
    drawn = Haystacks(tested, [haystack]).draw(1000, 0, 0).tolist()
    assert not special & set(drawn)
    assert special <= set(tested.encode(haystack))  # a template after it has its special tokens

    config = BookQaReportConfig(questions=Path("x"), context=400, new_tokens=10)
    question = Question(id=1, context=haystack, input="Who sat?", answer=("the cat",))
    how = asking(tested, "never", {}, "book_qa_report")
    assert not special & set(ask(tested, question, config, how).ids)
