"""With the sensor on, each change of any kind is answered by one run of exactly what is stale and
what follows.

A walk on a real server, its switches used as the UI uses them. That something brings no run is
shown by ticks that have looked since and asked for none.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dagster_server import Server, executions, hold_back, serving, until
from dvc_world import make_world

from orchestration.graph import read_status

pytestmark = pytest.mark.slow

SENSOR = "changes"
LOOKS = 2
"""Ticks that must have found nothing to do before it counts as nothing."""
ALL = {"raw/book", "raw/c4", "mixed/short", "mixed/both", "report"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, nothing made; what runs is written down."""
    world = make_world(tmp_path_factory.mktemp("changes") / "world")
    hold_back(world)
    return world


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[Server]:
    """A server with the sensor switched on and everything made."""
    with serving(world) as server:
        server.switch(SENSOR, on=True)
        until(lambda: [run["status"] for run in server.runs()] == ["SUCCESS"])
        assert {key for run in server.runs() for key in assets(run)} == ALL
        yield server
        assert {tick["status"] for tick in server.ticks(SENSOR)} <= {"SUCCESS", "SKIPPED"}, (
            server.ticks(SENSOR)
        )


def assets(run: dict[str, list[dict[str, list[str]]]]) -> set[str]:
    """What a run is of."""
    return {"/".join(key["path"]) for key in run["assetSelection"]}


def artefacts(world: Path) -> dict[str, tuple[int, str]]:
    """Path -> (time of last change, content) of all that was made."""
    return {
        path.relative_to(world).as_posix(): (path.stat().st_mtime_ns, path.read_text())
        for path in (world / "data").rglob("*")
        if path.is_file() and path.name == "text"
    }


class Answer:
    """What one change, or many at once, brought about."""

    def __init__(self, server: Server, change: Callable[[], object], ends: str = "SUCCESS") -> None:
        world = server.world
        runs, ran, made = (
            {run["runId"] for run in server.runs()},
            len(executions(world)),
            artefacts(world),
        )
        change()
        now = time.time()
        asked = until(
            lambda: next(
                (tick for tick in server.ticks(SENSOR) if set(tick["runIds"]) - runs), None
            )
        )
        self.ticks_before = sum(
            now < tick["timestamp"] < asked["timestamp"] for tick in server.ticks(SENSOR)
        )
        until(lambda: server.status(asked["runIds"][0]) == ends)
        assert not [tick for tick in server.next_ticks(SENSOR, 1) if tick["runIds"]]
        new = [run for run in server.runs() if run["runId"] not in runs]
        assert len(new) == 1, "more than one run for one change"
        self.assets = assets(new[0])
        self.ran = sorted(executions(world)[ran:])
        after = artefacts(world)
        self.touched = {path for path in {*made, *after} if made.get(path) != after.get(path)}


def none(server: Server, change: Callable[[], object], sensor: str = SENSOR) -> None:
    """The change brings no run."""
    runs = [run["runId"] for run in server.runs()]
    change()
    assert not [tick for tick in server.next_ticks(sensor, LOOKS) if tick["runIds"]]
    assert [run["runId"] for run in server.runs()] == runs


def append(world: Path, domain: str, text: str) -> None:
    """A document more."""
    with (world / "sources" / domain / "documents").open("a") as file:
        file.write(f"{text}\n")


def set_recipes(world: Path, **recipes: dict[str, object]) -> None:
    """params.yaml with these recipes changed or added."""
    params = yaml.safe_load((world / "params.yaml").read_text())
    params["mixed"]["recipes"].update(recipes)
    (world / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_document_more_brings_one_run_of_its_chain(server: Server, world: Path) -> None:
    answer = Answer(server, lambda: append(world, "book", "a document more"))
    assert answer.ticks_before == 0, "the first tick after the change did not answer it"
    assert answer.assets == {"raw/book", "mixed/both", "report"}
    assert answer.ran == ["mixed both", "raw book", "report all"]
    assert answer.touched == {"data/raw/book/text", "data/mixed/both/text", "data/report/all/text"}


def test_a_parameter_brings_one_run_of_its_recipe(server: Server, world: Path) -> None:
    answer = Answer(server, lambda: set_recipes(world, short={"cut": 7, "domain": "book"}))
    assert answer.ticks_before == 0 and answer.assets == {"mixed/short", "report"}
    assert answer.ran == ["mixed short", "report all"]
    assert answer.touched == {"data/mixed/short/text", "data/report/all/text"}


def test_a_deleted_output_is_brought_back_without_running(server: Server, world: Path) -> None:
    before = (world / "data/mixed/short/text").read_text()
    answer = Answer(server, lambda: shutil.rmtree(world / "data/mixed/short"))
    assert answer.assets == {"mixed/short", "report"} and not answer.ran
    assert answer.touched == {"data/mixed/short/text"}
    assert (world / "data/mixed/short/text").read_text() == before


def test_changed_code_brings_one_run_of_all_it_makes(server: Server, world: Path) -> None:
    code = world / "stage.py"
    answer = Answer(server, lambda: code.write_text(code.read_text() + "# a comment more\n"))
    assert answer.assets == ALL and len(answer.ran) == len(ALL)


def test_a_burst_of_changes_is_one_run(server: Server, world: Path) -> None:
    def change() -> None:
        for number in range(20):
            append(world, "book", f"number {number}")
            append(world, "c4", f"number {number}")
        set_recipes(world, short={"cut": 8, "domain": "c4"})

    server.next_ticks(SENSOR, 1)  # a tick is just over, so the burst falls between two
    answer = Answer(server, change)
    assert answer.assets == ALL and len(answer.ran) == len(ALL)


def test_what_changes_nothing_brings_no_run(server: Server, world: Path) -> None:
    def change() -> None:
        (world / "unlisted.py").write_text("# another comment\n")
        (world / "sources/c4/documents").touch()
        before = (world / "params.yaml").read_text()
        set_recipes(world, short={"cut": 9, "domain": "c4"})
        (world / "params.yaml").write_text(before)

    before = artefacts(world)
    none(server, change)
    assert artefacts(world) == before


def test_a_new_recipe_in_params_is_made(server: Server, world: Path) -> None:
    answer = Answer(server, lambda: set_recipes(world, long={"cut": 3, "domain": "book"}))
    assert answer.assets == {"mixed/long", "report"}
    assert answer.ran == ["mixed long", "report all"]
    assert answer.touched == {"data/mixed/long/text", "data/report/all/text"}


def test_a_failed_run_is_not_repeated_until_something_changes(server: Server, world: Path) -> None:
    documents = world / "sources/book/documents"
    before = documents.read_text()
    answer = Answer(server, lambda: append(world, "book", "poison"), ends="FAILURE")
    assert answer.ran == ["raw book"] and "raw/book" in answer.assets
    none(server, lambda: None)
    assert "FAILURE" in server.ticks(SENSOR)[0]["skipReason"]
    answer = Answer(server, lambda: documents.write_text(before + "an antidote\n"))
    assert "raw book" in answer.ran and not read_status(world)


def test_off_it_does_nothing_and_on_again_what_is_due(server: Server, world: Path) -> None:
    server.switch(SENSOR, on=False)
    server.next_ticks(
        "outside", LOOKS
    )  # the daemon goes from one to the next: a tick that was at work is over
    none(server, lambda: append(world, "c4", "while it was off"), sensor="outside")
    assert "raw@c4" in read_status(world)
    runs = len(server.runs())
    server.switch(SENSOR, on=True)
    until(lambda: len(server.runs()) == runs + 1 and server.runs()[0]["status"] == "SUCCESS")
    assert not read_status(world)
