"""DVC's graph in Dagster's words: the only place where names, groups and kinds are mapped.

Each item is an asset of its own, `[stage, item]`. Partitions would be the other way, and were
tried: one run covers one partition key, so a changed domain could not flow through to the recipes
in one run.

Specs are what the graph was when the code location was loaded: after an edit of dvc.yaml or
params.yaml, reload it.
"""

import re

from dagster import AssetKey, AssetSpec

from orchestration.graph import Graph, Item


def asset_key(item: Item) -> AssetKey:
    """`packed_shards@per_source` is the asset packed_shards/per_source; a stage without items is an
    asset by itself.
    """
    return AssetKey([item.stage] if item.name is None else [item.stage, item.name])


def group_name(stage: str) -> str:
    """Dagster's group (and job) of a stage; it allows letters, digits and underscores alone."""
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def step_name(item: Item) -> str:
    """Of the item's step on a run's page: `packed_shards__per_source`, `comparison__all`. Unique:
    graph.py refuses names that Dagster can't tell apart. A job has the stage's bare name."""
    return re.sub(r"\W", "_", f"{item.stage}__{item.name or 'all'}", flags=re.ASCII)


def asset_spec(graph: Graph, item: Item, cost: str = "") -> AssetSpec:
    """What Dagster shows of an item before it is made. cost: what making it is going to cost."""
    predicted = {"predicted cost": cost} if cost else {}
    return AssetSpec(
        key=asset_key(item),
        deps=[asset_key(graph.items[address]) for address in sorted(item.upstream)],
        description=f"{item.description}\n\n`{item.command}`".strip(),
        group_name=group_name(item.stage),
        kinds=kinds(item),
        code_version=graph.code_version(item.address),
        metadata={"dvc address": item.address, "outputs": ", ".join(item.outputs), **predicted},
    )


def kinds(item: Item) -> set[str]:
    """The small labels on an asset: DVC always; Python, and what comes out, by the command's own
    words.
    """
    words = set(re.split(r"\W+", f"{item.command} {' '.join(item.inputs)}"))
    found = {"dvc"}
    if "python" in words:
        found.add("python")
    if words & {"training", "evaluation"}:
        found.add("pytorch")
    if words & {"packed_shards", "tokenized_corpus", "mixed_dataset"} and "pytorch" not in found:
        found.add("arrow")
    return found
