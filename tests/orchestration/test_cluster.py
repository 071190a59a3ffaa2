"""Where steps run is configuration: the same assets come out, and only a pool's steps ask for its
tags."""

from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, execute_job
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dvc_world import PARAMS, make_world

from core.environment import EXECUTOR, OP_TAGS
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import GraphError, read_graph

ROOT = Path(__file__).parents[2]


def world_with_a_pool(root: Path) -> Path:
    """The small project, its report in the pool `gpu`."""
    world = make_world(root)
    graph = yaml.safe_load((world / "dvc.yaml").read_text())
    graph["stages"]["report"]["meta"] = {"pool": "gpu"}
    (world / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    return world


def test_steps_in_processes_of_their_own_make_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {**PARAMS, "raw": {"domains": {"c4": {"source": "sources/c4"}}}}
    params["mixed"] = {"recipes": {"short": {"domain": "c4"}}}
    world = world_with_a_pool(tmp_path / "world")
    (world / "params.yaml").write_text(yaml.safe_dump(params))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(world)
    for name, value in {
        EXECUTOR.name: "multiprocess",
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "NEEDLEWORK_POOLS": "gpu=1",
    }.items():
        monkeypatch.setenv(name, value)
    code = ReconstructableRepository.for_module("orchestration.definitions", "defs", str(world))
    with DagsterInstance.get() as instance:
        result = execute_job(ReconstructableJob(code, WHOLE_GRAPH), instance)
        assert result.success
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits["gpu"] == 1
    text = (world / "data/report/all/text").read_text()
    assert text == "report of all\nmixed of short\nraw of c4\na document of c4\n"
    assert set(read_graph(world).items) == {"raw@c4", "mixed@short", "report"}


def test_the_tags_of_a_pool_arrive_on_its_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_a_pool(tmp_path)
    monkeypatch.setenv(OP_TAGS.name, str(ROOT / "deploy/op-tags.yaml"))
    monkeypatch.setenv(EXECUTOR.name, "dagster_k8s:k8s_job_executor")
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    assert job.executor_def.name == "k8s"
    asking = {
        node.name: config["container_config"]["resources"]
        for node in job.nodes
        if (config := yaml.safe_load(node.definition.tags.get("dagster-k8s/config", "null")))
    }
    assert asking == {"report__all": {"limits": {"nvidia.com/gpu": 8}}}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (EXECUTOR.name, "slurm", "write threads, multiprocess, or an import path"),
        (EXECUTOR.name, "no_such_module:executor", "No module named 'no_such_module'"),
        (EXECUTOR.name, "broken_module:executor", "ZeroDivisionError: division by zero"),
        (EXECUTOR.name, "os:getcwd", "is not a Dagster executor"),
        (OP_TAGS.name, "none.yaml", "cannot be read"),
        (OP_TAGS.name, "list.yaml", "not a map from pools to tags"),
        (OP_TAGS.name, "pool.yaml", "no item is in a pool 'GPU'. The pools are: gpu."),
    ],
)
def test_a_wrong_setting_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    world = world_with_a_pool(tmp_path)
    (world / "list.yaml").write_text("[gpu]")
    (world / "pool.yaml").write_text("GPU: {a: b}")
    (world / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(world)
    monkeypatch.setenv(variable, value)
    with pytest.raises(GraphError, match=words) as error:
        build_definitions(world)
    assert "\n" not in str(error.value) or value == "none.yaml"
