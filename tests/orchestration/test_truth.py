"""What Dagster marks as out of date is what DVC would make again, and the versions it shows are
those of dvc.lock, whatever was done, with Dagster, DVC or git, in any order.
"""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance
from dvc_world import dvc, git, make_world, materialize, out_of_date_in_dagster

from orchestration.graph import Graph, read_graph, read_lock, read_status
from orchestration.outside import report_outside_state
from orchestration.translation import asset_key

pytestmark = pytest.mark.slow

ROUNDS = 2
"""How often each kind of step is taken."""


@dataclass
class Walk:
    """Where a walk is, and what it can go back to."""

    root: Path
    instance: DagsterInstance
    draw: random.Random
    commits: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)


Step = Callable[[Walk], object]


def append(walk: Walk) -> None:
    """A document more in a source."""
    with (walk.root / "sources" / walk.draw.choice(["book", "c4"]) / "documents").open("a") as file:
        file.write(f"document {walk.draw.random()}\n")


def set_cut(walk: Walk) -> None:
    """One recipe's parameter, to one of three values."""
    params = yaml.safe_load((walk.root / "params.yaml").read_text())
    params["mixed"]["recipes"][walk.draw.choice(["short", "both"])]["cut"] = walk.draw.randrange(3)
    (walk.root / "params.yaml").write_text(yaml.safe_dump(params))


def edit_code(walk: Walk) -> None:
    """A comment in the code of every stage, one of two."""
    code = (walk.root / "stage.py").read_text().split("# note")[0]
    (walk.root / "stage.py").write_text(f"{code}# note {walk.draw.randrange(2)}\n")


def edit_nothing(walk: Walk) -> None:
    """A file that no stage lists."""
    (walk.root / "unlisted.py").write_text(f"# {walk.draw.random()}\n")


def delete(walk: Walk) -> None:
    """One output, if there is one."""
    found = sorted((walk.root / "data").glob("*/*/text"))
    if found:
        shutil.rmtree(walk.draw.choice(found).parent)


def alter(walk: Walk) -> None:
    """One output, by hand."""
    found = sorted((walk.root / "data").glob("*/*/text"))
    if found:
        path = walk.draw.choice(found)
        path.unlink()
        path.write_text("by hand")


def lose_cache(walk: Walk) -> None:
    """DVC's cache; what was made is still there."""
    shutil.rmtree(walk.root / ".dvc" / "cache", ignore_errors=True)


def lose_all(walk: Walk) -> None:
    """DVC's cache and everything that was made."""
    lose_cache(walk)
    shutil.rmtree(walk.root / "data", ignore_errors=True)


def commit(walk: Walk) -> None:
    """Sources, code, parameters and dvc.lock as they are."""
    git(walk.root, "add", "--all")
    git(walk.root, "commit", "--allow-empty", "--message", "a step")
    walk.commits.append(git(walk.root, "rev-parse", "HEAD"))


def push(walk: Walk) -> None:
    """What DVC's cache holds of it, to the remote."""
    dvc(walk.root, "push", check=False)


def exp_run(walk: Walk) -> None:
    """Another parameter in a folder of DVC's own, from the project as it is."""
    name = f"experiment-{len(walk.experiments)}"
    change = f"mixed.recipes.{walk.draw.choice(['short', 'both'])}.cut={10 + len(walk.experiments)}"
    dvc(walk.root, "exp", "run", "--temp", "--name", name, "--set-param", change)
    walk.experiments.append(name)


def repro_all(walk: Walk) -> None:
    """Plain DVC."""
    dvc(walk.root, "repro")


def repro_one(walk: Walk) -> None:
    """Plain DVC, one item with what lies upstream."""
    dvc(walk.root, "repro", walk.draw.choice(["raw@book", "mixed@short", "mixed@both"]))


def dvc_checkout(walk: Walk) -> None:
    """Back to what dvc.lock says; items that were never made make DVC complain."""
    dvc(walk.root, "checkout", "--force", check=False)


def git_checkout(walk: Walk) -> None:
    """An earlier commit, then `dvc checkout`."""
    git(walk.root, "checkout", "--force", "--detach", walk.draw.choice(walk.commits))
    dvc_checkout(walk)


