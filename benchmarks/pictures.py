"""Make every picture of README and docs again, from the artefacts of this project.

The pictures show what a user sees, so they are copied from the reports and photographed from the
Dagster UI, never drawn by hand. It needs the sample's artefacts (`make demo`), Debian's chromium,
and ../shared/corpus for the recipes of real text. The recipes are made in a clone, so params.yaml
stays: two minutes on 2 cores. The pictures change with the versions of matplotlib and Dagster.

    make pictures
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HEATMAPS = ROOT / "data" / "comparison" / "heatmaps.png"
CORPUS = ROOT.parent / "shared" / "corpus"

PATIENCE = 60_000.0  # milliseconds for the UI to load its code and to draw
SECONDS_BETWEEN_TRIES = 0.5
SETTLED = 2_000.0  # milliseconds; the graph glides into place, and nothing says when it is there
WINDOW = {"width": 1500, "height": 950}


def main() -> None:
    """Make all pictures, or those of the groups that were named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = {"heatmaps": heatmaps, "recipes": recipes, "screens": screens}
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    wanted = parser.parse_args().groups or list(groups)

    for name in wanted:
        if name not in groups:
            parser.error(f"no pictures are called {name!r}. There are: {', '.join(groups)}.")
        for path in groups[name]():
            print(path.relative_to(ROOT))


def heatmaps() -> list[Path]:
    """The needle's heatmaps, from the sample's comparison."""
    if not HEATMAPS.exists():
        sys.exit(f"{HEATMAPS.relative_to(ROOT)} is missing. Run `make demo` first.")
    return [Path(shutil.copy(HEATMAPS, DOCS / "heatmaps.png"))]


def recipes() -> list[Path]:
    """The recipes of real text, from the report that `make packed NAME=seven-recipes` makes."""
    if not CORPUS.is_dir():
        sys.exit(f"{CORPUS} is missing: the recipes are drawn of real text.")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "needlework"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        # The profile names its sources relative to the project.
        (clone.parent / "shared").symlink_to(CORPUS.parent)
        environment = {**os.environ, "PYTHONPATH": str(clone)}
        for command in (["profile", "seven-recipes"], ["repro", "data_report"]):
            subprocess.run(
                [sys.executable, "-m", f"orchestration.{command[0]}", *command[1:]],
                cwd=clone,
                env=environment,
                stdout=sys.stderr,
                check=True,
            )
        drawn = clone / "data" / "data_report" / "by_length.png"
        return [Path(shutil.copy(drawn, DOCS / "recipes.png"))]


def screens() -> list[Path]:
    """The Dagster UI of this project: the graph, a run, an asset with its heatmap."""
    made = []
    with serving() as address, window() as page:
        page.goto(f"{address}/asset-groups")
        page.get_by_text("evaluation", exact=True).first.wait_for()
        page.wait_for_timeout(SETTLED)
        made.append(photograph(page, "asset-graph.png"))

        page.goto(f"{address}/runs")
        page.locator("a[href^='/runs/']").first.click()
        page.get_by_text("Success", exact=True).first.wait_for()
        page.wait_for_timeout(SETTLED)
        made.append(photograph(page, "run-in-ui.png"))

        page.goto(f"{address}/assets/needle_report/per_source")
        picture = page.get_by_role("row").filter(has_text="heatmap.png").locator("img").first
        picture.scroll_into_view_if_needed()
        page.wait_for_timeout(SETTLED)
        made.append(photograph(page, "heatmap-in-ui.png"))
    return made


def photograph(page: Page, name: str) -> Path:
    """Save what the window shows as docs/NAME."""
    path = DOCS / name
    page.screenshot(path=path)
    return path


@contextmanager
def serving() -> Iterator[str]:
    """`make ui` on a free port of loopback; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "orchestration.ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    try:
        while not answers(f"{address}/server_info"):
            if server.poll() is not None:
                sys.exit("the UI ended before it answered; its messages are above")
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield address
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urlopen(url, timeout=PATIENCE / 1000):
            return True
    except OSError:
        return False


@contextmanager
def window() -> Iterator[Page]:
    """A browser window without a screen. Exits if there is no chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


if __name__ == "__main__":
    main()
