"""Every question of a local set is scored right, or refused with its line and reason.

Also through lm-eval (evaluation/short_context_report.py), which must ask it unchanged.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_world import write_speaker

from core.errors import UserError
from evaluation import short_context_report
from evaluation.harness_model import harness_model
from evaluation.model_under_test import of_user
from evaluation.multiple_choice import labels, made_questions, place, read_sets
from evaluation.short_context_report import _why
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from evaluation.task_samples import read_samples

TREES = [
    "alder",
    "birch",
    "cedar",
    "dogwood",
    "elm",
    "fir",
    "ginkgo",
    "hazel",
    "ironwood",
    "juniper",
]
TEXT = "The cat sat on the mat. A dog ran to the red house. Nobody knew where the bird was. " * 30


def item(**changes: Any) -> dict[str, Any]:
    """A question with four choices."""
    return {
        "question": "Which tree?",
        "choices": TREES[:4],
        "answer": 1,
        "subject": "trees",
        **changes,
    }


def write(path: Path, *records: dict[str, Any]) -> Path:
    """As JSON Lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


@pytest.mark.parametrize("count", [2, 4, 5, 10, 26])
def test_there_are_as_many_letters_as_choices(tmp_path: Path, count: int) -> None:
    choices = [f"choice {number}" for number in range(count)]
    (found,) = read_sets(
        write(tmp_path / "q.jsonl", item(choices=choices, answer=count - 1)), None, 0
    )["trees"][1]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[count - 1]
    assert (
        found["answer"] == count - 1 and found["shown"][-1] == last and len(found["shown"]) == count
    )
    assert found["question"].endswith(f"\n{last}. choice {count - 1}\nAnswer:")


def test_labels_above_26_choices_have_one_length_and_are_unique() -> None:
    made = labels(100)
    assert len(set(made)) == 100 and {len(label) for label in made} == {2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": -1}, "answer = -1 means that there is no label"),
        ({"answer": "-1"}, "answer = -1 means"),
        ({"answer": 4}, "answer = 4 is outside of the choices 0 to 3"),
        ({"answer": -2}, "answer = -2 is outside"),
        ({"answer": 1.5}, "answer = 1.5 is neither"),
        ({"answer": True}, "answer = True is neither"),
        ({"answer": None}, "answer = None is neither"),
        ({"answer": "E"}, "answer = 'E' is no choice: 0 to 3, or A to D"),
        ({"answer": "b"}, "answer = 'b' is no choice"),
        ({"answer": [1]}, r"answer = \[1\] is neither"),
        ({"choices": ["2", "1", "0"], "answer": "1 "}, None),
        ({"choices": ["2", "3", "0"], "answer": "2"}, "several"),
        ({"choices": ["only"], "answer": 0}, "1 choices, where two or more are needed"),
        ({"choices": "ABCD"}, "choices = 'ABCD' is no list"),
        ({"choices": ["a", None]}, "is no list of texts"),
        ({"choices": ["a", float("nan")]}, "is no list of texts"),
        ({"question": " "}, "question = ' ' is no text"),
        ({"question": 3}, "question = 3 is no text"),
        ({"subject": ["x"]}, "subject = .* is no text"),
    ],
)
def test_an_unscorable_record_is_refused_with_line_and_reason(
    tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    path = write(tmp_path / "q.jsonl", item(), item(**change), item(**change))
    if reason is None:
        assert read_sets(path, None, 0)
        return
    with pytest.raises(UserError, match=f"q.jsonl, line 2: .*{reason}.*1 more lines"):
        read_sets(path, None, 0)


def test_a_record_without_a_field_or_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "a", "choices": ["b", "c"]}\n')
    with pytest.raises(UserError, match="line 1: no field 'answer'; it has question, choices"):
        read_sets(tmp_path / "q.jsonl", None, 0)
    (tmp_path / "q.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: not an object"):
        read_sets(tmp_path / "q.jsonl", None, 0)


@pytest.mark.parametrize(
    ("answer", "right"), [(2, 2), (2.0, 2), ("2", 2), ("C", 2), (" C ", 2), ("cedar", 2)]
)
def test_an_answer_is_a_place_a_letter_or_the_choice_itself(answer: Any, right: int) -> None:
    assert place(answer, TREES[:4]) == right


