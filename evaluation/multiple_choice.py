"""Read local sets of multiple-choice questions: JSON Lines, MMLU's .csv files, or made ones.

Every question is checked. One that can't be scored stops the report with its file, line and reason:
a label of -1, as in unlabelled test splits, would otherwise score 0 % without an error. A question
may have any number of choices. The model is asked for the letter of a choice, as in MMLU, so the
length of a choice does not matter. Above 26 choices every label has two letters, for the same
reason. The cost: a small model may know an answer but not its letter.
"""

import csv
import io
import math
import re
import string
from collections import defaultdict
from collections.abc import Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from assets.document_store import FILE
from assets.randomness import generator
from assets.records import checked_records, read_text
from assets.sample_corpus import NAMES
from assets.source_files import shown, source_files
from core.errors import UserError
from evaluation.texts import read_texts

LETTERS = string.ascii_uppercase
CSV = (".csv", ".csv.gz", ".csv.zst")
SETTING = "short_context_report.tasks"
Item = dict[str, Any]  # question; shown: the choices; answer: the place of the right one
Set = tuple[list[Item], list[Item]]  # examples and questions


def read_sets(path: Path, count: int | None, seed: int) -> dict[str, Set]:
    """Subject -> examples and questions. count: how many to make, if they are made from documents.

    Raises UserError if there is no such set; with file, line and reason if a question can't be
    scored.
    """
    if (path / FILE).is_file():
        return {"made": ([], made_questions(read_texts(path, SETTING), count or 200, seed))}
    if path.is_dir():
        return _mmlu(path)
    if path.name.lower().endswith(CSV):
        return {"all": ([], _rows(path))}
    return _records(path)


def labels(count: int) -> list[str]:
    """The labels of `count` choices: A, B, C ...; above 26: AA, AB, AC ...

    All labels of a question have the same length.
    """
    if count <= len(LETTERS):
        return list(LETTERS[:count])
    pairs = [first + second for first, second in product(LETTERS, LETTERS)]
    return pairs[:count]


def framed(question: str, choices: Sequence[str], answer: int) -> Item:
    """The question in MMLU's frame: choices with letters, and the letter is asked for.

    answer: the place of the right choice, from 0.
    """
    letters = labels(len(choices))
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return {
        "question": "\n".join([question.strip(), *lines, "Answer:"]),
        "shown": letters,
        "answer": answer,
        "lettered": True,
    }


def checked(record: Any) -> tuple[str, Item]:
    """Subject and question of a record {question, choices, answer, subject}.

    Raises ValueError with the reason if it is not valid.
    """
    if not isinstance(record, dict):
        raise ValueError("not an object {question, choices, answer}")
    for field in ("question", "choices", "answer"):
        if field not in record:
            raise ValueError(f"no field {field!r}; it has {', '.join(map(str, record)) or 'none'}")
    question, choices = record["question"], record["choices"]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question = {question!r} is no text")
    if not isinstance(choices, list) or any(not _is_choice(choice) for choice in choices):
        raise ValueError(f"choices = {choices!r} is no list of texts")
    subject = record.get("subject", "all")
    if not isinstance(subject, str | int):
        raise ValueError(f"subject = {subject!r} is no text")
    texts = [str(choice) for choice in choices]
    return str(subject), framed(question, texts, place(record["answer"], texts))


def _is_choice(choice: Any) -> bool:
    """Whether a value can be the text of a choice."""
    if isinstance(choice, float):
        return math.isfinite(choice)  # pandas writes NaN for a missing choice
    # To Python, True is a number too.
    return isinstance(choice, str | int) and not isinstance(choice, bool)


