"""Questions of longbook_qa_eng are read as they are meant, or refused with their line and reason."""

import json
from pathlib import Path

import pytest

from core.errors import UserError
from evaluation.book_qa_report import read_questions
from evaluation.book_qa_report_config import BookQaReportConfig


def test_a_line_that_is_no_question_is_named(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    good = {"id": 1, "context": "a", "input": "b", "answer": ["c"], "options": []}
    file.write_text(f'{json.dumps(good)}\n{{"id": 2}}\n')
    with pytest.raises(UserError, match="line 2: not a question of longbook_qa_eng"):
        read_questions(BookQaReportConfig(questions=file, context=100))
    file.write_text(json.dumps(good))
    assert read_questions(BookQaReportConfig(questions=file, context=100))[0].answer == ("c",)


def test_a_whole_number_is_expected_without_a_point(tmp_path: Path) -> None:
    """pandas writes 1984 as 1984.0 if another answer of the column is missing."""
    file = tmp_path / "questions.jsonl"
    record = {"id": 1, "context": "a", "input": "b", "answer": [1984.0, 12, 1.5]}
    file.write_text(json.dumps(record))
    (question,) = read_questions(BookQaReportConfig(questions=file, context=100))
    assert question.answer == ("1984", "12", "1.5")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": []}, r"answer: .* at least 1"),
        ({"answer": [None]}, "neither a text nor a list of texts"),
        ({"answer": " "}, "neither a text nor a list"),
        ({"answer": [float("nan")]}, "neither a text nor a list"),
        ({"context": ""}, "context is empty"),
        ({"input": None}, "input: Input should be a valid string"),
        ({"id": 1.5}, "id: "),
    ],
)
def test_an_invalid_question_is_refused_with_line_and_reason(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    file, good = (
        tmp_path / "questions.jsonl",
        {"id": 1, "context": "a", "input": "b", "answer": ["c"]},
    )
    file.write_text(f"{json.dumps(good)}\n\n{json.dumps({**good, **change})}\n")
    with pytest.raises(UserError, match=f"line 3: not a question .*{reason}"):
        read_questions(BookQaReportConfig(questions=file, context=100))


def test_odd_question_files_are_read_or_refused_with_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        '{"id": 1, "context": "One\u2028two", "input": "b", "answer": "Odo"}',
        '{"id": "x", "context": "a \\ud800 b", "input": "b", "answer": [7, "Odo"]}',
    ]
    file = tmp_path / "questions.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    one, two = read_questions(BookQaReportConfig(questions=file, context=100))
    assert (one.context, one.answer) == ("One\u2028two", ("Odo",))
    assert (two.context, two.answer) == ("a ? b", ("7", "Odo"))
    assert "lone surrogates became question marks in 1 records" in capsys.readouterr().err
    file.write_bytes("\n".join([lines[1], lines[1].replace("a ", "à ")]).encode("latin-1"))
    with pytest.raises(UserError, match="questions.jsonl, line 2: .*not UTF-8"):
        read_questions(BookQaReportConfig(questions=file, context=100))


@pytest.mark.parametrize(
    "frame",
    ["{question}", "{context} Q:", "{question} {context}", "{context} {context} {question}"],
)
def test_a_frame_without_its_places_is_refused(frame: str) -> None:
    with pytest.raises(ValueError, match="frame needs"):
        BookQaReportConfig(questions=Path("x"), context=100, frame=frame)
