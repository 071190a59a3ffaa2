"""Map DVC's graph to Dagster's assets: keys, groups, kinds and owners, all in this module.

Each item is one asset, `[stage, item]`. Partitions were tried instead: one run covers one partition
key, so a changed domain could not reach the recipes in the same run.

The cost: specs describe the graph at the time when the code location was loaded. After an edit of
dvc.yaml or params.yaml it must be reloaded.
"""

import re

from dagster import AssetKey, AssetSpec

from orchestration.graph import Graph, GraphError, Item

MODULE = re.compile(r"\bpython[\d.]* (?:-\S+ )*-m (\w+)\.(\w+)")
"""Finds the package and the name of the module that a command runs."""
GROUPS = {"assets": "data", "training": "training", "evaluation": "evaluation"}
"""Package -> the group under which Dagster's graph shows its stages."""
REPORT = "report"
"""The group of stages that only make pages (`meta: {group: report}` in dvc.yaml)."""
PYTORCH = {"training", "evaluation"}
ARROW = {"raw_corpus", "tokenized_corpus", "mixed_dataset", "packed_shards"}
"""Packages whose stages run models, and modules of `assets` that write Arrow or Parquet."""
# Dagster's own rule for owners. Its error would not name the stage.
OWNER = re.compile(r"team:\w+|[^@\s]+@[^@\s]+\.\w+")


def asset_key(item: Item) -> AssetKey:
    """The key of an item: packed_shards/per_source for `packed_shards@per_source`. The key of a
    stage without items is its name.
    """
    return AssetKey([item.stage] if item.name is None else [item.stage, item.name])


def job_name(stage: str) -> str:
    """The name of a stage's job."""
    # Dagster allows only ASCII letters, digits and underscores.
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def group_name(item: Item) -> str:
    """The group of an item: from dvc.yaml, else from its module's package, else its stage."""
    # Four groups are easier to read than fifteen stages.
    package, _ = module_of(item)
    return job_name(item.group or GROUPS.get(package, item.stage))


def step_name(item: Item) -> str:
    """The name of an item's step on a run's page: packed_shards__per_source, comparison__all."""
    # Unique: graph.py refuses names that become equal here. `__all` keeps it apart from a job.
    return re.sub(r"\W", "_", f"{item.stage}__{item.name or 'all'}", flags=re.ASCII)


def asset_spec(graph: Graph, item: Item, cost: str = "") -> AssetSpec:
    """What Dagster shows of an item before it is made. cost: the predicted cost, or "".

    Raises GraphError.
    """
    predicted = {"predicted cost": cost} if cost else {}

    return AssetSpec(
        key=asset_key(item),
        deps=[asset_key(graph.items[address]) for address in sorted(item.upstream)],
        description=description(item),
        group_name=group_name(item),
        kinds=kinds(item),
        owners=owners(item),
        tags={"stage": job_name(item.stage)},
        code_version=graph.code_version(item.address),
        metadata={"dvc address": item.address, "outputs": ", ".join(item.outputs), **predicted},
    )


def description(item: Item) -> str:
    """The text below an asset's name."""
    # The stage comes first: on the graph a node has the item's name only, and both checkpoint and
    # packed_shards have an item `global`.
    return f"**{item.stage}** {item.description}".strip() + f"\n\n`{item.command}`"


def module_of(item: Item) -> tuple[str, str]:
    """The package and the name of the module that an item's command runs. "" if it runs none."""
    found = MODULE.search(item.command)
    return (found[1], found[2]) if found else ("", "")


def kinds(item: Item) -> set[str]:
    """The small labels on an asset: DVC, Python, and the libraries of its module."""
    package, module = module_of(item)
    found = {"dvc"}
    if re.search(r"\bpython\b", item.command):
        found.add("python")
    # Reports of `evaluation` only read results; they run no model.
    if group_name(item) == REPORT:
        return found

    if package in PYTORCH:
        found.add("pytorch")
    if package == "assets" and module in ARROW:
        found.add("arrow")
    return found


def owners(item: Item) -> list[str]:
    """The owners of an item. Raises GraphError."""
    for owner in item.owners:
        if not OWNER.fullmatch(owner):
            raise GraphError(
                f"dvc.yaml: {item.stage}: meta.owners: {owner!r} is no owner to Dagster. Write an "
                "address, as in ann@example.com, or a team, as in team:data."
            )
    return list(item.owners)
