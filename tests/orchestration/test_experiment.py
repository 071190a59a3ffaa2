"""An experiment changes parameters for one run, in no file of the project, and shares the cache with all other runs."""

from pathlib import Path

from dagster import DagsterInstance
from dvc_world import PARAMS, dvc, git, make_world

from orchestration.definitions import build_definitions


def test_an_override_makes_what_hangs_on_it_and_leaves_the_project_as_it_is(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world", scm=True)
    dvc(root, "repro")
    git(root, "add", "--all")
    git(root, "commit", "--message", "made")
    before = {path: path.read_bytes() for path in [root / "params.yaml", root / "dvc.lock",
                                                   *sorted((root / "data").rglob("text"))]}
    job = build_definitions(root).resolve_job_def("experiment")
    config = {"name": "shorter", "overrides": {"mixed.recipes.short.cut": "7"}}
    with DagsterInstance.ephemeral() as instance:
        run = job.execute_in_process(instance=instance, run_config={"ops": {"dvc_exp_run": {"config": config}}})
        said = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert run.success
    assert any("Running stage 'mixed@short'" in line for line in said)
    assert not any("Running stage 'raw@" in line for line in said), "what it does not touch is not made again"
    assert {path: path.read_bytes() for path in before} == before
    assert PARAMS["mixed"]["recipes"]["short"]["cut"] != 7
    dvc(root, "exp", "apply", "shorter")
    assert "cut: 7" in (root / "params.yaml").read_text()
