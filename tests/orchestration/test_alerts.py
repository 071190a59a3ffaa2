"""Somebody is told, once, of what needs a person; and a webhook that is down harms nothing."""

import json
import math
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest
from dagster import DagsterInstance, DefaultSensorStatus, build_run_status_sensor_context
from dvc_world import an_item, make_checked_world, make_world, materialize

from core.environment import ALERT_URL
from orchestration.alerts import Losses, Watch, alert, alert_of_checks, failure_sensor
from orchestration.checks import Verdict, evaluations
from orchestration.graph import Item, read_graph
from orchestration.progress import Step

SAYS_A_LOSS = """
if "spike" in text:
    line = '{"progress": {"what": "train", "done": 1, "total": 2, "unit": "tok", "rate": 1,'
    print(line + ' "left": 1, "noted": {"loss": NaN}}}', flush=True)
"""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a webhook on loopback was told."""
    found = list[str]()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body.keys() == {"text"}
            found.append(body["text"])
            self.send_response(500 if self.path.endswith("broken") else 200)
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(ALERT_URL.name, f"http://127.0.0.1:{server.server_port}/secret")
    yield found
    server.shutdown()
    server.server_close()


def item(pool: str = "") -> Item:
    return an_item("checkpoint@x", pool=pool)


def line(**noted: float) -> Step:
    return Step(what="train", done=1, total=2, unit="tok", rate=1, left=1, noted=noted)


def test_a_failed_run_a_failed_check_and_a_loss_are_told_of(
    tmp_path: Path, told: list[str]
) -> None:
    world = make_checked_world(tmp_path)
    (world / "stage.py").write_text((world / "stage.py").read_text() + SAYS_A_LOSS)
    (world / "sources/book/documents").write_text("poison\n")
    (world / "sources/c4/documents").write_text("a bad spike\n")
    with DagsterInstance.ephemeral() as instance:
        _, run = materialize(world, instance, "raw/book", "raw/c4")
        context = build_run_status_sensor_context(
            "alerts", run.events[-1], instance, instance.get_run_by_id(run.run_id)
        )
        failure_sensor()(context.for_run_failure())
        materialize(world, instance, "raw/c4")
    ended = next(text for text in told if text.startswith("Needlework: run "))
    failed = next(text for text in told if text.startswith("Needlework: check "))
    (spike,) = set(told) - {ended, failed}
    assert len(told) == 3
    assert spike == (
        "Needlework: raw@c4: loss spike: loss nan, the first one. "
        "train: 1/2 (50%) tok, 1 tok/s, 1 s left, loss nan"
    )
    assert failed == (
        "Needlework: check no_bad_word of raw@c4 failed: expected no bad word; found one. "
        "Take it out."
    )
    assert ended.startswith(f"Needlework: run {run.run_id[:8]} of whole_graph failed.\n")
    assert ended.count("\n") == 2
    assert "raw__book: raw: poison in book" in ended
    assert "raw__c4: Check no_bad_word failed: expected no bad word; found one." in ended


def test_a_check_is_told_of_once_for_each_version_of_the_data(
    told: list[str], tmp_path: Path
) -> None:
    graph = read_graph(make_world(tmp_path))
    made = graph.items["raw@c4"]
    bad = Verdict(
        name="c", passed=False, expected="1", found="2", advice="Mend it.", blocking=False
    )
    with DagsterInstance.ephemeral() as instance:
        for version in ("a", "a", "b"):
            alert_of_checks(instance, made, [bad], version)
            for evaluation in evaluations(made, [bad], version):
                instance.report_runless_asset_event(evaluation)
    assert len(told) == 2


def test_work_without_a_line_of_progress_is_told_of_once() -> None:
    told = SimpleQueue[str]()
    with Watch(item(), told.put, minutes=1e-5) as watch:
        assert told.empty()  # no line yet, and no pool: it may have none
        watch.note(line(loss=3.0))
        assert told.get(timeout=60) == (
            "Needlework: checkpoint@x: no progress for 1e-05 minutes. Its last: "
            "train: 1/2 (50%) tok, 1 tok/s, 1 s left, loss 3"
        )
    assert told.empty()
    with Watch(item("gpu"), told.put, minutes=1e-5):
        assert told.get(timeout=60).endswith("Its last: none yet")


def test_a_spike_is_a_loss_far_above_the_lines_before_it() -> None:
    losses = Losses()
    falling = [5 - 0.1 * number for number in range(10)]
    assert not any(map(losses.spike, falling))
    assert losses.limit() == pytest.approx(4.55 + 10 * 0.25)
    assert losses.spike(7.2) == "loss 7.2, usual were 4.55"
    assert losses.spike(7.5) == ""  # of the same spike
    assert losses.spike(4.0) == ""
    assert losses.spike(math.nan).startswith("loss nan, usual were")
    assert not any(Losses().spike(loss) for loss in [9.0, 1.0, 9.0])  # too few to compare with


def test_without_a_webhook_nothing_is_sent_and_the_sensor_is_off(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    assert failure_sensor().default_status is DefaultSensorStatus.RUNNING
    monkeypatch.delenv(ALERT_URL.name)
    assert failure_sensor().default_status is DefaultSensorStatus.STOPPED
    assert alert("x") is False and told == []


@pytest.mark.parametrize("end", ["/secret/broken", "0/secret", " secret", "secret"])
def test_a_broken_webhook_is_a_line_without_its_address(
    monkeypatch: pytest.MonkeyPatch, told: list[str], capfd: pytest.CaptureFixture[str], end: str
) -> None:
    address = os.environ[ALERT_URL.name].removesuffix("/secret")
    monkeypatch.setenv(ALERT_URL.name, end if "/" not in end else f"{address}{end}")
    assert alert("x") is False
    said = capfd.readouterr().err
    assert said.startswith("An alert was not sent (") and said.count("\n") == 1
    assert "secret" not in said
