"""The browser when things wait or go wrong: a bar for each step, what would run and why, an approval,
a check that holds its downstream back, an alert, a lost output, params.yaml that can't be read.

One server on the small project, with checks. Sensors may spend nothing without an approval.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from dagster_server import ROOT, Server, serving, until
from dvc_world import make_checked_world
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000.0
"""Milliseconds; a sensor ticks every few seconds, and a run takes some seconds to begin."""
BOOK = Path("sources/book/documents")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def alerts() -> Iterator[tuple[str, list[str]]]:
    """A webhook: its address, and the texts that it got."""
    got = list[str]()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret", got
        server.shutdown()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, alerts: tuple[str, list[str]]
) -> Iterator[Server]:
    """`make ui` on a project with everything made, with that webhook and no budget."""
    world = make_checked_world(tmp_path_factory.mktemp("watching") / "world")
    with serving(world, NEEDLEWORK_ALERT_URL=alerts[0], NEEDLEWORK_BUDGET="cpu=0") as server:
        ended(server, server.launch(), "SUCCESS")
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1700, "height": 1100})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    page.close()


def ended(server: Server, run: str, status: str) -> None:
    """Wait for the run, which must end so."""
    until(lambda: server.status(run) in ("SUCCESS", "FAILURE", "CANCELED"))
    assert server.status(run) == status


def approve(server: Server) -> None:
    """`make approve`."""
    subprocess.run(
        [sys.executable, "-m", "orchestration.approve"],
        cwd=server.world,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NEEDLEWORK_BUDGET": "cpu=0"},
        check=True,
    )


def write(server: Server, text: str) -> None:
    """The documents of the domain `book`."""
    (server.world / BOOK).write_text(text)


def test_a_run_shows_a_bar_for_each_step(page: Page, server: Server) -> None:
    run = server.launch("raw/book", "raw/c4", "mixed/short", "mixed/both", "report")
    ended(server, run, "SUCCESS")
    page.goto(f"{server.address}/runs/{run}")
    for step in ("raw__book", "raw__c4", "mixed__short", "mixed__both", "report__all"):
        expect(page.get_by_text(step, exact=True).first).to_be_visible()


def test_what_is_due_and_why_waits_for_an_approval(page: Page, server: Server) -> None:
    write(server, "a document of book\nanother\n")
    server.switch("changes", on=True)
    until(lambda: any("Beyond" in str(tick["skipReason"]) for tick in server.ticks("changes")))
    page.goto(f"{server.address}/locations/needlework/sensors/changes")
    expect(page.get_by_text("source sources/book changed").first).to_be_visible()
    expect(page.get_by_text("so it waits for a person: raw@book").first).to_be_visible()

    before = len(server.runs())
    approve(server)
    until(lambda: len(server.runs()) > before)
    run = server.runs()[0]["runId"]
    ended(server, run, "SUCCESS")
    server.switch("changes", on=False)
    page.goto(f"{server.address}/runs/{run}")
    page.get_by_role("button", name="View tags and config").click()
    expect(page.get_by_text("raw@book: source sources/book changed").first).to_be_visible()


def test_a_failed_check_holds_its_downstream_back_and_alerts(
    page: Page, server: Server, alerts: tuple[str, list[str]]
) -> None:
    write(server, "a bad document\n")
    run = server.launch()
    ended(server, run, "FAILURE")
    page.goto(f"{server.address}/runs/{run}")
    expect(page.get_by_text("no_bad_word").first).to_be_visible()
    expect(page.get_by_text("STEP_FAILURE").first).to_be_visible()
    page.goto(f"{server.address}/assets/raw/book?view=checks")
    expect(page.get_by_text("no_bad_word").first).to_be_visible()
    expect(page.get_by_text("Failed").first).to_be_visible()
    assert "a bad document" not in (server.world / "data/mixed/both/text").read_text()
    until(lambda: len(alerts[1]) == 2)
    assert "check no_bad_word of raw@book failed" in alerts[1][0]
    assert f"run {run[:8]} of whole_graph failed" in alerts[1][1]


def test_a_lost_output_is_shown_with_what_to_do(page: Page, server: Server) -> None:
    write(server, "a document of book\n")
    ended(server, server.launch(), "SUCCESS")
    shutil.rmtree(server.world / "data/mixed/both")
    server.next_ticks("outside", 2)
    page.goto(f"{server.address}/assets/mixed/both")
    expect(page.get_by_text("lost: the output is gone or altered").first).to_be_visible()
    expect(page.get_by_text("dvc checkout mixed@both, or make it again").first).to_be_visible()
    expect(page.get_by_text("Unsynced").first).to_be_visible()
    page.goto(f"{server.address}/assets/mixed/both?view=checks")
    expect(page.get_by_text("its output data/mixed/both is gone").first).to_be_visible()
    page.goto(f"{server.address}/locations/needlework/asset-groups/mixed")
    expect(page.get_by_text("0 / 1 Passed")).to_be_visible()
    expect(page.get_by_text("1 / 1 Passed")).to_be_visible()
    marks = page.get_by_text("Materialized", exact=True)
    colours = marks.evaluate_all("found => found.map(each => getComputedStyle(each).color)")
    assert sorted(map(is_red, colours)) == [False, True], "of `short`, and of `both`"
    ended(server, server.launch(), "SUCCESS")
    expect(page.get_by_text("1 / 1 Passed")).to_have_count(2)


def is_red(colour: str) -> bool:
    """Whether a colour of CSS, as in rgb(133, 30, 24), is rather red than green."""
    red, green, *_ = map(float, re.findall(r"[\d.]+", colour))
    return red > green


def test_broken_params_are_an_error_on_every_asset(page: Page, server: Server) -> None:
    path = server.world / "params.yaml"
    whole = path.read_text()
    path.write_text(f"{whole}a: [1\n")
    page.goto(f"{server.address}/locations/needlework/asset-groups/mixed")
    expect(page.get_by_text("0 / 1 Passed")).to_have_count(2)
    path.write_text(whole)
    expect(page.get_by_text("1 / 1 Passed")).to_have_count(2)