def test_odd_files_are_read_whole_or_refused_with_their_line(tmp_path: Path) -> None:
    odd = item(question="One\u2028two?", subject="biology/plants {x}")
    plain = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in (item(), odd))
    files = {
        "bom.jsonl": b"\xef\xbb\xbf" + plain.encode(),
        "blank.jsonl": plain.encode() + b"\n \n",
        "crlf.JSONL": plain.replace("\n", "\r\n").encode(),
        "packed.jsonl.gz": gzip.compress(plain.encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        sets = read_sets(tmp_path / name, None, 0)
        assert list(sets) == ["trees", "biology/plants {x}"] and len(sets["trees"][1]) == 1
        assert sets["biology/plants {x}"][1][0]["question"].startswith("One\u2028two?\nA. alder")
    (tmp_path / "latin.jsonl").write_bytes(
        plain.replace("birch", "bouleäu").encode("latin-1", "replace")
    )
    with pytest.raises(UserError, match="latin.jsonl, line 1: .*not UTF-8"):
        read_sets(tmp_path / "latin.jsonl", None, 0)


MMLU = (
    '"Which tree, with a comma,\nis it?",alder,birch,cedar,dogwood,B\n'
    'And {now}?,w,x,y,"z ""quoted""",D\n'
)


def mmlu(root: Path, test: str, dev: str | None = None) -> Path:
    """MMLU's folders with the subject botany, and what a Mac leaves beside a file."""
    (root / "test").mkdir(parents=True)
    (root / "test" / "botany_test.csv").write_text(test)
    (root / "test" / "._botany_test.csv").write_bytes(b"\x00\x05\x16\x07")
    if dev is not None:
        (root / "dev").mkdir()
        (root / "dev" / "botany_dev.csv").write_text(dev)
    return root


def test_mmlu_is_read_as_its_authors_publish_it(tmp_path: Path) -> None:
    examples, questions = read_sets(mmlu(tmp_path, MMLU, "\ufeff" + MMLU), None, 0)["botany"]
    assert examples == questions and [question["answer"] for question in questions] == [1, 3]
    assert questions[0]["question"] == (
        "Which tree, with a comma,\nis it?\nA. alder\nB. birch\nC. cedar\nD. dogwood\nAnswer:"
    )
    assert questions[1]["question"].endswith('D. z "quoted"\nAnswer:')


def test_mmlu_with_a_header_may_have_any_number_of_choices(
    tmp_path: Path,
) -> None:
    table = (
        "question,choice0,choice1,choice2,choice3,choice4,answer\ndev?,w,x,y,z,v,4\n"
        "two?,yes,no,,,,1\n"
    )
    _, questions = read_sets(mmlu(tmp_path, table), None, 0)["botany"]
    assert [(question["shown"], question["answer"]) for question in questions] == [
        (list("ABCDE"), 4),
        (list("AB"), 1),
    ]


@pytest.mark.parametrize(
    "columns", ["A,B,C", "choice0,choice1,choice2", "choice_1,choice_2,choice_3"]
)
def test_columns_beside_the_choices_are_no_choices(tmp_path: Path, columns: str) -> None:
    table = f"n,question,{columns},answer,x\n7,two?,u,v,w,B,8\n"
    _, (question,) = read_sets(mmlu(tmp_path, table), None, 0)["botany"]
    assert question["question"] == "two?\nA. u\nB. v\nC. w\nAnswer:" and question["answer"] == 1


@pytest.mark.parametrize(
    ("columns", "answer", "reason"),
    [
        ("a,c,d", "A", "the choices are not one series of columns in question, a, c, d, answer"),
        ("choice0,choice2,choice3", "A", "not one series"),
        ("choice0,choice_0,choice1", "A", "not one series"),
        ("choice0,a,b", "A", "not one series"),
        ("first,second,third", "A", "not one series"),
        ("choice1,choice2,choice3", "1", "answer = 1 may count from 0, or from 1 as choice1 does"),
    ],
)
def test_columns_that_leave_the_choices_open_are_refused(
    tmp_path: Path, columns: str, answer: str, reason: str
) -> None:
    with pytest.raises(UserError, match=f"line 2: .*{reason}"):
        read_sets(mmlu(tmp_path, f"question,{columns},answer\ntwo?,u,v,w,{answer}\n"), None, 0)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (MMLU + "a?,b,c,d,e,E\n", "botany_test.csv, line 4: answer = 'E' is no choice"),
        (MMLU + "a?,b,A\n", "line 4: 3 columns"),
        ("question,choice0,choice1,answer\na?,b,c,-1\n", "line 2: answer = -1"),
        ("question,choice0,choice1,answer\na?,b,c\n", "line 2: 3 columns under a header of 4"),
        (MMLU + '"a?,b,c,d,e,A\n', "line 4: not a row"),
        (",b,c,d,e,A\n", "line 1: the question is empty"),
        ("", "no question there"),
    ],
)
def test_an_unscorable_row_is_refused_with_line_and_reason(
    tmp_path: Path, table: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        read_sets(mmlu(tmp_path, table), None, 0)


def test_made_choices_hold_the_stated_value_once() -> None:
    for made in made_questions([TEXT], 20, 0):
        right = made["shown"][made["answer"]]
        assert len(set(made["shown"])) == 4 and f"{right} ." in made["question"]
        assert not any(
            f" {other} " in made["question"] for other in made["shown"] if other != right
        )


def test_the_hub_is_named_only_where_it_was_the_reason() -> None:
    local, remote = Task(file=Path("q.jsonl")), Task(harness="mmlu")
    assert "Hub" not in _why("x", local, IndexError("list index out of range"))
    assert "IndexError: list index out of range" in _why(
        "x", remote, IndexError("list index out of range")
    )
    assert "Hub" not in _why("x", remote, IndexError("list index out of range"))
    assert "Hub" not in _why("x", local, FileNotFoundError("q.jsonl"))
    assert "Without the Hub, give a local `file`" in _why("x", remote, ConnectionError("offline"))
    wrapped = RuntimeError("cannot load")
    wrapped.__cause__ = ConnectionError("offline")
    assert "Without the Hub" in _why("x", remote, wrapped)


def test_examples_that_are_not_there_are_a_line(tmp_path: Path) -> None:
    folder = mmlu(tmp_path / "mmlu", MMLU)
    config = ShortContextReportConfig(tasks={"set": Task(file=folder, shots=5)})
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "a b")))
    with pytest.raises(UserError, match="tasks.set.shots = 5, but .* has no examples"):
        short_context_report.measure(tested, config, tmp_path)


