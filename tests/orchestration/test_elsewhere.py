"""What DVC and Dagster see of a stage is the same wherever it ran."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance
from dvc_world import dvc, materialize
from launchers import launcher_in

from orchestration.running import Children, Stopped, make_item

STAGE = """
import json, os, signal, sys, time
from pathlib import Path
from core.command import command
from core.sealed import output

def run():
    if Path("wait").exists():
        signal.signal(signal.SIGTERM, end)
        print("begun", flush=True)
        while True:
            signal.pause()
    with output("trained") as out:
        line = dict(what="train", done=8, total=32, unit="tok", rate=2, left=4, noted={"loss": 3.0})
        print(json.dumps({"progress": line}), file=sys.stderr, flush=True)
        (out.folder / "weights").write_text("the same bytes")
    where = os.environ.get("NEEDLEWORK_ELSEWHERE", "here")
    print(f"made at {where}", flush=True)

def end(number, frame):
    time.sleep(0.5)  # as long as a snapshot takes
    Path("snapshot").write_text("whole")
    sys.exit(143)

command(run)
"""
GRAPH = """
stages:
  trained:
    cmd: python -m trained
    meta: {pool: gpu}
    deps: [trained.py]
    outs: [data/trained: {persist: true}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "trained.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text("{}\n")
    dvc(root, "init", "--quiet", "--no-scm")
    dvc(root, "config", "core.analytics", "false")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return root


@pytest.fixture(params=["srun", "ssh"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with launcher_in(request.param, tmp_path) as words:
        yield words


def test_elsewhere_log_and_lock_file_are_those_of_a_local_run(
    project: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    make_item(Children(project), "trained", said.append)
    here = (project / "dvc.lock").read_bytes()
    assert "made at here" in said
    (project / "dvc.lock").unlink()
    (project / "data/trained").rename(project / "old")
    dvc(project, "gc", "--workspace", "--force")  # or DVC restores what it made before

    monkeypatch.setenv("NEEDLEWORK_RUN_gpu", prefix)
    with DagsterInstance.ephemeral() as instance:
        outcomes, run = materialize(project, instance)
        assert outcomes == {"trained": "ran"}, run.failures
        said = [entry.user_message for entry in instance.all_logs(run.run_id)]
        assert "made at gpu" in said
        shown = instance.fetch_observations(AssetRecordsFilter(AssetKey("trained")), limit=9)
        assert [record.asset_observation.metadata["loss"].value for record in shown.records] == [3]
    assert (project / "dvc.lock").read_bytes() == here


def test_a_run_that_is_stopped_waits_for_the_snapshot_over_there(
    project: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "wait").touch()
    monkeypatch.setenv("NEEDLEWORK_RUN_gpu", prefix)
    children = Children(project)
    stopper = Thread(target=children.stop)

    def stop_once_begun(line: str) -> None:
        if line == "begun":
            stopper.start()

    with pytest.raises(Stopped):
        make_item(children, "trained", stop_once_begun)
    stopper.join()
    assert (project / "snapshot").read_text() == "whole"
    assert not (project / "data/trained").exists()
