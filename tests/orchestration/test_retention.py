"""Old runs can go, and what the assets' pages and marks stand on stays."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance
from dvc_world import make_world, materialize, out_of_date_in_dagster

from orchestration.checks import last_value
from orchestration.graph import read_graph
from orchestration.home import prepare
from orchestration.retention import delete, expired, main

pytestmark = pytest.mark.slow

WRITES_A_METRIC = """
import json
pathlib.Path("metrics", stage).mkdir(parents=True, exist_ok=True)
path = pathlib.Path("metrics", stage, f"{item}.json")
path.unlink(missing_ok=True)
path.write_text(json.dumps({"length": float(len((out / "text").read_text()))}))
"""
BOOK = AssetKey(["raw", "book"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With Dagster's folder in it."""
    world = make_world(tmp_path / "world")
    prepare(world / ".dagster")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(world)
    return world


def instance(world: Path) -> DagsterInstance:
    """The project's own."""
    return DagsterInstance.from_config(str(world / ".dagster"))


def test_runs_go_except_those_that_an_asset_stands_on(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with instance(world) as before:
        (world / "sources/book/documents").write_text("poison")
        _, failed = materialize(world, before)
        for text in ("one", "two", "three"):
            (world / "sources/book/documents").write_text(text)
            _, run = materialize(world, before, "raw/book", "mixed/both", "report")
        assert before.get_runs_count() == 4
        marks = out_of_date_in_dagster(world, before)
    main(["0"])
    assert "2 of 4 runs would go" in capsys.readouterr().out
    main(["0", "--delete"])
    assert "2 runs deleted, 2 are left." in capsys.readouterr().out
    with instance(world) as after:
        kept = {kept.run_id for kept in after.get_runs()}
        assert kept == {run.run_id, failed.run_id}, (
            "what failed made raw/c4 and mixed/short all the same"
        )
        assert after.get_latest_materialization_event(BOOK) is not None
        assert len(after.fetch_materializations(BOOK, limit=10).records) == 1, (
            "the plot has lost two of its points"
        )
        assert out_of_date_in_dagster(world, after) == marks
        assert {
            file.stem for file in (world / ".dagster").rglob("*.db") if len(file.stem) == 36
        } == kept


def test_only_runs_older_than_so_many_days_go(world: Path) -> None:
    with instance(world) as dagster:
        for text in ("one", "two"):
            (world / "sources/book/documents").write_text(text)
            materialize(world, dagster, "raw/book")
        now = datetime.now(UTC)
        assert not expired(dagster, now, 1)
        assert len(expired(dagster, now + timedelta(days=2), 1)) == 1


def test_what_the_next_check_compares_with_outlives_its_run(world: Path) -> None:
    (world / "stage.py").write_text((world / "stage.py").read_text() + WRITES_A_METRIC)
    declared = (
        'metrics: ["metrics/raw/${key}.json"]\n      meta: {checks: {length: {metric: length}}}'
    )
    stays = 'outs: [{"data/raw/${key}": {persist: true}}]'
    text = (world / "dvc.yaml").read_text()
    text = text.replace(stays, f"{stays}\n      {declared}")
    (world / "dvc.yaml").write_text(text)
    with instance(world) as dagster:
        for words in ("three", "three and more"):
            (world / "sources/book/documents").write_text(words)
            materialize(world, dagster, "raw/book")
        item = read_graph(world).items["raw@book"]
        before = last_value(dagster, item, "length", "length")
        for run in dagster.get_runs():
            delete(dagster, run)
        characters = len("raw of book\nthree and more")
        assert last_value(dagster, item, "length", "length") == before == characters


def test_a_folder_without_dagster_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no Dagster here"):
        main(["30"])
