"""DVC's graph in Dagster's words: the only place where names, groups and kinds are mapped.

Each item is an asset of its own, `[stage, item]`. Partitions would be the other way, and were
tried: one run covers one partition key, so a changed domain could not flow through to the recipes
in one run.

Specs are what the graph was when the code location was loaded: after an edit of dvc.yaml or
params.yaml, reload it.
"""

import re

from dagster import AssetKey, AssetSpec

from orchestration.graph import Graph, GraphError, Item

MODULE = re.compile(r"\bpython[\d.]* (?:-\S+ )*-m (\w+)\.(\w+)")
"""A command that runs a stage's module: its package, and its name."""
GROUPS = {"assets": "data", "training": "training", "evaluation": "evaluation"}
"""By package, the heading under which the graph shows a stage."""
REPORT = "report"
"""The heading of stages that only make pages (`meta: {group: report}` in dvc.yaml)."""
PYTORCH = {"training", "evaluation"}
ARROW = {"raw_corpus", "tokenized_corpus", "mixed_dataset", "packed_shards"}
"""Packages whose stages run models, and modules of `assets` that write Arrow or Parquet."""
OWNER = re.compile(r"team:\w+|[^@\s]+@[^@\s]+\.\w+")


def asset_key(item: Item) -> AssetKey:
    """`packed_shards@per_source` is the asset packed_shards/per_source; a stage without items is an
    asset by itself.
    """
    return AssetKey([item.stage] if item.name is None else [item.stage, item.name])


def job_name(stage: str) -> str:
    """Dagster's job of a stage; it allows letters, digits and underscores alone."""
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def group_name(item: Item) -> str:
    """Under which heading the graph shows it: what dvc.yaml says, else its module's package, else
    its stage. Four headings are read more easily than fifteen.
    """
    package, _ = module_of(item)
    return job_name(item.group or GROUPS.get(package, item.stage))


def step_name(item: Item) -> str:
    """Of the item's step on a run's page: `packed_shards__per_source`, `comparison__all`. Unique:
    graph.py refuses names that Dagster can't tell apart. A job has the stage's bare name."""
    return re.sub(r"\W", "_", f"{item.stage}__{item.name or 'all'}", flags=re.ASCII)


def asset_spec(graph: Graph, item: Item, cost: str = "") -> AssetSpec:
    """What Dagster shows of an item before it is made. cost: what making it is going to cost.
    Raises GraphError."""
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
    """Its stage first: on the graph, a node's name is the item's alone, and this line stands below
    it. Two nodes `global` so are `checkpoint` and `packed_shards`.
    """
    return f"**{item.stage}** {item.description}".strip() + f"\n\n`{item.command}`"


def module_of(item: Item) -> tuple[str, str]:
    """The package and the name of the module that its command runs; "" where it runs none."""
    found = MODULE.search(item.command)
    return (found[1], found[2]) if found else ("", "")


def kinds(item: Item) -> set[str]:
    """The small labels on an asset: DVC always; Python, and what its module works with."""
    package, module = module_of(item)
    found = {"dvc"}
    if re.search(r"\bpython\b", item.command):
        found.add("python")
    if group_name(item) == REPORT:
        return found
    if package in PYTORCH:
        found.add("pytorch")
    if package == "assets" and module in ARROW:
        found.add("arrow")
    return found


def owners(item: Item) -> list[str]:
    """Who answers for it. Raises GraphError."""
    for owner in item.owners:
        if not OWNER.fullmatch(owner):
            raise GraphError(
                f"dvc.yaml: {item.stage}: meta.owners: {owner!r} is no owner to Dagster. Write an "
                "address, as in ann@example.com, or a team, as in team:data."
            )
    return list(item.owners)