def place(answer: Any, choices: Sequence[str], by_text: bool = True) -> int:
    """The place of the right choice, from 0.

    answer: that place, or a letter; with `by_text` also the text of the choice. Raises ValueError
    with the reason if it means no choice, or several.
    """
    count, most = len(choices), len(LETTERS) ** 2
    if count < 2:
        raise ValueError(f"{count} choices, where two or more are needed")
    if count > most:
        raise ValueError(f"{count} choices, more than {most}")

    # pandas writes a column of whole numbers with one gap as floats: 2.0.
    if isinstance(answer, float) and math.isfinite(answer) and answer == int(answer):
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return _place_of_number(answer, count)
    if not isinstance(answer, str):
        raise ValueError(f"answer = {answer!r} is neither a number nor a letter")

    text = answer.strip()
    if re.fullmatch(r"-\d+", text):
        return _place_of_number(int(text), count)
    meant = _meant(text, choices, by_text)
    if len(meant) > 1:
        raise ValueError(f"answer = {answer!r} could mean several choices")
    if not meant:
        first, *_, last = labels(count)
        known = f"0 to {count - 1}, or {first} to {last}"
        raise ValueError(f"answer = {answer!r} is no choice: {known}")
    return meant.pop()


def _place_of_number(answer: int, count: int) -> int:
    """The same number, if it is the place of one of `count` choices. Raises ValueError."""
    if answer == -1:
        raise ValueError("answer = -1 means that there is no label. Use a labelled split")
    if not 0 <= answer < count:
        raise ValueError(f"answer = {answer} is outside of the choices 0 to {count - 1}")
    return answer


def _meant(text: str, choices: Sequence[str], by_text: bool) -> set[int]:
    """The places that a text may mean: as a letter, as a number, or as the choice itself."""
    count = len(choices)
    meant = set()
    if text.isdecimal() and int(text) < count:
        meant.add(int(text))
    for number, label in enumerate(labels(count)):
        if text == label:
            meant.add(number)
    for number, choice in enumerate(choices):
        if by_text and text == choice.strip():
            meant.add(number)
    return meant


def _records(path: Path) -> dict[str, Set]:
    """The questions of a JSON Lines file, by subject. Raises UserError."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Name a .jsonl file of {{question, choices, answer}}, or a "
            "folder with MMLU's dev/ and test/."
        )

    sets: dict[str, Set] = defaultdict(lambda: ([], []))
    problems = []
    for line, record in checked_records(path):
        try:
            subject, item = checked(record)
            sets[subject][1].append(item)
        except ValueError as error:
            problems.append((line, str(error)))
    _refuse(path, problems)
    if not sets:
        raise UserError(
            f"{shown(path)}: no question there. "
            "Name a .jsonl file of {question, choices, answer}."
        )
    return dict(sets)


def _refuse(path: Path, problems: list[tuple[int, str]]) -> None:
    """Raise UserError if there is a problem. problems: line and reason of each."""
    if not problems:
        return
    line, reason = problems[0]
    more = f" {len(problems) - 1:,} more lines can't be scored either." if problems[1:] else ""
    raise UserError(f"{shown(path)}, line {line}: {reason}.{more} Fix or remove such lines.")


def _mmlu(folder: Path) -> dict[str, Set]:
    """The questions of dev/SUBJECT_dev.csv and test/SUBJECT_test.csv. Raises UserError."""
    if not (folder / "test").is_dir():
        raise UserError(
            f"{folder}: no folder test/ there. "
            "Name a folder with MMLU's dev/ and test/, or a .jsonl file."
        )
    tests = _by_subject(folder / "test", "_test")
    examples = _by_subject(folder / "dev", "_dev") if (folder / "dev").is_dir() else {}

    sets: dict[str, Set] = {}
    for subject, path in tests.items():
        shots = _rows(examples[subject]) if subject in examples else []
        sets[subject] = (shots, _rows(path))
    return sets


def _by_subject(folder: Path, ending: str) -> dict[str, Path]:
    """Subject -> its .csv file. Raises UserError for two files of one subject."""
    found: dict[str, Path] = {}
    for path in source_files(folder, CSV, SETTING).read:
        subject = path.name[: path.name.lower().index(".csv")].removesuffix(ending)
        if subject in found:
            raise UserError(
                f"{shown(path)}: {shown(found[subject])} has the same subject. Remove one of them."
            )
        found[subject] = path
    return found


def _rows(path: Path) -> list[Item]:
    """The questions of a .csv file. Raises UserError with the line of one that can't be scored.

    Without a header, as MMLU's authors publish it: question, choices, letter of the answer. With a
    header: question, choice0, choice1 ..., and answer as a number.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    items: list[Item] = []
    problems: list[tuple[int, str]] = []
    columns: list[str] | None = None
    line = 1  # where the row begins; a quoted cell may hold line ends
    try:
        for row in reader:
            is_first = not items and not problems and columns is None
            if is_first and _is_header(row):
                columns = [cell.strip().lower() for cell in row]
                twice = sorted({name for name in columns if name and columns.count(name) > 1})
                if twice:
                    raise UserError(
                        f"{shown(path)}, line {line}: two columns {twice[0]!r}, "
                        "and either may be meant. Rename one of them."
                    )
            elif row:
                try:
                    items.append(_row(row, columns))
                except ValueError as error:
                    problems.append((line, str(error)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{shown(path)}, line {line}: not a row of a .csv file: {error}. Fix its quotes."
        ) from None

    _refuse(path, problems)
    if not items:
        raise UserError(
            f"{shown(path)}: no question there. Remove the file, or put its questions there."
        )
    return items


def _is_header(row: list[str]) -> bool:
    """Whether the row names the columns question and answer."""
    return {"question", "answer"} <= {cell.strip().lower() for cell in row}


def _row(row: list[str], columns: list[str] | None) -> Item:
    """The question of one row. Raises ValueError with the reason if it can't be scored."""
    if columns is None:
        if len(row) < 4:
            raise ValueError(
                f"{len(row)} columns; a row is question, two or more choices, letter of the answer"
            )
        question, *choices, answer = row
    else:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} columns under a header of {len(columns)}")
        cells = dict(zip(columns, row, strict=True))
        question, answer = cells["question"], cells["answer"]
        names = _choice_columns(columns)
        counted_from_1 = not names[0].endswith(("a", "0"))
        if counted_from_1 and answer.strip().isdecimal():
            raise ValueError(
                f"answer = {answer.strip()} may count from 0, or from 1 as {names[0]} does. Name "
                "the columns from 0, or write letters"
            )
        choices = [cells[name] for name in names]
        while choices and not choices[-1].strip():
            choices.pop()  # a question with fewer choices than the header has
    if not question.strip():
        raise ValueError("the question is empty")
    return framed(question, choices, place(answer, choices, by_text=False))


