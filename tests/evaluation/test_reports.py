"""The reports on whole models: any folder, an endpoint, after a kill, with changed settings."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import starts
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from assets.tokenizer import train_bpe
from core.errors import UserError
from core.sealed import write_json
from evaluation import needle_asking, short_context_report
from evaluation.book_qa_report import Question, ask
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.chat import asking
from evaluation.model_under_test import of_user
from evaluation.needle_report import measure
from evaluation.needle_report_config import NeedleReportConfig
from evaluation.prefix_cache import cache_bytes
from evaluation.report import _changed
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from training.model import make_reproducible

ROOT = Path(__file__).parents[2]
TEXT = "The cat sat on the mat. A dog ran to the red house. Nobody knew where the bird was. " * 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of a few thousand parameters with a tokenizer of its own, and a text."""
    make_reproducible(0)
    model = tmp_path / "model"
    tokenizer = train_bpe(iter([TEXT]), 300)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.3,
        )
    ).save_pretrained(model)
    tokenizer.save(str(model / "tokenizer.json"))
    write_json(
        model / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(TEXT)
    return model


def needle_config(texts: Path, **changes: object) -> NeedleReportConfig:
    """Two lengths, three depths, two needles."""
    return NeedleReportConfig.model_validate(
        {
            "haystack": str(texts),
            "frame": "Book: {context}\nQ: {question}\nA:",
            "trials": 2,
            "new_tokens": 5,
            "needles": [
                {
                    "statement": "The key is under the red stone.",
                    "question": "Where is the key?",
                    "answer": "under the red stone.",
                },
                {
                    "statement": "Mary eats plums.",
                    "question": "What does Mary eat?",
                    "answer": "plums.",
                },
            ],
            "grid": {"lengths": [128, 200], "depths": [0, 50, 100]},
            **changes,
        }
    )


def test_a_killed_report_resumes_to_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    whole, resumed = folder.parent / "whole", folder.parent / "resumed"
    whole.mkdir()
    resumed.mkdir()
    config, tested = needle_config(folder.parent / "texts"), of_user(str(folder))
    measure(tested, config, whole)
    kept, asked = needle_asking.keep, []

    def killed(path: Path, key: str, records: list[dict[str, object]]) -> None:
        kept(path, key, records)
        asked.append(key)
        if len(asked) == 2:
            with path.open("a") as file:
                file.write('["cut off by a kill')
            raise KeyboardInterrupt

    monkeypatch.setattr(needle_asking, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(tested, config, resumed)
    measure(tested, config, resumed)
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    for file in ("trials.csv", "cells.csv", "needle.json", "heatmap.png"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()


def test_one_trial_at_a_time_gives_what_trials_side_by_side_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    tested, found = of_user(str(folder)), []
    for rows in (1, 2):
        out = folder.parent / f"out{rows}"
        out.mkdir()
        measure(tested, needle_config(folder.parent / "texts", side_by_side=rows), out)
        found.append(pd.read_csv(out / "trials.csv"))
    pd.testing.assert_frame_equal(*found, atol=1e-4)  # sums in another order


def test_memory_decides_refusal_and_no_byte_of_a_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    tested, config, found = of_user(str(folder)), needle_config(folder.parent / "texts"), []
    two_rows = 2 * cache_bytes(tested.model.config, 200, 4) / 2**30
    for limit in (two_rows, 1.0):
        monkeypatch.setenv("NEEDLEWORK_CACHE_GIB", f"{limit:.12f}")
        out = folder.parent / f"out{limit}"
        out.mkdir()
        measure(tested, config, out)
        found.append((out / "trials.csv").read_bytes())
    assert found[0] == found[1]
    monkeypatch.setenv("NEEDLEWORK_CACHE_GIB", f"{two_rows * 0.6:.12f}")
    with pytest.raises(UserError, match="Set needle_report.side_by_side to 1"):
        measure(tested, config, folder.parent)


@pytest.fixture
def endpoint(folder: Path) -> Iterator[Path]:
    """A server that answers any chat with the sentence after "Question:" or, for the red stone,
    rightly.
    """

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            said = (
                "It is under the red stone."
                if "red stone" in prompt and "Where" in prompt
                else "I do not know."
            )
            reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *given: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = folder.parent / "served.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "endpoint": f"http://127.0.0.1:{server.server_port}/v1",
                "model": "gpt",
                "tokenizer": str(folder),
                "context": 256,
            }
        )
    )
    yield file
    server.shutdown()


