"""Where steps run: the executor, and the tags by which a step asks a cluster for resources.

NEEDLEWORK_EXECUTOR names Dagster's executor: `threads` (executor.py, the default), `multiprocess`,
or an import path such as `dagster_k8s:k8s_job_executor`. NEEDLEWORK_OP_TAGS names a YAML file, pool
-> tags. The steps of a pool get its tags, which k8s_job_executor and dagster-ray read. So only
steps in the pool `gpu` ask for GPUs. The cost of every executor but `threads`: one process for each
step, which asks DVC for the status again.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import yaml
from dagster import ExecutorDefinition, multiprocess_executor

from core.environment import EXECUTOR, OP_TAGS, text_of
from orchestration.executor import Scope, threads
from orchestration.graph import Graph, GraphError

# The default is written once, in the table of variables.
THREADS, MULTIPROCESS = EXECUTOR.default, "multiprocess"


def chosen_executor(workers: Callable[[], int], scope: Scope) -> ExecutorDefinition:
    """The executor that NEEDLEWORK_EXECUTOR names. Raises GraphError."""
    name = text_of(EXECUTOR)
    if name == THREADS:
        return threads(workers, scope)
    if name == MULTIPROCESS:
        return multiprocess_executor.configured({"max_concurrent": workers()})

    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise GraphError(
            f"{EXECUTOR} is {name!r}: write {THREADS}, {MULTIPROCESS}, or an import path, as in "
            "dagster_k8s:k8s_job_executor."
        )

    # Not a dependency of the project: whoever names one installs it.
    try:
        found = getattr(import_module(module), attribute)
    # A module runs its own code while it is imported, so any error may come.
    except Exception as error:
        raise GraphError(
            f"{EXECUTOR} is {name!r}: {type(error).__name__}: {error}. Install it, or name another."
        ) from None
    if not isinstance(found, ExecutorDefinition):
        raise GraphError(f"{EXECUTOR} is {name!r}: that is not a Dagster executor.")
    return found


def op_tags(graph: Graph) -> dict[str, dict[str, Any]]:
    """Pool -> tags of its steps, from the file that NEEDLEWORK_OP_TAGS names. Raises GraphError."""
    name = text_of(OP_TAGS)
    if not name:
        return {}

    path = graph.root / name
    try:
        tags = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GraphError(f"{OP_TAGS} is {name!r}, which cannot be read: {error}") from None
    if not (isinstance(tags, dict) and all(isinstance(inner, dict) for inner in tags.values())):
        raise GraphError(f"{path}: not a map from pools to tags. deploy/op-tags.yaml shows one.")

    # A misspelt pool would send a training to a node without a GPU.
    pools = {item.pool for item in graph.items.values() if item.pool}
    known = ", ".join(sorted(pools)) or "none"
    for pool in tags.keys() - pools:
        raise GraphError(f"{path}: no item is in a pool {pool!r}. The pools are: {known}.")
    return tags
