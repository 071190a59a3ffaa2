"""Endpoints are asked in the form that each server accepts; no prompt is cut silently."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_world import ASSISTANT, BEGIN, END, USER, write_speaker

from core.errors import UserError
from evaluation import book_qa_report, needle_report
from evaluation.book_qa_report_config import BookQaReportConfig
from evaluation.endpoint import complete, complete_all
from evaluation.model_under_test import of_user
from evaluation.needle_report_config import NeedleReportConfig
from training.baselines import EndpointConfig

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""From a request's body to status and reply; the reply may be bytes as they are."""
GRASS = "The grass is green . The sky is blue . " * 40
WORDS = f"{GRASS} the key under a red stone Where Book Answer ? :"


class Server:
    """A server on loopback that gives the set answers and records its requests."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(
                    {"path": self.path, "key": self.headers["Authorization"], **body}
                )
                status, reply = answer(body)
                if status == 0:
                    return  # the connection is lost without an answer
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *given: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def config(self, **changes: Any) -> EndpointConfig:
        """How a user names it."""
        return EndpointConfig.model_validate(
            {
                "endpoint": f"http://127.0.0.1:{self.http.server_port}/v1",
                "model": "gpt",
                "tokenizer": "x",
                "context": 256,
                **changes,
            }
        )


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """Start a server."""
    started: list[Server] = []

    def start(answer: Answer) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def said(text: str | None, reason: str = "stop", **more: Any) -> tuple[int, Any]:
    """A reply that serves both kinds."""
    return 200, {
        "choices": [{"message": {"content": text}, "text": text, "finish_reason": reason}],
        **more,
    }


def refused(message: str, param: str | None = None, status: int = 400) -> tuple[int, Any]:
    """A refusal in OpenAI's form."""
    return status, {"error": {"message": message, "param": param}}


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [("chat", "/v1/chat/completions", "messages"), ("completions", "/v1/completions", "prompt")],
)
def test_endpoints_are_asked_greedily_with_a_token_limit(
    serve: Callable[[Answer], Server],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    path: str,
    key: str,
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    server = serve(lambda body: said("plums", "length", usage={"prompt_tokens": 3}))
    reply = complete(server.config(kind=kind, key_variable="A_KEY"), "What?", 4)
    assert (reply.text, reply.cut, reply.read, reply.greedy) == ("plums", True, 3, True)
    asked = server.asked[0]
    assert (asked["path"], asked["key"], asked["max_tokens"], asked["temperature"]) == (
        path,
        "Bearer secret",
        4,
        0,
    )
    assert asked[key] == ([{"role": "user", "content": "What?"}] if kind == "chat" else "What?")


def test_lost_connections_429_and_5xx_are_retried_refusals_not(
    serve: Callable[[Answer], Server],
) -> None:
    acts = [(0, b""), (429, {}), (503, {}), said("plums")]
    server = serve(lambda body: acts.pop(0))
    assert complete(server.config(), "What?", 4).text == "plums" and not acts
    acts += [refused("no such model", status=404)]
    with pytest.raises(
        UserError, match="chat/completions: 404: .*no such model.*what was answered is kept"
    ):
        complete(server.config(), "What?", 4)


def test_a_refused_request_field_is_changed_for_later_requests(
    serve: Callable[[Answer], Server],
) -> None:
    def newer(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return refused(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "max_tokens",
            )
        if "temperature" in body:
            return refused(
                "Unsupported value: 'temperature' does not support 0 with this model.",
                "temperature",
            )
        return said("plums")

    server, replies = serve(newer), []
    complete_all(
        server.config(),
        [(number, "What?") for number in range(20)],
        4,
        lambda number, reply: replies.append(reply),
    )
    assert len(replies) == 20 and not any(reply.greedy for reply in replies)
    taken = [
        body
        for body in server.asked
        if "max_completion_tokens" in body and "temperature" not in body
    ]
    assert all(body["max_completion_tokens"] == 4 for body in taken)
    assert len(taken) == 20 and len(server.asked) <= 20 + 2 * 8, "a refusal is learned from once"


def test_a_prompt_too_long_for_the_server_is_refused_once(
    serve: Callable[[Answer], Server],
) -> None:
    server = serve(
        lambda body: refused(
            "maximum context length is 8 tokens; reduce max_tokens or max_completion_tokens"
        )
    )
    with pytest.raises(UserError, match="400: .*maximum context length"):
        complete(server.config(), "What?", 4)
    assert len(server.asked) <= 3


def test_options_go_along_and_null_leaves_one_out(serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda body: said("plums"))
    options = {"reasoning_effort": "low", "max_completion_tokens": 900, "temperature": None}
    assert not complete(server.config(options=options), "What?", 4).greedy
    assert (
        server.asked[0].items() >= {"reasoning_effort": "low", "max_completion_tokens": 900}.items()
    )
    assert not {"max_tokens", "temperature"} & server.asked[0].keys()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({}, "without choices"),
        ({"choices": []}, "without choices"),
        (b"not JSON", "JSONDecodeError|without choices"),
    ],
)
def test_a_reply_that_is_none_is_a_line(
    serve: Callable[[Answer], Server], reply: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        complete(serve(lambda body: (200, reply)).config(), "What?", 4)


def test_a_reply_without_text_says_nothing(serve: Callable[[Answer], Server]) -> None:
    assert complete(serve(lambda body: said(None)).config(), "What?", 4).text == ""


def test_concurrent_requests_ask_each_prompt_once(
    serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_REQUESTS", "4")
    meeting = threading.Barrier(4, timeout=20)  # opens when four requests are there

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        meeting.wait()
        return said(body["messages"][0]["content"])

    server, got = serve(answer), {}
    complete_all(
        server.config(),
        ((number, str(number)) for number in range(8)),
        4,
        lambda number, reply: got.update({number: reply.text}),
    )
    assert got == {number: str(number) for number in range(8)} and len(server.asked) == 8


def endpoint_file(root: Path, server: Server, **changes: Any) -> str:
    """A YAML file that names the server, with a tokenizer beside it."""
    if not (root / "words").exists():
        write_speaker(root / "words", {}, WORDS)
    named = server.config(tokenizer=str(root / "words"), **changes).model_dump(mode="json")
    (root / "served.yaml").write_text(yaml.safe_dump(named))
    return str(root / "served.yaml")


def needle(
    root: Path,
    server: Server,
    lengths: tuple[int, ...] = (64, 128),
    chat: str = "auto",
    **changes: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics and trials of a needle report on the server."""
    (root / "hay.txt").write_text(GRASS)
    config = NeedleReportConfig.model_validate(
        {
            "haystack": str(root / "hay.txt"),
            "frame": "Book : {context} {question} Answer :",
            "new_tokens": 8,
            "chat": chat,
            "grid": {"lengths": lengths, "depths": [0, 50]},
            "needles": [
                {
                    "statement": "the key is under a red stone .",
                    "question": "Where is the key ?",
                    "answer": "under a red stone",
                    "answer_prefix": "Answer :",
                }
            ],
        }
    )
    out = root / "out"
    out.mkdir(exist_ok=True)
    metrics = needle_report.measure(of_user(endpoint_file(root, server, **changes)), config, out)
    return metrics, pd.read_csv(out / "trials.csv")


def test_an_endpoint_is_not_asked_beyond_its_context(
    tmp_path: Path,
    serve: Callable[[Answer], Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(lambda body: said("It is under a red stone."))
    metrics, trials = needle(tmp_path, server, context=100)
    assert len(server.asked) == 2 and metrics["mean_occurs"] == 1 and metrics["chat"]
    assert trials[trials["length"] == 128]["occurs"].isna().all()
    assert "lengths 128 are beyond its context of 100 tokens: not asked" in capsys.readouterr().err
    with pytest.raises(UserError, match="all are beyond the context of .*, 100 tokens"):
        needle(tmp_path, server, (128,), context=100)


def test_a_server_that_cuts_prompts_is_found_out(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="read 40 of a prompt's 120 tokens, so it cuts prompts"):
        needle(tmp_path, serve(lambda body: said("no", usage={"prompt_tokens": 40})), (128,))
    metrics, _ = needle(
        tmp_path, serve(lambda body: said("no", usage={"prompt_tokens": 110})), (128,)
    )
    assert metrics["mean_occurs"] == 0


def test_a_thinking_model_without_an_answer_gives_a_warning(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def thinks(body: dict[str, Any]) -> tuple[int, Any]:
        return refused("temperature") if "temperature" in body else said(None, "length")

    metrics, _ = needle(tmp_path, serve(thinks))
    assert metrics["empty"] == metrics["truncated"] == 1
    assert "100 % of the answers are empty" in metrics["warning"]
    assert "set the endpoint's `options`" in metrics["warning"], "a prefix would not be sent"
    assert "cut off before the expected answer came" in metrics["warning"]
    assert "refuses temperature 0, so another run gives other answers" in metrics["warning"]


@pytest.mark.parametrize(
    "content",
    [
        "<think>\nUnder a blue chair?\n</think>\n\nunder a red stone",
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "a blue chair?"}]},
            {"type": "text", "text": "under a red "},
            {"type": "text", "text": "stone"},
        ],
    ],
)
def test_thoughts_that_stand_before_an_answer_are_left_out(
    serve: Callable[[Answer], Server], content: Any
) -> None:
    server = serve(lambda body: said(content))
    assert complete(server.config(), "?", 8).text.strip() == "under a red stone"


def test_thoughts_without_an_end_are_an_empty_answer(serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda body: said("<think>\nunder a red stone?", "length"))
    reply = complete(server.config(), "?", 8)
    assert reply.text == "" and reply.cut


def test_the_kind_of_an_endpoint_says_who_wraps_a_prompt(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(lambda body: said("under a red stone"))
    needle(tmp_path, server, (64,))
    assert server.asked[-1]["messages"][0]["content"].startswith("Book :")
    assert server.asked[-1]["messages"][0]["content"].endswith("Where is the key ? Answer :")
    needle(tmp_path, server, (64,), kind="completions")
    assert (
        server.asked[-1]["prompt"].endswith("key ? Answer : Answer :")
        and BEGIN not in server.asked[-1]["prompt"]
    )
    needle(tmp_path, server, (64,), kind="completions", chat="always")
    wrapped = server.asked[-1]["prompt"]
    assert wrapped.startswith(f"{USER} Book :") and wrapped.endswith(
        f"Answer : {END} {ASSISTANT} Answer :"
    )
    with pytest.raises(
        UserError, match="needle_report.chat = never, but .* wraps every prompt itself"
    ):
        needle(tmp_path, server, (64,), chat="never")


def test_a_book_for_an_endpoint_is_cut_to_its_own_context(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(lambda body: said("green\nand blue"))
    question = {"id": 1, "context": GRASS, "input": "Where is the key ?", "answer": "green"}
    (tmp_path / "q.jsonl").write_text(
        json.dumps(question) + "\n" + json.dumps({**question, "id": 2})
    )
    config = BookQaReportConfig(
        questions=tmp_path / "q.jsonl",
        context=5000,
        new_tokens=6,
        frame="Book : {context} {question}",
    )
    metrics = book_qa_report.measure(
        of_user(endpoint_file(tmp_path, server, context=100)), config, tmp_path
    )
    assert (
        metrics["f1"] == metrics["occurs"] == 1
        and metrics["context"] == 100
        and metrics["books_cut"] == 2
    )
    words = server.asked[0]["messages"][0]["content"].split()
    assert len(words) == 94 and words[:2] == ["Book", ":"]
    assert pd.read_csv(tmp_path / "answers.csv")["id"].tolist() == [1, 2]
