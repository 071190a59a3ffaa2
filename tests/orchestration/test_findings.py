"""What `make check` finds is told by sensors and runs, shown at the assets, and holds back what it
is about.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetCheckKey, AssetKey, DagsterInstance, SkipReason, build_sensor_context
from dvc_world import FAILED, PARAMS, SKIPPED, an_item, dvc, make_world, materialize

from orchestration import findings, status
from orchestration.definitions import build_definitions
from orchestration.graph import IN_ORDER, Graph, read_graph
from orchestration.running import Outcome

SETTINGS = """import json, pathlib, sys
import yaml
assert sys.argv[1:] == ["--json"]
pathlib.Path("asked").write_text(pathlib.Path("asked").read_text() + "x" if pathlib.Path("asked").exists() else "x")
recipes = yaml.safe_load(pathlib.Path("params.yaml").read_text())["mixed"]["recipes"]
print("a library's greeting")
print(json.dumps([f"params.yaml: mixed.recipes.{name}.cut = {recipe['cut']}: no such cut." for name, recipe
                  in recipes.items() if recipe["cut"] > 5]))
"""
"""Stands for evaluation/preflight.py: a cut above 5 is wrong."""
FOUND = "params.yaml: mixed.recipes.short.cut = 9: no such cut."


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The small project with a `make check` of its own, and all made."""
    root = make_world(tmp_path / "world")
    (root / "evaluation").mkdir()
    (root / "evaluation/__init__.py").touch()
    (root / "evaluation/preflight.py").write_text(SETTINGS)
    dvc(root, "repro")
    return root


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def set_cut(world: Path, cut: int) -> None:
    """Of the recipe `short`."""
    params = json.loads(json.dumps(PARAMS))
    params["mixed"]["recipes"]["short"]["cut"] = cut
    (world / "params.yaml").write_text(yaml.safe_dump(params))


def tick(world: Path, instance: DagsterInstance) -> str:
    """What the sensor that is always on says."""
    definitions = build_definitions(world)
    result = definitions.resolve_sensor_def("outside")(
        build_sensor_context(instance=instance, definitions=definitions)
    )
    assert isinstance(result, SkipReason)
    return result.skip_message or ""


def shown(instance: DagsterInstance, key: str) -> list[str]:
    """The results of the asset's check, the newest first."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(AssetKey(key.split("/")), IN_ORDER), limit=9
    )
    return [record.status.value for record in records]


def test_a_finding_is_shown_on_its_asset_until_it_is_mended(
    world: Path, instance: DagsterInstance
) -> None:
    assert "make check" not in tick(world, instance)
    assert shown(instance, "mixed/short") == ["SUCCEEDED"]
    set_cut(world, 9)
    for _ in range(2):
        assert f"make check finds: {FOUND}" in tick(world, instance)
    assert shown(instance, "mixed/short") == ["FAILED", "SUCCEEDED"]
    assert shown(instance, "mixed/both") == ["SUCCEEDED"]
    set_cut(world, 1)
    assert "make check" not in tick(world, instance)
    assert shown(instance, "mixed/short") == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


def test_a_run_makes_nothing_by_wrong_settings(world: Path, instance: DagsterInstance) -> None:
    set_cut(world, 9)
    seen, run = materialize(world, instance)
    assert not run.success
    assert (seen["mixed@short"], seen["report"]) == (FAILED, SKIPPED)
    assert seen["mixed@both"] is Outcome.UNCHANGED
    assert FOUND in run.failures
    dvc(world, "repro")  # plain DVC makes it all the same, and then it is up to date
    seen, run = materialize(world, instance)
    assert (
        not run.success and seen["mixed@short"] is Outcome.UNCHANGED and seen["report"] is SKIPPED
    )
    failed = {check.asset_key.to_user_string() for check in run.checks if not check.passed}
    assert failed == {"mixed/short"}


def test_make_check_is_asked_once_until_its_inputs_change(world: Path) -> None:
    graph = read_graph(world)
    for _ in range(2):
        assert findings.read_findings(graph) == []
    (world / "sources/book/documents").write_text("other documents\n")
    status.read_state(world)
    assert (world / "asked").read_text() == "x"
    set_cut(world, 9)
    assert status.read_state(world).findings == [FOUND]
    assert (world / "asked").read_text() == "xx"


def test_a_make_check_that_does_not_work_is_a_finding_itself(world: Path) -> None:
    (world / "evaluation/preflight.py").write_text("raise SystemExit('out of memory')\n")
    found = findings.read_findings(read_graph(world))
    assert len(found) == 1 and "out of memory" in found[0] and "make check" in found[0]


def test_a_finding_is_about_the_narrowest_thing_it_names() -> None:
    items = {
        address: an_item(address) for address in ("checkpoint@x", "checkpoint@y", "comparison")
    }
    graph = Graph(root=Path(), items=items)
    for text, concerned in (
        ("params.yaml: checkpoint.models.x.source = data/packed_shards/old: no", {"checkpoint@x"}),
        (
            "params.yaml: line 7: checkpoint.models: without quotes",
            {"checkpoint@x", "checkpoint@y"},
        ),
        ("params.yaml: comparison.baseline = 'z': no", {"comparison"}),
        ("params.yaml: nonsense: no stage of dvc.yaml reads it", set(items)),
        ("models: not there", set(items)),
    ):
        assert set(findings.by_item(graph, [text])) == concerned, text


def test_the_real_command_answers_in_the_form_that_is_read() -> None:
    assert [sys.executable, "-m", "evaluation.preflight", "--json"] == findings.COMMAND
    source = (Path(__file__).parents[2] / findings.MODULE).read_text()
    assert 'sys.argv[1:] == ["--json"]' in source and "print(json.dumps(found))" in source
