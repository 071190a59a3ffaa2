"""Questions on whole books, each cut in the middle to fit the context; F1 of the answers.

Questions are in InfiniteBench's schema (`longbook_qa_eng`): {"id", "context", "input", "answer":
[..]}, from a JSON Lines file, or from the Hub by a YAML file. A book that is too long loses its
middle, as in InfiniteBench's code and the paper: equal parts of its beginning and end stay. So an
answer may be cut away, for every model alike.

If `questions` is a folder of data/raw_corpus, the questions are made: a statement is put into a
held-out document, and the question asks for what it states. This shows that the path runs. It is
not a measure of reading.

A model with a chat template is asked in it. Beside F1 stand the share of answers that hold an
expected one, and the shares that are empty, truncated or repetitive. No prompt is cut after this: a
`context` beyond the model's own is read in full, with a warning. An endpoint's books are cut to its
own context.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, ValidationError, field_validator

from assets.document_store import FILE
from assets.hub import HubSource, fetch, hub_files
from assets.randomness import generator
from assets.records import checked_records
from assets.sample_corpus import NAMES
from assets.source_files import shown
from core.errors import UserError, one_line
from core.params import Config, validated
from core.progress import Progress
from core.sealed import write_json
from evaluation.answers import FLAWS, f1, flaws, joined, occurs, warning
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.chat import (
    Asking,
    asking,
    cure,
    last_ids,
    may_be_read_as_tokens,
    spoken,
    written,
)
from evaluation.endpoint import Reply, check_read, complete_all
from evaluation.frame import divided
from evaluation.model_under_test import ModelUnderTest
from evaluation.prefix_cache import PrefixCache, check_room
from evaluation.report import report, warn
from evaluation.texts import read_texts
from training.model import make_reproducible


class Question(Config):
    """A record of InfiniteBench; further fields are ignored."""

    model_config = {**Config.model_config, "extra": "ignore"}
    id: int | str
    context: Annotated[str, Field(pattern=r"\S")]
    """The whole book."""
    input: Annotated[str, Field(pattern=r"\S")]
    """The question."""
    answer: Annotated[tuple[str, ...], Field(min_length=1)]
    """The answers that count: a list, or one text."""

    @field_validator("answer", mode="before")
    @classmethod
    def _list_of_texts(cls, value: Any) -> Any:
        """Accept one text for a list of one. Raises ValueError for anything else."""
        answers = value if isinstance(value, list | tuple) else [value]
        # A year or a count may be written as a number.
        texts = [_number_as_text(answer) if _is_number(answer) else answer for answer in answers]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"{value!r} is neither a text nor a list of texts")
        return tuple(texts)


def _is_number(value: Any) -> bool:
    """Whether a value is a number. NaN and infinity are none."""
    # To Python, True is a number too.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number_as_text(value: float) -> str:
    """The number as one writes it."""
    # pandas writes a column of whole numbers with one gap as floats: 1984.0.
    return str(int(value)) if value == int(value) else str(value)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, and how much of its book it holds."""

    ids: list[int]
    book: int
    """Tokens of the whole book."""
    cut: int
    """Tokens that were cut out of its middle."""


def measure(tested: ModelUnderTest, config: BookQaReportConfig, folder: Path) -> dict[str, Any]:
    """Write answers.csv and book_qa.json; returns the means, and how many books were cut."""
    make_reproducible(config.seed)
    how = asking(tested, config.chat, config.chat_options, "book_qa_report")
    questions = read_questions(config)
    ask_all = _ask_model if tested.endpoint is None else _ask_endpoint
    progress = Progress(tested.name, len(questions), "question")
    replies = ask_all(tested, questions, config, how, progress)
    progress.close()

    records = [_record(question, reply) for question, reply in zip(questions, replies, strict=True)]
    answers = pd.DataFrame(records)
    answers.to_csv(folder / "answers.csv", index=False, lineterminator="\n")

    context = _context(tested, config)
    drawn = not all(reply.greedy for reply in replies)
    warned = _warning(tested, questions, answers, drawn)
    warn("book_qa_report", tested.name, warned)
    if tested.endpoint is None and context > tested.context:
        warn(
            "book_qa_report",
            tested.name,
            f"prompts of up to {context:,} tokens are read in full, "
            f"beyond its context of {tested.context:,}",
        )

    summary = {
        **_means(answers),
        "context": context,
        "books_cut": int((answers["cut_tokens"] > 0).sum()),
        "chat": how.chat,
        "warning": warned,
    }
    write_json(folder / "book_qa.json", summary)
    # A warning is a metric only if there is one.
    return {key: value for key, value in summary.items() if value is not None or key != "warning"}


