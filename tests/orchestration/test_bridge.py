"""The bridge on a world of two domains and two recipes: it runs what is out of date and says what it did."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import GraphError, read_graph, read_status
from orchestration.running import Finished, Outcome

STAGE = """import pathlib, sys
stage, item, *inputs = sys.argv[1:]
text = "".join(sorted(p.read_text() for i in inputs for p in sorted(pathlib.Path(i).rglob("*")) if p.is_file()))
if "poison" in text: sys.exit(f"{stage}: poison in {item}")
out = pathlib.Path("data", stage, item)
out.mkdir(parents=True, exist_ok=True)
(out / "text").unlink(missing_ok=True)
(out / "text").write_text(f"{stage} of {item}\\n" + text)
"""
PARAMS = {"raw": {"domains": {"book": {"source": "sources/book"}, "c4": {"source": "sources/c4"}}},
          "mixed": {"recipes": {"short": {"cut": 1, "domain": "c4"}, "both": {"cut": 2, "domain": ""}}}}
GRAPH = """
stages:
  raw:
    foreach: ${raw.domains}
    do:
      desc: Documents of one domain
      cmd: python stage.py raw ${key} ${item.source}
      deps: ["${item.source}", stage.py]
      outs: ["data/raw/${key}"]
  mixed:
    foreach: ${mixed.recipes}
    do:
      cmd: python stage.py mixed ${key} data/raw/${item.domain}
      deps: ["data/raw/${item.domain}", stage.py]
      params: ["mixed.recipes.${key}"]
      outs: ["data/mixed/${key}"]
  report:
    cmd: python stage.py report all data/mixed
    deps: [data/mixed, stage.py]
    outs: [data/report/all]
"""


def make_world(root: Path) -> Path:
    """A DVC project of five items, nothing made."""
    (root / "sources").mkdir(parents=True)
    for name in ("book", "c4"):
        (root / "sources" / name).mkdir()
        (root / "sources" / name / "documents").write_text(f"a document of {name}\n")
    (root / "stage.py").write_text(STAGE)
    (root / "unlisted.py").write_text("# no stage lists this\n")
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    dvc(root, "init", "--no-scm", "--quiet")
    return root


def dvc(root: Path, *arguments: str) -> None:
    """One DVC command, which must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True,
                   env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"})


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def materialize(root: Path, instance: DagsterInstance, *keys: str) -> tuple[dict[str, Outcome], ExecuteInProcessResult]:
    """Run the whole graph, or some assets ("raw/c4"), through Dagster: address -> outcome, and the run."""
    seen: dict[str, Outcome] = {}

    def watch(event: object) -> None:
        if isinstance(event, Finished):
            seen[event.address] = event.outcome

    job = build_definitions(root, watch).resolve_job_def(WHOLE_GRAPH)
    selection = [AssetKey(key.split("/")) for key in keys] or None
    return seen, job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def artefacts(root: Path) -> dict[str, tuple[int, str]]:
    """Path -> (time of last change, content) of all that was made."""
    return {path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.read_text())
            for path in (root / "data").rglob("*") if path.is_file()}


def ran(seen: dict[str, Outcome]) -> set[str]:
    """The addresses that ran."""
    return {address for address, outcome in seen.items() if outcome is Outcome.RAN}


ALL = {"raw@book", "raw@c4", "mixed@short", "mixed@both", "report"}


def test_every_item_is_an_asset_in_the_group_of_its_stage(world: Path) -> None:
    specs = {spec.key.to_user_string(): spec for spec in build_definitions(world).resolve_all_asset_specs()}
    assert set(specs) == {"raw/book", "raw/c4", "mixed/short", "mixed/both", "report"}
    assert specs["raw/book"].group_name == "raw" 
    assert "Documents of one domain" in (specs["raw/book"].description or "")
    assert {dep.asset_key.to_user_string() for dep in specs["mixed/both"].deps} == {"raw/book", "raw/c4"}
    assert {dep.asset_key.to_user_string() for dep in specs["mixed/short"].deps} == {"raw/c4"}


def test_the_whole_graph_runs_once_and_then_nothing_does(world: Path, instance: DagsterInstance) -> None:
    first, run = materialize(world, instance)
    assert run.success and ran(first) == ALL
    before = artefacts(world)
    second, run = materialize(world, instance)
    assert run.success and set(second.values()) == {Outcome.UNCHANGED}
    assert artefacts(world) == before


