"""What Dagster marks as out of date is what DVC would make again, whatever was done, with either tool, in any order."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from dagster import DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dvc_world import PARAMS, dvc, make_world, materialize

from orchestration.automation import report_outside_state
from orchestration.definitions import build_definitions
from orchestration.graph import read_graph, read_lock, read_status
from orchestration.translation import asset_key

STEPS = 30
Step = Callable[[Path, DagsterInstance, random.Random], object]


def marked(root: Path, instance: DagsterInstance) -> set[str]:
    """What the UI would mark, after a tick of the sensor `outside` and a reload of the code location."""
    graph = read_graph(root)
    report_outside_state(instance, graph, read_lock(root), read_status(root))
    assets = build_definitions(root).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, assets, LoadingContextForTest(instance))
    return {address for address, item in graph.items.items()
            if resolver.get_status(asset_key(item)) is not StaleStatus.FRESH}


def out_of_date(root: Path) -> set[str]:
    """What `dvc status` names: like Dagster's marks, not what only reads it."""
    return set(read_status(root))


def append(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """A document more in a source."""
    with (root / "sources" / draw.choice(["book", "c4"]) / "documents").open("a") as file:
        file.write(f"document {draw.random()}\n")


def set_cut(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """One recipe's parameter, to one of three values."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["mixed"]["recipes"][draw.choice(["short", "both"])]["cut"] = draw.randrange(3)
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def edit_code(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """A comment in the code of every stage, one of two."""
    code = (root / "stage.py").read_text().split("# note")[0]
    (root / "stage.py").write_text(f"{code}# note {draw.randrange(2)}\n")


def edit_nothing(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """A file that no stage lists."""
    (root / "unlisted.py").write_text(f"# {draw.random()}\n")


def delete(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """One output, if there is one."""
    found = sorted((root / "data").glob("*/*/text"))
    if found:
        shutil.rmtree(draw.choice(found).parent)


def alter(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """One output, by hand."""
    found = sorted((root / "data").glob("*/*/text"))
    if found:
        path = draw.choice(found)
        path.unlink()
        path.write_text("by hand")


def repro_all(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """Plain DVC."""
    dvc(root, "repro")


def repro_one(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """Plain DVC, one item with what lies upstream."""
    dvc(root, "repro", draw.choice(["raw@book", "mixed@short", "mixed@both"]))


def checkout(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """Back to what dvc.lock says, as after a git checkout; items that were never made make DVC complain."""
    dvc(root, "checkout", "--force", check=False)


def materialise_some(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """Through Dagster, some assets that have what they read."""
    materialize(root, instance, *draw.choice([("raw/book",), ("raw/c4",), ("raw/book", "raw/c4", "mixed/both")]))


def materialise_all(root: Path, instance: DagsterInstance, draw: random.Random) -> None:
    """Through Dagster, everything."""
    materialize(root, instance)


CHANGES: list[Step] = [append, set_cut, edit_code, edit_nothing, delete, alter]
ANSWERS: list[Step] = [repro_all, repro_one, checkout, materialise_some, materialise_all]


def test_dagster_marks_what_dvc_would_make_at_each_of_thirty_random_steps(tmp_path: Path) -> None:
    root, draw, done = make_world(tmp_path / "world"), random.Random(0), []
    assert PARAMS["raw"]["domains"]
    with DagsterInstance.ephemeral() as instance:
        for number in range(STEPS):
            step = draw.choice(CHANGES if number % 3 else ANSWERS)
            step(root, instance, draw)
            done.append(step.__name__)
            assert marked(root, instance) == out_of_date(root), f"after {', '.join(done)}: {read_status(root)}"
        materialize(root, instance)
        assert marked(root, instance) == out_of_date(root) == set()