def _means(answers: pd.DataFrame) -> dict[str, Any]:
    """The means over all questions. answers: rows as of `_record`."""
    error = answers["f1"].std() / len(answers) ** 0.5 if len(answers) > 1 else np.nan
    return {
        "f1": round(float(answers["f1"].mean()), 5),
        "questions": len(answers),
        "standard_error": None if np.isnan(error) else round(float(error), 5),
        "occurs": round(float(answers["occurs"].mean()), 5),
        **{flaw: round(float(answers[flaw].mean()), 5) for flaw in FLAWS},
    }


def _warning(
    tested: ModelUnderTest, questions: list[Question], answers: pd.DataFrame, drawn: bool
) -> str | None:
    """What makes the scores doubtful; None if nothing does.

    answers: rows as of `_record`. drawn: whether an endpoint refused temperature 0.
    """
    shares = {flaw: float(answers[flaw].mean()) for flaw in FLAWS}
    lost = float(((answers["truncated"] == 1) & (answers["occurs"] == 0)).mean())
    contents = []
    for question in questions:
        contents += [question.context, question.input]
    return joined(
        warning(shares, lost, "book_qa_report.new_tokens", drawn, cure(tested)),
        may_be_read_as_tokens(tested, contents),
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to one question."""

    book: int
    """Tokens of the whole book."""
    cut: int
    """Tokens that were cut out of its middle."""
    text: str
    truncated: bool
    """Whether the token limit ended it."""
    greedy: bool = True
    """False if an endpoint refused temperature 0."""


def _record(question: Question, answer: Answer) -> dict[str, Any]:
    """A row of answers.csv."""
    text = first_line(answer.text)
    return {
        "id": question.id,
        "f1": round(f1(text, question.answer), 5),
        "occurs": float(occurs(text, question.answer)),
        **flaws(text, answer.truncated),
        "said": text,
        "expected": " | ".join(question.answer),
        "book_tokens": answer.book,
        "cut_tokens": answer.cut,
    }


def first_line(text: str) -> str:
    """The first line that has words."""
    return text.strip().split("\n")[0].strip()


def _context(tested: ModelUnderTest, config: BookQaReportConfig) -> int:
    """Tokens of prompt and answer together; no more than an endpoint has."""
    if tested.endpoint is None:
        return config.context
    return min(config.context, tested.endpoint.context)


def ask(
    tested: ModelUnderTest, question: Question, config: BookQaReportConfig, how: Asking
) -> Prompt:
    """The prompt of a question, with its book cut in the middle to fit.

    Raises UserError if not even an empty book fits.
    """
    before, after = divided(config.frame, tested.as_content(question.input))
    turn = how.turn(before, after, config.answer_prefix)
    first = [*how.begin, *(tested.encode(turn.before) if turn.before else [])]
    last = last_ids(tested, turn)

    context = _context(tested, config)
    room = context - config.new_tokens - len(first) - len(last)
    if room < 2:
        raise UserError(
            f"book_qa_report.context = {context}: question {question.id} and its frame alone take "
            f"{len(first) + len(last)} tokens. Raise it."
        )

    book = tested.encode(question.context, as_text=True)  # a "</s>" in it ends nothing
    kept = book
    if len(book) > room:
        beginning, end = room // 2, room - room // 2
        kept = [*book[:beginning], *book[len(book) - end :]]
    return Prompt(
        ids=[*first, *kept, *last],
        book=len(book),
        cut=len(book) - len(kept),
    )


def _ask_model(
    tested: ModelUnderTest,
    questions: list[Question],
    config: BookQaReportConfig,
    how: Asking,
    progress: Progress,
) -> list[Answer]:
    """Ask a local model, one question at a time. Raises UserError if its cache does not fit."""
    assert tested.model is not None
    check_room(tested.model, config.context, 1)
    answers = []
    for question in questions:
        asked = ask(tested, question, config, how)
        # Books have no common prefix, so each one gets a cache of its own size.
        room = len(asked.ids) + config.new_tokens
        cache = PrefixCache(tested.model, 1, room, config.tokens_at_once)
        prompt = np.array([asked.ids], np.int64)
        ids = cache.generate(prompt, config.new_tokens)[0].tolist()
        text, truncated = spoken(tested, ids, how)
        answers.append(
            Answer(
                book=asked.book,
                cut=asked.cut,
                text=text,
                truncated=truncated and not _ended(text),
            )
        )
        progress.add(1)
    return answers


def _ask_endpoint(
    tested: ModelUnderTest,
    questions: list[Question],
    config: BookQaReportConfig,
    how: Asking,
    progress: Progress,
) -> list[Answer]:
    """Ask an endpoint. Raises UserError if a request fails or a prompt is cut there."""
    endpoint = tested.endpoint
    assert endpoint is not None
    asked: dict[int, Prompt] = {}
    answers: dict[int, Answer] = {}

    def prompts() -> Iterator[tuple[int, str | list[int]]]:
        """Number and prompt of each question."""
        for number, question in enumerate(questions):  # one at a time: a book is long
            asked[number] = ask(tested, question, config, how)
            yield number, written(tested, asked[number].ids, how)

    def keep(number: int, reply: Reply) -> None:
        """Store the answer to question `number`."""
        one = asked.pop(number)
        check_read(reply, len(one.ids), endpoint)
        answers[number] = Answer(
            book=one.book,
            cut=one.cut,
            text=reply.text,
            greedy=reply.greedy,
            truncated=reply.cut and not _ended(reply.text),
        )
        progress.add(1)

    complete_all(endpoint, prompts(), config.new_tokens, keep)
    return [answers[number] for number in range(len(questions))]


def _ended(text: str) -> bool:
    """Whether the first line that has words came to its end."""
    return "\n" in text.lstrip()


def read_questions(config: BookQaReportConfig) -> list[Question]:
    """All questions. Raises UserError with file and line for one that can't be used."""
    path = config.questions
    if (path / FILE).is_file():
        return made_questions(read_texts(path, "book_qa_report.questions"), config)
    questions = []
    for file in _files(path):
        questions += list(_of_file(file))
    questions = questions[: config.count]
    if not questions:
        raise UserError(
            f"{path}: no question there. Name a .jsonl file with InfiniteBench's longbook_qa_eng."
        )
    return questions


def _files(path: Path) -> list[Path]:
    """The files of questions: local, or of the Hub. Raises UserError."""
    if path.suffix in (".yaml", ".yml"):
        try:
            named = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: can't be read as YAML: {one_line(error)}. Fix it.") from None
        source = validated(HubSource, named, str(path))
        return [fetch(source, name) for name in hub_files(source)]
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. "
            "Name a .jsonl file, a YAML file of the Hub, or data/raw_corpus/DOMAIN."
        )
    return [path]