def _choice_columns(columns: Sequence[str]) -> list[str]:
    """The names of the columns of choices, in order: a, b, c; choice0, choice1; or from choice1 on.

    A letter after a gap is another column, such as `n` for a number. Raises ValueError if the
    columns of choices are not one series.
    """
    lettered = list(takewhile(lambda letter: letter in columns, string.ascii_lowercase))
    numbers = {}
    for name in columns:
        found = re.fullmatch(r"choice_?(\d+)", name)
        if found:
            numbers[name] = int(found[1])

    numbered = sorted(numbers, key=lambda name: numbers[name])
    values = sorted(numbers.values())
    from_0_or_1 = values in (list(range(len(values))), list(range(1, len(values) + 1)))
    if (len(lettered) > 1) == bool(numbered) or not from_0_or_1:
        raise ValueError(
            f"the choices are not one series of columns in {', '.join(columns)}. Name them A, B, C "
            "... or choice0, choice1 ..."
        )
    return numbered or lettered


def made_questions(texts: list[str], count: int, seed: int, words: int = 40) -> list[Item]:
    """Questions for a value that a short passage states, with three other values to choose from.

    words: of the passage.
    """
    items = []
    for number in range(count):
        draw = generator(seed, "short question", number)
        text = texts[int(draw.integers(len(texts)))].split()
        start = int(draw.integers(max(len(text) - words, 1)))
        passage = text[start : start + words]
        # Names that the passage does not have: a key, and four values of two words.
        absent = [name for name in NAMES if name not in passage]
        key, *values = (absent[i] for i in draw.choice(len(absent), 9, replace=False))
        choices = [" ".join(values[i : i + 2]) for i in range(0, 8, 2)]

        right = int(draw.integers(4))
        at = int(draw.integers(len(passage) + 1))
        stated = f"the answer is the name {key} {choices[right]} ."
        asked = f"the answer is the name {key}"
        question = " ".join([*passage[:at], stated, *passage[at:], asked])
        items.append({"question": question, "shown": choices, "answer": right})
    return items