def test_dagster_and_plain_dvc_leave_the_same_lock_file(tmp_path: Path, instance: DagsterInstance) -> None:
    through_dagster, plain = make_world(tmp_path / "one"), make_world(tmp_path / "two")
    materialize(through_dagster, instance)
    dvc(plain, "repro")
    assert (through_dagster / "dvc.lock").read_text() == (plain / "dvc.lock").read_text()


def test_a_document_more_in_one_domain_remakes_its_chain_and_leaves_the_rest_alone(
        world: Path, instance: DagsterInstance) -> None:
    materialize(world, instance)
    before = artefacts(world)
    with (world / "sources" / "book" / "documents").open("a") as file:
        file.write("another\n")
    seen, _ = materialize(world, instance)
    assert ran(seen) == {"raw@book", "mixed@both", "report"}
    after = artefacts(world)
    assert {path for path in before if after[path] != before[path]} == {
        "data/raw/book/text", "data/mixed/both/text", "data/report/all/text"}


def test_a_comment_in_a_file_no_stage_lists_remakes_nothing(world: Path, instance: DagsterInstance) -> None:
    materialize(world, instance)
    (world / "unlisted.py").write_text("# another comment\n")
    assert read_status(world) == {}
    assert ran(materialize(world, instance)[0]) == set()


def test_going_back_to_earlier_params_restores_without_running(world: Path, instance: DagsterInstance) -> None:
    materialize(world, instance)
    before = {path: text for path, (_, text) in artefacts(world).items()}
    changed = {**PARAMS, "mixed": {"recipes": {**PARAMS["mixed"]["recipes"], "short": {"cut": 9, "domain": "book"}}}}
    (world / "params.yaml").write_text(yaml.safe_dump(changed))
    assert ran(materialize(world, instance)[0]) == {"mixed@short", "report"}
    (world / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    seen, _ = materialize(world, instance)
    assert ran(seen) == set() and Outcome.RESTORED in seen.values()
    assert {path: text for path, (_, text) in artefacts(world).items()} == before


def test_a_failure_shows_the_last_lines_of_its_stage_and_stops_only_what_reads_it(
        world: Path, instance: DagsterInstance) -> None:
    (world / "sources" / "book" / "documents").write_text("poison")
    seen, run = materialize(world, instance)
    assert not run.success
    assert (seen["raw@book"], seen["mixed@both"], seen["report"]) == (Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED)
    assert (seen["raw@c4"], seen["mixed@short"]) == (Outcome.RAN, Outcome.RAN)
    messages = " ".join(str(event.event_specific_data) for event in run.get_step_failure_events())
    assert "raw: poison in book" in messages


def test_one_selected_asset_is_made_alone_and_says_what_it_did(world: Path, instance: DagsterInstance) -> None:
    materialize(world, instance)
    (world / "sources" / "c4" / "documents").write_text("changed\n")
    seen, _ = materialize(world, instance, "raw/c4")
    assert seen == {"raw@c4": Outcome.RAN}
    event = instance.get_latest_materialization_event(AssetKey(["raw", "c4"]))
    assert event is not None and event.asset_materialization is not None
    assert any(getattr(value, "text", None) == "ran" for value in event.asset_materialization.metadata.values())


def test_a_broken_dvc_yaml_is_one_message(world: Path) -> None:
    (world / "dvc.yaml").write_text("stages: {raw: {cmd: [}}")
    with pytest.raises(GraphError, match=r"dvc\.yaml"):
        read_graph(world)


def test_what_we_use_of_dvcs_private_interface_is_there(world: Path) -> None:
    graph = read_graph(world)
    assert set(graph.items) == ALL
    item = graph.items["mixed@both"]
    assert (item.stage, item.name, item.upstream) == ("mixed", "both", {"raw@book", "raw@c4"})
    assert item.params == {"params.yaml": {"mixed.recipes.both": {"cut": 2, "domain": ""}}}
    assert set(item.inputs) == {"stage.py"} and item.outputs == ("data/mixed/both",)
    assert set(read_status(world)) == ALL
    assert graph.downstream({"raw@c4"}) == ALL - {"raw@book"}