@pytest.mark.parametrize("around", [None, "$A <|end|>", "<|begin|> $A", "<|begin|> $A <|end|>"])
def test_harness_prompts_begin_with_bos_and_never_end_with_eos(
    tmp_path: Path, around: str | None
) -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "a b c", around=around)))
    harness = harness_model(tested, 2, 4)
    ids = [tested.tokenizer.token_to_id(token) for token in ("<|begin|>", "a", "b", "c")]
    assert harness.tok_encode("a b c") == ids
    assert harness._encode_pair("a b", " c") == (ids[:3], ids[3:])
    rows, mask = harness.tok_batch_encode(["a b c a", "a"], left_truncate_len=4)
    assert rows[0].tolist() == [*ids[1:], ids[1]] and harness.cut == 1
    assert rows[1, 2:].tolist() == ids[:2] and mask[1].tolist() == [0, 0, 1, 1]


def test_the_harness_scores_many_choices_and_any_subject(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    path = write(
        tmp_path / "q.jsonl",
        item(choices=TREES, answer=9, subject="biology/plants {{x}}"),
        item(choices=TREES, answer=4, subject="biology/plants {{x}}"),
        item(choices=TREES, answer=9),
        item(question="{{x}} " * 200 + "?", answer=2),
    )
    words = (
        f"Which tree ? Answer : . {' '.join(TREES)} {' '.join('ABCDEFGHIJ')} x biology plants trees"
    )
    says_j = write_speaker(tmp_path / "model", {":": "J"}, words, context=128)
    config = ShortContextReportConfig(tasks={"local": Task(file=path)}, chat="never")
    assert short_context_report.measure(of_user(str(says_j)), config, tmp_path) == {"local": 50.0}
    assert (tmp_path / "scores.csv").read_text().splitlines() == [
        "task,subject,score,questions,metric,higher_is_better,scale",
        "local,biology/plants {{x}},50.0,2,acc,True,percent",
        "local,trees,50.0,2,acc,True,percent",
    ]
    summary = json.loads((tmp_path / "short_context.json").read_text())["local"]
    assert summary["cut_prompts"] == 1 and summary["metric"] == "acc" and not summary["chat"]
    samples = read_samples(tmp_path)
    assert [sample["target"] for sample in samples] == [9, 4, 9, 2]
    assert [sample["score"] for sample in samples] == [1.0, 0.0, 1.0, 0.0]
    # The long one is stored as the model saw it: its last 128 tokens, the answer's among them.
    assert [sample["cut"] for sample in samples] == [False, False, False, True]
    assert not samples[3]["prompt"].startswith("The following")
    assert samples[0]["prompt"].endswith("Answer:")
    assert len(samples[0]["answers"]) == 10
    probable = max(samples[0]["answers"], key=lambda answer: answer["log_prob"])
    assert probable["text"] == " J" and probable["greedy"]
    assert "the harness cut 1 prompts that are longer than 128 tokens" in capsys.readouterr().err


def test_a_model_that_gives_nan_is_not_scored_by_the_harness(tmp_path: Path) -> None:
    """It would take A for the model's choice."""
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    path = write(tmp_path / "q.jsonl", item(answer=0))
    tested = of_user(str(write_speaker(tmp_path / "model", {}, "Which A B C D")))
    with torch.no_grad():
        tested.model.lm_head.weight[0, 0] = float("nan")
    config = ShortContextReportConfig(tasks={"local": Task(file=path)})
    with pytest.raises(UserError, match="the model gives NaN instead of scores"):
        short_context_report.measure(tested, config, tmp_path)


def test_a_header_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("question,A,B,a,answer\nWhich?,x,y,z,B\n")
    with pytest.raises(UserError, match="q.csv, line 1: two columns 'a', and either may be meant"):
        read_sets(path, None, 0)