def test_an_endpoint_is_judged_by_its_words_alone(
    folder: Path, endpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    out = folder.parent / "out"
    out.mkdir()
    metrics = measure(of_user(str(endpoint)), needle_config(folder.parent / "texts"), out)
    assert metrics["mean_exact_match"] == 0.5 and metrics["mean_gain"] is None
    trials = pd.read_csv(out / "trials.csv")
    assert trials[trials["trial"] == 0]["word_overlap"].eq(1).all()
    assert trials[trials["trial"] == 1]["word_overlap"].eq(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("haystack.foo=1", "haystack is no section but a value or list"),
        ("grid.lengths.0=5", "grid.lengths is no section but a value or list"),
        ("grid.lengths=[1", "not valid YAML"),
        ("trials", "write KEY=VALUE"),
        ("drawn.words=sample", "drawn.statement: missing"),
        ("grid.lenghts=[64]", "Known here: kind, lengths, depths, places"),
    ],
)
def test_an_impossible_change_is_one_line(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _changed(needle_config(tmp_path), (change,), "needle_report")


def test_any_model_is_measured_by_one_command(folder: Path) -> None:
    params = folder.parent / "params.yaml"
    params.write_text(
        yaml.safe_dump(
            {"needle_report": needle_config(folder.parent / "texts").model_dump(mode="json")}
        )
    )
    command = ["evaluation.needle_report", "--model", str(folder), "--out", "measured", "--set"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = starts.run(*command, "trials=1", cwd=folder.parent, env=environment)
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["trials"] == 1
        and (folder.parent / "measured/heatmap.png").is_file()
    )
    wrong = starts.run(*command, "trials=0", cwd=folder.parent, env=environment)
    assert (
        wrong.returncode == 1 and "trials = 0" in wrong.stderr and "Traceback" not in wrong.stderr
    )


def test_a_book_loses_its_middle_and_nothing_else(folder: Path) -> None:
    tested = of_user(str(folder))
    question = Question(id=1, context=TEXT, input="Who sat?", answer=("the cat",))
    config = BookQaReportConfig(
        questions=Path("x"), context=120, new_tokens=10, frame="Read: {context} Q: {question}"
    )
    how = asking(tested, "never", {}, "book_qa_report")
    asked = ask(tested, question, config, how)
    said = tested.decode(asked.ids)
    assert len(asked.ids) == 110 and asked.cut == asked.book - (
        110 - len(tested.encode(" Q: Who sat?")) - len(tested.encode("Read: ")) - 1
    )
    assert said.startswith(" Read:  The cat sat") and said.endswith(
        "where the bird was.  Q: Who sat?"
    )
    whole = ask(tested, question, config.model_copy(update={"context": 4000}), how)
    assert whole.cut == 0 and TEXT.strip() in tested.decode(whole.ids)


@pytest.mark.parametrize("shots", [None, 0, 3])
def test_shots_0_gives_no_examples_and_null_the_tasks_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shots: int | None
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    asked = []

    def noted(*given: object, num_fewshot: int | None, **others: object) -> None:
        asked.append(num_fewshot)
        raise LookupError("not run here")

    monkeypatch.setattr(lm_eval, "simple_evaluate", noted)
    monkeypatch.setattr(short_context_report, "_all_tasks", lambda: None)  # it takes a minute
    config = ShortContextReportConfig(tasks={"gsm": Task(harness="gsm8k", shots=shots)})
    with pytest.raises(UserError, match="cannot run gsm8k"):
        short_context_report.measure(of_user(str(folder)), config, folder)
    assert asked == [shots]
