"""An asset's page says what the artefact was made from, down to the raw sources, with the hashes of
dvc.lock.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from dvc_world import PARAMS, dvc, git, make_world, materialize

from orchestration.graph import read_graph, read_lock, read_status
from orchestration.lineage import ROWS, VALUE_LETTERS, table
from orchestration.outside import report_outside_state

pytestmark = pytest.mark.slow


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world", scm=True)


def page(instance: DagsterInstance, asset: str) -> dict[str, str]:
    """The texts among the metadata of the latest materialisation."""
    event = instance.get_latest_materialization_event(AssetKey(asset.split("/")))
    assert event is not None and event.asset_materialization is not None
    return {name: str(value.value) for name, value in event.asset_materialization.metadata.items()}


def hashes(world: Path, kind: str = "deps") -> dict[str, str]:
    """Path -> hash, of all entries of dvc.lock."""
    stages = yaml.safe_load((world / "dvc.lock").read_text())["stages"].values()
    return {entry["path"]: entry["md5"] for stage in stages for entry in stage[kind]}


def rows(text: str) -> set[tuple[str, ...]]:
    """The body of a table, without its marks of code."""
    return {
        tuple(cell.strip(" `") for cell in line.strip("|").split(" | "))
        for line in text.splitlines()[2:]
        if line
    }


def test_a_page_names_every_direct_input_with_its_hash(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    known = hashes(world)
    assert rows(page(instance, "mixed/short")["made from"]) == {
        ("data/raw/c4", known["data/raw/c4"], "[raw/c4](/assets/raw/c4)"),
        ("stage.py", known["stage.py"], "code"),
        ("mixed.recipes.short", '{"cut": 1, "domain": "c4"}', "parameter in params.yaml"),
    }
    assert ("sources/c4", known["sources/c4"], "source") in rows(
        page(instance, "raw/c4")["made from"]
    )
    assert rows(page(instance, "raw/c4")["came out"]) == {
        (
            "data/raw/c4",
            f"{(world / 'data/raw/c4/text').stat().st_size} bytes",
            hashes(world, "outs")["data/raw/c4"],
        )
    }


def test_a_page_leads_back_to_the_hashes_of_all_raw_sources(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    known = hashes(world)
    both = {
        (f"sources/{name}", known[f"sources/{name}"], f"[raw/{name}](/assets/raw/{name})")
        for name in ("book", "c4")
    }
    assert rows(page(instance, "report")["sources"]) == both
    assert rows(page(instance, "mixed/short")["sources"]) == {
        row for row in both if "sources/c4" in row
    }
    with (world / "sources/book/documents").open("a") as file:
        file.write("one more\n")
    materialize(world, instance)
    assert hashes(world)["sources/book"] != known["sources/book"]
    assert ("sources/book", hashes(world)["sources/book"], "[raw/book](/assets/raw/book)") in rows(
        page(instance, "report")["sources"]
    )


def test_sources_are_uncertain_while_something_between_is_stale(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    assert "Not certain" not in page(instance, "report")["sources"]
    with (world / "sources/book/documents").open("a") as file:
        file.write("one more\n")
    materialize(world, instance, "raw/book")
    materialize(world, instance, "report")
    assert "Not certain: mixed@both was out of date then." in page(instance, "report")["sources"]


def test_what_was_made_outside_has_the_same_page(world: Path, instance: DagsterInstance) -> None:
    dvc(world, "repro")
    report_outside_state(instance, read_graph(world), read_lock(world), read_status(world))
    outside = page(instance, "mixed/both")
    materialize(world, instance)
    inside = page(instance, "mixed/both")
    assert (outside.pop("outcome"), inside.pop("outcome")) == ("outside", "unchanged")
    assert outside == inside


def test_a_page_names_the_commit_and_what_differs_from_it(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance, "raw/c4")
    assert "git revision" not in page(instance, "raw/c4"), "nothing was ever committed"
    git(world, "add", "--all")
    git(world, "commit", "--message", "all")
    materialize(world, instance, "raw/book")
    assert page(instance, "raw/book")["git revision"] == git(world, "rev-parse", "HEAD"), (
        "dvc.lock does not count"
    )
    (world / "params.yaml").write_text(f"{(world / 'params.yaml').read_text()}\n# note\n")
    materialize(world, instance, "raw/book")
    assert re.fullmatch(
        r"[0-9a-f]{40}, with changes in params\.yaml", page(instance, "raw/book")["git revision"]
    )


def test_a_page_stays_small_whatever_it_was_made_from(
    world: Path, instance: DagsterInstance
) -> None:
    long_params = {
        **PARAMS,
        "mixed": {
            "recipes": {
                "short": {"cut": "x|" * 10_000, "domain": "c4"},
                "both": {"cut": 2, "domain": ""},
            }
        },
    }
    (world / "params.yaml").write_text(yaml.safe_dump(long_params))
    materialize(world, instance, "raw/c4", "mixed/short")
    assert len(page(instance, "mixed/short")["made from"]) < 500 + 2 * VALUE_LETTERS
    long = table(["a"], [["b"]] * 1_000)
    assert len(long.splitlines()) == ROWS + 4 and long.endswith("(940 more rows)")
