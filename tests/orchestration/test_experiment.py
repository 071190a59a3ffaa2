"""An experiment changes parameters for one run, in no file of the project, and shares the cache
with all other runs.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, ExecuteInProcessResult, Failure
from dagster_server import until
from dvc_world import PARAMS, dvc, git, make_world

from orchestration.definitions import build_definitions
from orchestration.experiment import Experiment, check, example, override, unknown
from orchestration.home import prepare
from orchestration.launcher import WORKER
from orchestration.processes import identity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The world, made and committed."""
    root = make_world(tmp_path / "world", scm=True)
    dvc(root, "repro")
    git(root, "add", "--all")
    git(root, "commit", "--message", "made")
    return root


def run(
    root: Path, instance: DagsterInstance, name: str, overrides: Mapping[str, Any], *targets: str
) -> ExecuteInProcessResult:
    """The job, as the launchpad would start it."""
    config = {"name": name, "overrides": dict(overrides), "targets": list(targets)}
    return (
        build_definitions(root)
        .resolve_job_def("experiment")
        .execute_in_process(
            instance=instance,
            run_config={"ops": {"dvc_exp_run": {"config": config}}},
            raise_on_error=False,
        )
    )


def said(instance: DagsterInstance, done: ExecuteInProcessResult) -> str:
    """All that the run's log has."""
    return "\n".join(
        f"{entry.user_message} "
        f"{entry.dagster_event.event_specific_data if entry.dagster_event else ''}"
        for entry in instance.all_logs(done.run_id)
    )


def params(root: Path, name: str) -> Any:
    """The parameters of an experiment."""
    dvc(root, "exp", "apply", name)
    return yaml.safe_load((root / "params.yaml").read_text())


def test_an_override_leaves_the_project_as_it_is(made: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in [
            made / "params.yaml",
            made / "dvc.lock",
            *sorted((made / "data").rglob("text")),
        ]
    }
    with DagsterInstance.ephemeral() as instance:
        done = run(made, instance, "shorter", {"mixed.recipes.short.cut": "7"})
        log = said(instance, done)
    assert done.success
    assert "Running stage 'mixed@short'" in log
    assert "Running stage 'raw@" not in log, "what it does not touch is not made again"
    assert {path: path.read_bytes() for path in before} == before
    metadata = (
        done.get_step_success_events()[0]
        and [
            event.step_output_data.metadata
            for event in done.all_events
            if event.is_successful_output
        ][0]
    )
    table = str(metadata["params, HEAD and experiment"].value)
    assert "mixed.recipes.short.cut" in table and "7" in table, "the record says what was changed"
    assert metadata["overrides"].value == {"mixed.recipes.short.cut": "7"}
    assert PARAMS["mixed"]["recipes"]["short"]["cut"] != 7
    assert params(made, "shorter")["mixed"]["recipes"]["short"]["cut"] == 7


def test_values_keep_the_types_they_were_given_in(made: Path) -> None:
    values = {
        "a_float": 0.25,
        "a_list": [1, "two, three", None, True],
        "a_map": {"c4": 0.5, "book": {"deep": -1}},
        "a_text": "it's, say: {this}",
        "empty": "",
        "none": "null",
    }
    with DagsterInstance.ephemeral() as instance:
        done = run(
            made,
            instance,
            "values",
            {
                "mixed.recipes.short.cut": 5,
                **{f"+mixed.recipes.short.{key}": value for key, value in values.items()},
                "~mixed.recipes.both.cut": "",
            },
            "mixed@short",
        )
        assert done.success, said(instance, done)
    recipes = params(made, "values")["mixed"]["recipes"]
    assert recipes["short"] == {"cut": 5, "domain": "c4", **values, "none": None}
    assert recipes["both"] == {"domain": ""}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("mixed.recipes.shrt.cut", "no 'shrt' in mixed.recipes, but 'short'"),
        ("mixd.recipes", "no 'mixd' in it, but"),
        ("mixed.recipes.short.cut.deep", "no 'deep' in mixed.recipes.short.cut."),
        ("mixed.recipes.zzz", "it has both, short"),
    ],
)
def test_an_unknown_key_is_one_message_before_anything_runs(
    made: Path, key: str, words: str
) -> None:
    with DagsterInstance.ephemeral() as instance:
        done = run(made, instance, "typo", {key: 1})
        log = said(instance, done)
    assert not done.success
    assert words in log and f"Write +{key} to add it" in log
    assert "Reproducing" not in log


def test_params_that_can_not_be_read_are_one_message(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", scm=True)
    for broken in (b"a: [1\n", b"a: \xff\n"):
        (world / "params.yaml").write_bytes(broken)
        assert not example(world).overrides, "the code location loads all the same"
        with pytest.raises(Failure, match="params.yaml: not valid YAML"):
            check(world, Experiment(name="x", overrides={"a": 1}))


def test_a_name_that_is_taken_is_one_message(made: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert run(made, instance, "one", {"mixed.recipes.short.cut": 5}).success
        done = run(made, instance, "one", {"mixed.recipes.short.cut": 6})
        assert not done.success and "dvc exp remove one" in said(instance, done)


def test_an_experiment_notes_its_process(made: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        done = run(made, instance, "typo", {"no.such.key": 1})
        found = instance.get_run_by_id(done.run_id)
    assert found is not None and found.tags[WORKER] == identity(os.getpid())


def test_keys_are_looked_up_in_maps_and_lists() -> None:
    here = {"a": {"b-c": [1, {"d": 2}]}, "1": 3}
    assert [unknown(here, key) for key in ("a.b-c", "a.b-c.1.d", "1", "+new.key", "~a")] == [""] * 5
    assert "no '2' in a.b-c" in unknown(here, "a.b-c.2")
    assert (
        override("~a", None) == "~a"
        and override("a", "x y") == "a=x y"
        and override("a", "1, 2") == "a='1, 2'"
    )


def alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be reaped."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_cancelled_experiment_ends_its_stages_and_runs_again(made: Path) -> None:
    hold = made / "hold"
    code = (made / "stage.py").read_text()
    (made / "stage.py").write_text(
        f"{code}import os, time\npathlib.Path({str(hold)!r}).write_text(str(os.getpid()))\n"
        f"while pathlib.Path({str(hold)!r}).exists(): time.sleep(0.02)\n"
    )
    prepare(made / ".dagster")
    (made / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "ops": {
                    "dvc_exp_run": {
                        "config": {
                            "name": "held",
                            "overrides": {"mixed.recipes.short.cut": 5},
                            "targets": ["raw@c4"],
                        }
                    }
                }
            }
        )
    )
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(made / ".dagster"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    dagster = subprocess.Popen(
        [
            "dagster",
            "job",
            "execute",
            "-m",
            "orchestration.definitions",
            "-j",
            "experiment",
            "-c",
            "run.yaml",
        ],
        cwd=made,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: dagster.poll() is not None or hold.is_file() and hold.read_text())
    assert dagster.poll() is None, "the stage began"
    stage = int(hold.read_text())
    dagster.send_signal(signal.SIGTERM)
    dagster.wait()
    assert not alive(stage)
    hold.unlink()
    (made / "stage.py").write_text(code)
    with DagsterInstance.ephemeral() as instance:
        done = run(made, instance, "held", {"mixed.recipes.short.cut": 5})
        assert done.success, said(instance, done)
