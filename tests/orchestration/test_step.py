"""The bridge on a world of two domains and two recipes: it runs what is out of date and says what
it did.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from dagster_server import until
from dvc.utils import serialize
from dvc_world import FAILED, PARAMS, SKIPPED, dvc, git, make_world, materialize

from orchestration.definitions import build_definitions, graph_now
from orchestration.graph import GraphError, read_graph, read_lock, read_status
from orchestration.pools import wanted_places
from orchestration.running import Outcome

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "world")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def artefacts(root: Path) -> dict[str, tuple[int, str]]:
    """Path -> (time of last change, content) of all that was made."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.read_text())
        for path in (root / "data").rglob("*")
        if path.is_file()
    }


def ran(seen: dict[str, str]) -> set[str]:
    """The addresses that ran."""
    return {address for address, outcome in seen.items() if outcome is Outcome.RAN}


ALL = {"raw@book", "raw@c4", "mixed@short", "mixed@both", "report"}


def test_every_item_is_an_asset_in_the_group_of_its_stage(world: Path) -> None:
    specs = {
        spec.key.to_user_string(): spec
        for spec in build_definitions(world).resolve_all_asset_specs()
    }
    assert set(specs) == {"raw/book", "raw/c4", "mixed/short", "mixed/both", "report"}
    assert specs["raw/book"].group_name == "raw"
    assert "Documents of one domain" in (specs["raw/book"].description or "")
    assert {dep.asset_key.to_user_string() for dep in specs["mixed/both"].deps} == {
        "raw/book",
        "raw/c4",
    }
    assert {dep.asset_key.to_user_string() for dep in specs["mixed/short"].deps} == {"raw/c4"}


def test_the_whole_graph_runs_once_and_then_nothing_does(
    world: Path, instance: DagsterInstance
) -> None:
    first, run = materialize(world, instance)
    assert run.success and ran(first) == ALL
    before = artefacts(world)
    second, run = materialize(world, instance)
    assert run.success and set(second.values()) == {Outcome.UNCHANGED}
    assert artefacts(world) == before


def test_dagster_and_plain_dvc_leave_the_same_lock_file(
    tmp_path: Path, instance: DagsterInstance
) -> None:
    through_dagster, plain = make_world(tmp_path / "one"), make_world(tmp_path / "two")
    materialize(through_dagster, instance)
    dvc(plain, "repro")
    assert (through_dagster / "dvc.lock").read_text() == (plain / "dvc.lock").read_text()


def test_a_new_document_remakes_its_chain_alone(world: Path, instance: DagsterInstance) -> None:
    materialize(world, instance)
    before = artefacts(world)
    with (world / "sources" / "book" / "documents").open("a") as file:
        file.write("another\n")
    seen, _ = materialize(world, instance)
    assert ran(seen) == {"raw@book", "mixed@both", "report"}
    after = artefacts(world)
    assert {path for path in before if after[path] != before[path]} == {
        "data/raw/book/text",
        "data/mixed/both/text",
        "data/report/all/text",
    }


