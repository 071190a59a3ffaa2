"""The reports on whole models: any folder, an endpoint, stopped on the way; and what they say of bad questions."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from assets.stage import UserError, write_json
from assets.tokenizer import train_bpe
from evaluation import needle_report
from evaluation.book_qa_report import BookQaReportConfig, Question, ask, read_questions
from evaluation.needle_report import NeedleReportConfig, measure
from evaluation.short_context_report import Task, _read_sets, made_questions
from evaluation.subject import Subject, of_user
from training.model import make_reproducible

ROOT = Path(__file__).parents[2]
TEXT = "The cat sat on the mat. A dog ran to the red house. Nobody knew where the bird was. " * 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of a few thousand parameters with a tokenizer of its own, and a text."""
    make_reproducible(0)
    model = tmp_path / "model"
    tokenizer = train_bpe(iter([TEXT]), 300)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                 num_attention_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
                                 initializer_range=0.3)).save_pretrained(model)
    tokenizer.save(str(model / "tokenizer.json"))
    write_json(model / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                                                 "eos_token": "</s>"})
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(TEXT)
    return model


def needle_config(texts: Path, **changes: object) -> NeedleReportConfig:
    """Two lengths, three depths, two needles."""
    return NeedleReportConfig.model_validate({
        "haystack": str(texts), "frame": "Book: {context}\nQ: {question}\nA:", "trials": 2, "new_tokens": 5,
        "needles": [{"statement": "The key is under the red stone.", "question": "Where is the key?",
                     "answer": "under the red stone."},
                    {"statement": "Mary eats plums.", "question": "What does Mary eat?", "answer": "plums."}],
        "grid": {"lengths": [128, 200], "depths": [0, 50, 100]}, **changes})


def test_a_report_killed_on_the_way_goes_on_and_ends_in_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch
                                                                        ) -> None:
    monkeypatch.chdir(folder.parent)
    whole, resumed = folder.parent / "whole", folder.parent / "resumed"
    whole.mkdir()
    resumed.mkdir()
    config, subject = needle_config(folder.parent / "texts"), of_user(str(folder))
    measure(subject, config, whole)
    kept, asked = needle_report._keep, []

    def killed(path: Path, key: str, records: list[dict[str, object]]) -> None:
        kept(path, key, records)
        asked.append(key)
        if len(asked) == 2:
            with path.open("a") as file:
                file.write('["cut off by a kill')
            raise KeyboardInterrupt

    monkeypatch.setattr(needle_report, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, config, resumed)
    measure(subject, config, resumed)
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    for file in ("trials.csv", "cells.csv", "needle.json", "heatmap.png"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()


def test_one_trial_at_a_time_gives_what_trials_side_by_side_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    subject, found = of_user(str(folder)), []
    for rows in (1, 2):
        monkeypatch.setattr(needle_report, "rows_that_fit", lambda *given, rows=rows: rows)
        out = folder.parent / f"out{rows}"
        out.mkdir()
        measure(subject, needle_config(folder.parent / "texts"), out)
        found.append(pd.read_csv(out / "trials.csv"))
    pd.testing.assert_frame_equal(*found, atol=1e-4)


@pytest.fixture
def endpoint(folder: Path) -> Iterator[Path]:
    """A server that answers any chat with the sentence after "Question:" or, for the red stone, rightly."""
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            said = "It is under the red stone." if "red stone" in prompt and "Where" in prompt else "I do not know."
            reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *given: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = folder.parent / "served.yaml"
    file.write_text(yaml.safe_dump({"endpoint": f"http://127.0.0.1:{server.server_port}/v1", "model": "gpt",
                                    "tokenizer": str(folder), "context": 256}))
    yield file
    server.shutdown()


def test_an_endpoint_is_judged_by_its_words_alone(folder: Path, endpoint: Path, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    monkeypatch.chdir(folder.parent)
    out = folder.parent / "out"
    out.mkdir()
    metrics = measure(of_user(str(endpoint)), needle_config(folder.parent / "texts"), out)
    assert metrics["mean_exact_match"] == 0.5 and metrics["mean_gain"] is None
    trials = pd.read_csv(out / "trials.csv")
    assert trials[trials["trial"] == 0]["word_overlap"].eq(1).all()
    assert trials[trials["trial"] == 1]["word_overlap"].eq(0).all()


def test_a_look_at_any_model_is_one_command(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    params.write_text(yaml.safe_dump({"needle_report": needle_config(folder.parent / "texts").model_dump(mode="json")}))
    command = [sys.executable, "-m", "evaluation.needle_report", "--model", str(folder), "--out", "look"]
    done = subprocess.run([*command, "--set", "trials=1"], cwd=folder.parent, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 1 and (folder.parent / "look/heatmap.png").is_file()
    wrong = subprocess.run([*command, "--set", "trials=0"], cwd=folder.parent, capture_output=True, text=True,
                           env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    assert wrong.returncode == 1 and "trials = 0" in wrong.stderr and "Traceback" not in wrong.stderr


def subject_of(folder: Path) -> Subject:
    """Opened as a user would name it."""
    return of_user(str(folder))


def test_a_book_loses_its_middle_and_nothing_else(folder: Path) -> None:
    subject = subject_of(folder)
    question = Question(id=1, context=TEXT, input="Who sat?", answer=("the cat",))
    config = BookQaReportConfig(questions=Path("x"), context=120, new_tokens=10, frame="Read: {context} Q: {question}")
    asked = ask(subject, question, config)
    said = subject.decode(asked.ids)
    assert len(asked.ids) == 110 and asked.cut == asked.book - (110 - len(subject.encode(" Q: Who sat?"))
                                                                - len(subject.encode("Read: ")) - 1)
    assert said.startswith(" Read:  The cat sat") and said.endswith("where the bird was.  Q: Who sat?")
    whole = ask(subject, question, config.model_copy(update={"context": 4000}))
    assert whole.cut == 0 and TEXT.strip() in subject.decode(whole.ids)


def test_a_line_that_is_no_question_is_named(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    good = {"id": 1, "context": "a", "input": "b", "answer": ["c"], "options": []}
    file.write_text(f"{json.dumps(good)}\n{{\"id\": 2}}\n")
    with pytest.raises(UserError, match="line 2: not a question of longbook_qa_eng"):
        read_questions(BookQaReportConfig(questions=file, context=100))
    file.write_text(json.dumps(good))
    assert read_questions(BookQaReportConfig(questions=file, context=100))[0].answer == ("c",)


def test_made_choices_hold_the_stated_value_once_and_the_passage_states_it() -> None:
    for item in made_questions([TEXT], 20, 0):
        right = item["shown"][item["answer"]]
        assert len(set(item["shown"])) == 4 and f"{right} ." in item["question"]
        assert not any(f" {other} " in item["question"] for other in item["shown"] if other != right)


def test_mmlus_files_are_asked_in_its_frame(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"law_{split}.csv").write_text("question,choice0,choice1,choice2,choice3,answer\n"
                                                           f"{split}?,w,x,y,z,2\n")
    examples, questions = _read_sets(Task(file=tmp_path, shots=5), 0)["law"]
    assert examples[0]["question"] == "dev?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert questions[0]["shown"] == list("ABCD") and questions[0]["answer"] == 2
