"""Questions on whole books, cut in the middle to what the model may read; F1 of what it says.

Questions are in InfiniteBench's schema (`longbook_qa_eng`): {"id", "context", "input", "answer": [..]}, from a JSON
Lines file, or from the Hub by a YAML file. A book that is too long loses its middle, as in their code and the paper:
its beginning and end stay, in equal parts, so an answer may be cut away for every model alike. Where `questions` is a
folder of data/raw_corpus, they are made: a held-out document, a statement put in somewhere, and what it states asked
for. That is a needle in a book and shows that the path runs; it is no measure of reading.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, ValidationError

from assets.document_store import FILE
from assets.hub import HubSource, fetch, hub_files
from assets.progress import Progress
from assets.randomness import generator
from assets.sample_corpus import NAMES
from assets.stage import Config, UserError, validated, write_json
from evaluation.answers import f1
from evaluation.subject import Subject, complete, report
from evaluation.texts import read_texts
from evaluation.walk import Walk, check_room
from training.model import make_reproducible


class BookQaReportConfig(Config):
    """Which questions, and how they are asked."""

    seed: int = 0
    questions: Path
    """A .jsonl file, a YAML file that names a Hub dataset and its files, or data/raw_corpus/DOMAIN to make some."""
    count: Annotated[int, Field(ge=1)] | None = None
    """The first so many; or how many to make."""
    context: Annotated[int, Field(ge=64)]
    """Tokens of prompt and answer together, to which a book is cut in its middle."""
    frame: str = ("Read the book and answer the question.\n\n{context}\n\nQuestion: {question}\n\nAnswer:")
    new_tokens: Annotated[int, Field(ge=1)] = 40
    """Tokens that the model may say; of them the first line counts."""
    tokens_at_once: Annotated[int, Field(ge=1)] = 8192


class Question(Config):
    """A record of InfiniteBench; what else it holds is not used."""

    model_config = {**Config.model_config, "extra": "ignore"}
    id: int | str
    context: str
    input: str
    answer: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt, and how much of its book had to go."""

    ids: list[int]
    book: int
    cut: int


def measure(subject: Subject, config: BookQaReportConfig, folder: Path) -> dict[str, Any]:
    """Write answers.csv and book_qa.json; returns mean F1, its standard error, and how many books were cut."""
    make_reproducible(config.seed)
    questions = read_questions(config)
    if subject.model is not None:
        check_room(subject.model, config.context, 1)
    progress = Progress(subject.name, len(questions), "question")
    records = []
    for question in questions:
        asked = ask(subject, question, config)
        said = answer(subject, asked, config)
        records.append({"id": question.id, "f1": round(f1(said, question.answer), 5), "said": said,
                        "expected": " | ".join(question.answer), "book_tokens": asked.book, "cut_tokens": asked.cut})
        progress.add(1)
    progress.close()
    answers = pd.DataFrame(records)
    answers.to_csv(folder / "answers.csv", index=False, lineterminator="\n")
    error = answers["f1"].std() / len(answers) ** 0.5 if len(answers) > 1 else np.nan
    summary = {"f1": round(float(answers["f1"].mean()), 5), "questions": len(answers),
               "standard_error": None if np.isnan(error) else round(float(error), 5),
               "books_cut": int((answers["cut_tokens"] > 0).sum())}
    write_json(folder / "book_qa.json", summary)
    return summary


def ask(subject: Subject, question: Question, config: BookQaReportConfig) -> Asked:
    """The prompt of a question, its book cut in the middle to fit. Raises UserError if not even an empty one fits."""
    before, after = config.frame.split("{context}")
    first = [*subject.begin, *(subject.encode(before) if before else [])]
    last = subject.encode(after.replace("{question}", question.input))
    room = config.context - config.new_tokens - len(first) - len(last)
    if room < 2:
        raise UserError(f"book_qa_report.context = {config.context}: question {question.id} and its frame alone take "
                        f"{len(first) + len(last)} tokens. Raise it.")
    book = subject.encode(question.context)
    kept = book if len(book) <= room else [*book[:room // 2], *book[len(book) - (room - room // 2):]]
    return Asked(ids=[*first, *kept, *last], book=len(book), cut=len(book) - len(kept))


def answer(subject: Subject, asked: Asked, config: BookQaReportConfig) -> str:
    """What the model says, to the end of the first line that has words."""
    if subject.endpoint is not None:
        said = complete(subject.endpoint, subject.decode(asked.ids), config.new_tokens)
    else:
        assert subject.model is not None
        walk = Walk(subject.model, 1, len(asked.ids) + config.new_tokens, config.tokens_at_once)
        ids = walk.say(np.array([asked.ids], np.int64), config.new_tokens)[0].tolist()
        said = subject.decode(ids[:ids.index(subject.end)] if subject.end in ids else ids)
    return said.strip().split("\n")[0].strip()


def read_questions(config: BookQaReportConfig) -> list[Question]:
    """All of them. Raises UserError naming the file and line of one that can't be used."""
    path = config.questions
    if (path / FILE).is_file():
        return made_questions(read_texts(path), config)
    questions = [question for file in _files(path) for question in _of_file(file)][:config.count]
    if not questions:
        raise UserError(f"{path}: no question there. Name a .jsonl file with InfiniteBench's longbook_qa_eng.")
    return questions


def _files(path: Path) -> list[Path]:
    if path.suffix in (".yaml", ".yml"):
        source = validated(HubSource, yaml.safe_load(path.read_text()), str(path))
        return [fetch(source, name) for name in hub_files(source)]
    if not path.is_file():
        raise UserError(f"{path}: no such file. Name a .jsonl file, a YAML file of the Hub, or data/raw_corpus/DOMAIN.")
    return [path]


def _of_file(path: Path) -> Iterator[Question]:
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield Question.model_validate(json.loads(line))
            except (ValueError, ValidationError) as error:
                problem = str(error).splitlines()[0]
                raise UserError(f"{path}, line {number}: not a question of longbook_qa_eng (id, context, input, "
                                f"answer): {problem}. Mend or remove the line.") from None


def made_questions(texts: list[str], config: BookQaReportConfig) -> list[Question]:
    """Documents with a statement put in after a sentence, and what it states asked for."""
    questions = []
    for number in range(config.count or 20):
        draw = generator(config.seed, "book question", number)
        text = texts[int(draw.integers(len(texts)))]
        absent = [name for name in NAMES if name not in text]
        key, *value = (absent[i] for i in draw.choice(len(absent), 3, replace=False))
        ends = [place + 3 for place in range(len(text)) if text.startswith(" . ", place)] or [0]
        place = ends[int(draw.integers(len(ends)))]
        book = f"{text[:place]}the answer is the name {key} {' '.join(value)} . {text[place:]}"
        questions.append(Question(id=number, context=book, input=f"the answer is the name {key}",
                                  answer=(" ".join(value),)))
    return questions


if __name__ == "__main__":
    report("book_qa_report", BookQaReportConfig, measure)