def exp_apply(walk: Walk) -> None:
    """An experiment into the project; what the cache has lost of it makes DVC complain."""
    if not walk.experiments:
        exp_run(walk)
    dvc(walk.root, "exp", "apply", walk.draw.choice(walk.experiments), check=False)


def pull(walk: Walk) -> None:
    """Whatever of dvc.lock the remote has."""
    dvc(walk.root, "pull", "--force", check=False)


def materialise_some(walk: Walk) -> None:
    """Through Dagster, some assets that have what they read."""
    materialize(
        walk.root,
        walk.instance,
        *walk.draw.choice([("raw/book",), ("raw/c4",), ("raw/book", "raw/c4", "mixed/both")]),
    )


def materialise_all(walk: Walk) -> None:
    """Through Dagster, everything."""
    materialize(walk.root, walk.instance)


CHANGES: list[Step] = [
    append,
    set_cut,
    edit_code,
    edit_nothing,
    delete,
    alter,
    lose_cache,
    lose_all,
    commit,
    push,
    exp_run,
]
ANSWERS: list[Step] = [
    repro_all,
    repro_one,
    dvc_checkout,
    git_checkout,
    exp_apply,
    pull,
    materialise_some,
    materialise_all,
]
MUST_MATTER = {"repro_all", "git_checkout", "exp_apply", "pull", "materialise_all"}


def shown_versions(graph: Graph, instance: DagsterInstance) -> dict[str, str]:
    """By address, the data version of the latest materialisation."""
    found = {}
    for address, item in graph.items.items():
        event = instance.get_latest_materialization_event(asset_key(item))
        if event is not None and event.asset_materialization is not None:
            found[address] = (event.asset_materialization.tags or {})["dagster/data_version"]
    return found


def state(root: Path) -> Mapping[str, str]:
    """All that git and DVC look after, by content."""
    files = [
        root / "params.yaml",
        root / "stage.py",
        root / "dvc.lock",
        *root.glob("sources/*/*"),
        *root.glob("data/*/*/text"),
    ]
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def compare(walk: Walk, told: str) -> set[str]:
    """Dagster and DVC agree, after a tick of the sensor `outside`; returns what is out of date."""
    graph, lock, stale = read_graph(walk.root), read_lock(walk.root), read_status(walk.root)
    report_outside_state(walk.instance, graph, lock, stale)
    assert out_of_date_in_dagster(walk.root, walk.instance) == set(stale), f"{told}: {stale}"
    there = {
        address
        for address in lock
        if not any(reason.startswith("changed outs") for reason in stale.get(address, ()))
    }
    versions = {
        address: version
        for address, version in shown_versions(graph, walk.instance).items()
        if address in there
    }
    assert versions == {address: graph.data_version(address, lock[address]) for address in there}, (
        told
    )
    return set(stale)


def take(root: Path, seed: int) -> None:
    """A walk of ROUNDS rounds, in each of which every kind of step is taken once, in random order."""
    make_world(root, scm=True)
    dvc(root, "remote", "add", "--default", "store", str(root.with_name("remote")))
    mattered, sizes = set[str](), set[int]()
    with DagsterInstance.ephemeral() as instance:
        walk = Walk(root, instance, random.Random(seed))
        commit(walk)
        done: list[str] = []
        for _ in range(ROUNDS):
            changes, answers = (walk.draw.sample(kinds, len(kinds)) for kinds in (CHANGES, ANSWERS))
            while changes or answers:
                step = (changes if len(changes) >= len(answers) else answers).pop()
                before = state(root)
                step(walk)
                done.append(step.__name__)
                if state(root) != before:
                    mattered.add(step.__name__)
                sizes.add(len(compare(walk, f"seed {seed}, after {', '.join(done)}")))
        materialize(root, instance)
        assert compare(walk, "at the end") == set()
    assert mattered >= MUST_MATTER, f"the walk said nothing of {MUST_MATTER - mattered}"
    assert 0 in sizes and len(sizes) > 2, "always or never out of date: the walk said nothing"


def test_dagster_and_dvc_agree_at_every_random_step(
    tmp_path: Path,
) -> None:
    take(tmp_path / "world", seed=0)