def _of_file(path: Path) -> Iterator[Question]:
    """The questions of one file, in order. Raises UserError with the line of an invalid one."""
    for line, record in checked_records(path):
        try:
            yield Question.model_validate(record)
        except ValidationError as error:
            raise UserError(
                f"{shown(path)}, line {line}: not a question of longbook_qa_eng (id, context, "
                f"input, answer): {_reason(error)}. Fix the line, or remove it."
            ) from None


def _reason(error: ValidationError) -> str:
    """The first problem of a record, as a phrase."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else "record"
    if first["type"] == "missing":
        return f"no field {field!r}"
    if first["type"] == "string_pattern_mismatch":
        return f"{field} is empty"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"


def made_questions(texts: list[str], config: BookQaReportConfig) -> list[Question]:
    """Documents with a statement put in after a sentence, and a question for what it states."""
    questions = []
    for number in range(config.count or 20):
        draw = generator(config.seed, "book question", number)
        text = texts[int(draw.integers(len(texts)))]
        # Names that the document does not have, so that the statement alone holds the answer.
        absent = [name for name in NAMES if name not in text]
        key, *value = (absent[i] for i in draw.choice(len(absent), 3, replace=False))
        # The sample's sentences end with " . "; a document without one gets it at the beginning.
        ends = [place + 3 for place in range(len(text)) if text.startswith(" . ", place)] or [0]
        place = ends[int(draw.integers(len(ends)))]
        book = f"{text[:place]}the answer is the name {key} {' '.join(value)} . {text[place:]}"
        questions.append(
            Question(
                id=number,
                context=book,
                input=f"the answer is the name {key}",
                answer=(" ".join(value),),
            )
        )
    return questions


if __name__ == "__main__":
    report("book_qa_report", BookQaReportConfig, measure)
