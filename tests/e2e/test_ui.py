"""What a person does in the browser: look at the graph, make an asset, see its picture, watch it at
work, go back to its sources, see a change, let it be made.

Needs Debian's chromium (apt-get install chromium) and Playwright; skipped where the browser is
missing.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster_server import serving, until
from dvc_world import make_world
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000.0
"""Milliseconds; a sensor ticks every 5 s at most, and a run takes some seconds to begin."""
PICTURE = """
import base64
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
(out / "plot.png").unlink(missing_ok=True)
(out / "plot.png").write_bytes(base64.b64decode(PIXEL))
"""
TALK = """
import time
import json
line = dict(what=item, done=8, total=32, unit="tok", rate=1234, left=3, noted={"loss": 4.125})
print(json.dumps({"progress": line}), file=sys.stderr, flush=True)
while pathlib.Path("hold").exists():
    time.sleep(0.05)
"""
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, with a picture in every asset, whose stages tell of their progress and
    wait while held.
    """
    world = make_world(tmp_path_factory.mktemp("e2e") / "world")
    code = (
        (world / "stage.py")
        .read_text()
        .replace("p.is_file()", "p.is_file() and p.suffix != '.png'")
    )
    (world / "stage.py").write_text(code + PICTURE + TALK)
    return world


@pytest.fixture(scope="module")
def address(world: Path) -> Iterator[str]:
    """`make ui` on that project."""
    with serving(world) as server:
        yield server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str, world: Path) -> Iterator[Page]:
    """A window; what a test held back goes on when it ends."""
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    (world / "hold").unlink(missing_ok=True)
    page.close()


def make(page: Page, address: str, asset: str) -> None:
    """Click Materialize on the asset's page and see that it was made."""
    page.goto(f"{address}/assets/{asset}")
    expect(page.get_by_text("Never materialized")).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    page.locator("a[href^='/runs/']").first.click()
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.goto(f"{address}/assets/{asset}")
    expect(page.get_by_role("button", name="Materialize").first).to_be_visible()
    expect(page.get_by_text("Never materialized")).to_have_count(0)


def text_of(world: Path, item: str) -> str:
    """What was made last; nothing while it is being made anew."""
    path = world / "data" / item / "text"
    return path.read_text() if path.exists() else ""


def test_the_graph_shows_every_stage(page: Page, address: str) -> None:
    page.goto(f"{address}/asset-groups")
    for stage in ("raw", "mixed", "report"):
        expect(page.get_by_text(stage, exact=True).first).to_be_visible()


def test_an_asset_is_made_by_a_click_and_shows_its_picture(
    page: Page, address: str, world: Path
) -> None:
    make(page, address, "raw/book")
    assert (world / "data/raw/book/text").is_file()
    page.goto(f"{address}/runs")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.locator("a[href^='/runs/']").first.click()
    page.get_by_text("View full message").last.click()
    page.get_by_role("dialog").get_by_text("[Show Markdown]").first.click()
    window = page.get_by_role("dialog").filter(has_text="plot.png").last
    expect(window.locator("img[src^='/logs/']")).to_be_visible()
    page.goto(f"{address}/assets/raw/book")
    expect(
        page.get_by_role("row").filter(has_text="plot.png").locator("img[src^='/logs/']")
    ).to_be_visible()


def test_progress_and_loss_are_plotted_while_a_stage_works(
    page: Page, address: str, world: Path
) -> None:
    (world / "hold").touch()
    page.goto(f"{address}/assets/raw/c4")
    page.get_by_role("button", name="Materialize").first.click()
    page.locator("a[href^='/runs/']").first.click()
    expect(page.get_by_text("ASSET_OBSERVATION").first).to_be_visible()
    expect(page.get_by_text("4.125").first).to_be_visible()
    run = page.url
    page.goto(f"{address}/assets/raw/c4")
    page.get_by_text("Plots", exact=True).click()
    for number in ("loss", "tok/s", "seconds left"):
        expect(page.get_by_text(number, exact=True)).to_be_visible()
    lock = world / "dvc.lock"
    assert not lock.exists() or "raw@c4" not in lock.read_text(), "it ran all the time"
    (world / "hold").unlink()
    page.goto(run)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()


def test_a_picture_leads_back_to_the_hash_of_its_source(
    page: Page, address: str, world: Path
) -> None:
    page.set_viewport_size({"width": 2600, "height": 1400})  # the whole lineage in sight
    page.goto(f"{address}/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    page.locator("a[href^='/runs/']").first.click()
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.goto(f"{address}/assets/report")
    sources = page.get_by_role("row").filter(has_text="read by").first
    expect(sources).to_be_visible()
    locked = yaml.safe_load((world / "dvc.lock").read_text())["stages"]["raw@book"]["deps"]
    known = {entry["path"]: entry["md5"] for entry in locked}["sources/book"]
    expect(sources).to_contain_text(known)  # at once, on the page of the picture
    page.get_by_role("tab", name="Lineage").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_text("book", exact=True).first.click()
    page.wait_for_url("**/assets/raw/book*")
    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_role("row").filter(has_text="hash or value").first).to_contain_text(known)
    page.goto(f"{address}/assets/report")
    sources.get_by_role("link", name="raw/book").click()
    expect(page).to_have_url(f"{address}/assets/raw/book")


def test_a_changed_source_is_marked_and_the_sensor_has_it_made(
    page: Page, address: str, world: Path
) -> None:
    assert "a document more" not in text_of(world, "report/all")
    with (world / "sources/book/documents").open("a") as file:
        file.write("a document more\n")
    page.goto(f"{address}/asset-groups")
    page.get_by_role("button", name="Reload definitions").click()
    page.goto(f"{address}/assets/raw/book")
    expect(page.get_by_text("Unsynced").first).to_be_visible()
    page.goto(f"{address}/automation")
    switch = (
        page.get_by_role("link").filter(has_text="changes").locator("xpath=following-sibling::div")
    )
    switch.locator("label").click()
    expect(switch.get_by_role("checkbox")).to_be_checked()
    page.get_by_role("link").filter(has_text="changes").click()
    expect(page.get_by_text("Run requested").or_(page.get_by_text("1 run")).first).to_be_visible()
    until(lambda: "a document more" in text_of(world, "report/all"))
    assert "a document more" in text_of(world, "raw/book")