def test_a_comment_in_a_file_no_stage_lists_remakes_nothing(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    (world / "unlisted.py").write_text("# another comment\n")
    assert read_status(world) == {}
    assert ran(materialize(world, instance)[0]) == set()


def test_going_back_to_earlier_params_restores_without_running(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    before = {path: text for path, (_, text) in artefacts(world).items()}
    changed = {
        **PARAMS,
        "mixed": {"recipes": {**PARAMS["mixed"]["recipes"], "short": {"cut": 9, "domain": "book"}}},
    }
    (world / "params.yaml").write_text(yaml.safe_dump(changed))
    assert ran(materialize(world, instance)[0]) == {"mixed@short", "report"}
    (world / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    seen, _ = materialize(world, instance)
    assert ran(seen) == set() and Outcome.RESTORED in seen.values()
    assert {path: text for path, (_, text) in artefacts(world).items()} == before


def test_a_failure_shows_its_last_lines_and_stops_its_readers(
    world: Path, instance: DagsterInstance
) -> None:
    (world / "sources" / "book" / "documents").write_text("poison")
    seen, run = materialize(world, instance)
    assert not run.success
    assert (seen["raw@book"], seen["mixed@both"], seen["report"]) == (
        FAILED,
        SKIPPED,
        SKIPPED,
    )
    assert (seen["raw@c4"], seen["mixed@short"]) == (Outcome.RAN, Outcome.RAN)
    messages = run.failures
    assert "raw: poison in book" in messages


def test_one_selected_asset_is_made_alone_and_says_what_it_did(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    (world / "sources" / "c4" / "documents").write_text("changed\n")
    seen, _ = materialize(world, instance, "raw/c4")
    assert seen == {"raw@c4": Outcome.RAN}
    event = instance.get_latest_materialization_event(AssetKey(["raw", "c4"]))
    assert event is not None and event.asset_materialization is not None
    assert any(
        getattr(value, "text", None) == "ran"
        for value in event.asset_materialization.metadata.values()
    )


def test_the_graph_is_read_again_only_after_a_change(world: Path) -> None:
    first = graph_now(world)
    assert graph_now(world) is first
    with (world / "params.yaml").open("a") as file:
        file.write("# a comment\n")
    assert graph_now(world) is not first
    (world / "dvc.yaml").write_text("stages: {raw: {cmd: [}}")
    with pytest.raises(GraphError):
        graph_now(world)


def test_a_broken_dvc_yaml_is_one_message(world: Path) -> None:
    (world / "dvc.yaml").write_text("stages: {raw: {cmd: [}}")
    with pytest.raises(GraphError, match=r"dvc\.yaml"):
        read_graph(world)


def test_what_we_use_of_dvcs_private_interface_is_there(world: Path) -> None:
    graph = read_graph(world)
    assert set(graph.items) == ALL
    item = graph.items["mixed@both"]
    assert (item.stage, item.name, item.upstream) == ("mixed", "both", {"raw@book", "raw@c4"})
    assert item.params == {"params.yaml": {"mixed.recipes.both": {"cut": 2, "domain": ""}}}
    assert set(item.inputs) == {"stage.py"} and item.outputs == ("data/mixed/both",)
    assert set(read_status(world)) == ALL
    assert graph.downstream({"raw@c4"}) == ALL - {"raw@book"}


def test_params_are_parsed_as_often_whatever_the_number_of_items(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = list[str]()
    load = serialize.LOADERS[".yaml"]

    def counted(path: str, **options: Any) -> Any:
        parsed.append(Path(path).name)
        return load(path, **options)

    monkeypatch.setitem(serialize.LOADERS, ".yaml", counted)
    readers: list[Callable[[Path], object]] = [read_graph, read_status]
    for read in readers:
        counts = list[int]()
        for number in (2, 5):
            recipes = {f"r{each}": {"cut": each, "domain": ""} for each in range(number)}
            params = PARAMS | {"mixed": {"recipes": recipes}}
            (world / "params.yaml").write_text(yaml.safe_dump(params))
            parsed.clear()
            read(world)
            counts.append(parsed.count("params.yaml"))
        assert counts[0] == counts[1]


EDITS = {
    "a document": (
        "c4",
        "pathlib.Path('sources/c4/documents').open('a').write('too late\\n')",
        {"raw@c4"},
    ),
    "a parameter": (
        "short",
        "params = pathlib.Path('params.yaml'); "
        "params.write_text(params.read_text().replace('cut: 1', 'cut: 5'))",
        {"mixed@short"},
    ),
    "the code": (
        "c4",
        "pathlib.Path('stage.py').open('a').write('# too late\\n')",
        {"raw@c4", "raw@book"},
    ),
}
"""What changes -> the item that is at work then, how, and what is out of date afterwards."""


@pytest.mark.parametrize("change", EDITS)
def test_a_change_during_a_run_is_not_recorded_as_its_input(
    world: Path, instance: DagsterInstance, change: str
) -> None:
    item, edit, changed = EDITS[change]
    early = (world / "params.yaml").read_text()
    (world / "stage.py").write_text(
        (world / "stage.py").read_text()
        + f"if pathlib.Path('edit').exists() and item == '{item}': {edit}\n"
    )
    materialize(world, instance)
    with (world / "sources" / "c4" / "documents").open("a") as file:
        file.write("in time\n")
    (world / "edit").touch()
    _, run = materialize(world, instance)
    (world / "edit").unlink()
    assert run.success and set(read_status(world)) == changed
    seen, _ = materialize(world, instance)
    assert changed <= ran(seen) and not read_status(world)
    made = artefacts(world)["data/report/all/text"][1]
    assert "in time" in made and ("too late" in made) == (change == "a document")
    if change == "a parameter":  # taken back, it is what it was made from, and it is still there
        (world / "params.yaml").write_text(early)
        assert set(materialize(world, instance)[0].values()) <= {
            Outcome.RESTORED,
            Outcome.UNCHANGED,
        }


def test_items_of_a_pool_wait_for_a_place_in_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (world / "dvc.yaml").read_text()
    (world / "dvc.yaml").write_text(
        text.replace(
            "      desc: Documents of one domain\n",
            "      desc: Documents of one domain\n      meta: {pool: gpu}\n",
        )
    )
    graph = read_graph(world)
    assert graph.items["raw@book"].pool == "gpu" and graph.items["report"].pool == ""
    monkeypatch.setenv("NEEDLEWORK_POOLS", "gpu=1")
    monkeypatch.setenv("NEEDLEWORK_JOBS", "4")
    with DagsterInstance.local_temp(str(tmp_path)) as instance:  # pools stand in a real database
        _, run = materialize(world, instance)
    at_work = 0
    for event in run.events:
        if event.step_key and event.step_key.startswith("raw__"):
            at_work += event.is_step_start
            at_work -= event.is_step_success
            assert at_work <= 1
    assert run.success and not read_status(world)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("gpu", "POOL=PLACES"), ("gpu=²", "1 to 1000"), ("gpu=1001", "1 to"), ("gpus=1", "gpu, mem")],
)
def test_a_pool_that_can_not_be_meant_is_refused(
    world: Path,
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    message: str,
) -> None:
    monkeypatch.setenv("NEEDLEWORK_POOLS", setting)
    with pytest.raises(ValueError, match=message):
        wanted_places(read_graph(world))
    _, run = materialize(world, instance)
    assert message in run.failures


def test_a_run_waits_for_a_dvc_that_someone_else_runs(
    world: Path, instance: DagsterInstance
) -> None:
    (world / "hold").touch()
    (world / "stage.py").write_text((world / "stage.py").read_text() + WAIT)
    other = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "raw@book"], cwd=world, stdout=subprocess.DEVNULL
    )
    with ThreadPoolExecutor() as pool:
        until(lambda: (world / "held").exists())
        run = pool.submit(materialize, world, instance)
        until(
            lambda: any(
                "Waiting" in entry.user_message
                for found in instance.get_runs()
                for entry in instance.all_logs(found.run_id)
            )
        )
        (world / "hold").unlink()
        assert other.wait() == 0
        seen, result = run.result()
    assert (
        result.success and seen["raw@book"] is Outcome.UNCHANGED and seen["report"] is Outcome.RAN
    )


WAIT = """
import time
pathlib.Path("held").touch()
while pathlib.Path("hold").exists(): time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my domain", '"my_domain"'),
        ("a/b", '"a_b"'),
        ("long_0.7", '"long_0_7"'),
        ("a@b", '"a_b"'),
        ("a&b", '"a_b"'),
        ('"o\'x"', '"o_x"'),
        ("ü", "Choose another"),
        ("''", "Choose another"),
        ("2024", '"2024", with the quotes'),
        ("1e3", '"1e3", with the quotes'),
        ("yes", '"true", with the quotes'),
        ("2024-01-01", '"2024-01-01", with'),
    ],
)
def test_a_name_that_cant_come_through_is_refused(world: Path, name: str, words: str) -> None:
    params = (world / "params.yaml").read_text()
    (world / "params.yaml").write_text(params.replace("    short:\n", f"    {name}:\n"))
    with pytest.raises(GraphError, match=r"params\.yaml: mixed\.recipes: ") as refused:
        read_graph(world)
    assert words in str(refused.value)


def test_two_names_that_are_one_to_dagster_are_refused(world: Path) -> None:
    params = (world / "params.yaml").read_text().replace("    both:\n", "    a-b:\n")
    (world / "params.yaml").write_text(params.replace("    short:\n", "    a_b:\n"))
    with pytest.raises(GraphError, match="mixed@a-b and mixed@a_b are one name to Dagster"):
        read_graph(world)


@pytest.mark.parametrize("stage", ["config", "class"])
def test_a_stage_that_dagster_can_not_name_is_one_message(world: Path, stage: str) -> None:
    graph = (world / "dvc.yaml").read_text()
    (world / "dvc.yaml").write_text(graph.replace("  report:\n", f"  {stage}:\n"))
    with pytest.raises(GraphError, match=f'dvc.yaml: "{stage}" is not a valid name.*Rename'):
        build_definitions(world)


def test_every_name_that_is_allowed_comes_through(world: Path, instance: DagsterInstance) -> None:
    names = ["2024", "1e3", "true", "a-b", "A_c", "007", "2024-01-01", "_", "9-"]
    names += ["global", "class", "None"]  # words of Python
    recipes = {name: {"cut": 1, "domain": "c4"} for name in names}
    (world / "params.yaml").write_text(
        yaml.safe_dump({**PARAMS, "mixed": {"recipes": recipes}}, default_style='"')
    )
    seen, run = materialize(world, instance)
    assert run.success and ran(seen) == {
        "raw@book",
        "raw@c4",
        "report",
        *(f"mixed@{name}" for name in names),
    }
    assert set(materialize(world, instance)[0].values()) == {Outcome.UNCHANGED}


def test_an_unreadable_source_is_one_message_that_names_it(world: Path) -> None:
    link = world / "sources" / "book" / "gone"
    link.symlink_to("nowhere")
    for read in (read_graph, read_status):
        with pytest.raises(GraphError, match=f"{link}: a link that leads nowhere"):
            read(world)
    link.unlink()
    (world / "dvc.lock").mkdir()
    with pytest.raises(GraphError, match=r"dvc\.lock: Is a directory\."):
        read_lock(world)


def test_a_project_without_its_git_repository_says_what_to_do(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", scm=True)
    shutil.rmtree(world / ".git")
    with pytest.raises(
        GraphError, match=r"is not a git repository\. .*git init.*dvc config core\.no_scm true"
    ):
        read_graph(world)
    dvc(world, "config", "core.no_scm", "true")
    assert set(read_graph(world).items) == ALL
    dvc(world, "config", "--unset", "core.no_scm")
    git(world, "init", "--quiet")
    assert set(read_graph(world).items) == ALL
