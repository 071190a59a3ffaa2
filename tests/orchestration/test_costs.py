"""Nothing is spent by accident: what runs is told before, within a budget, and code whose change
alters nothing is accepted without a run.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import (
    AssetKey,
    DagsterInstance,
    Definitions,
    RunRequest,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)
from dvc_world import (
    GRAPH,
    PARAMS,
    Run,
    git,
    make_world,
    materialize,
    out_of_date_in_dagster,
)

from core.environment import BUDGET
from orchestration import accept, approve, costs, preview
from orchestration.costs import Hours
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import Locked, read_graph, read_status
from orchestration.locks import repository_held
from orchestration.run_request import RUN_KEY
from orchestration.running import Outcome
from orchestration.status import read_state

pytestmark = pytest.mark.slow

ON_GPU = "      cmd: python stage.py mixed"
PLAN = """import json, pathlib, sys
assert sys.argv[1:] == ["--json"]
with pathlib.Path("asked").open("a") as file: file.write("x")
print("a library's greeting")
print(pathlib.Path("prices.json").read_text())
"""
"""Stands for training/plan.py: it says what prices.json says."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project in git, its recipes in the pool gpu, all of it made."""
    root = make_world(tmp_path_factory.mktemp("spending") / "world", scm=True)
    (root / "dvc.yaml").write_text(GRAPH.replace(ON_GPU, f"      meta: {{pool: gpu}}\n{ON_GPU}"))
    repro(root)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "made")
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "world", symlinks=True)
    return tmp_path / "world"


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Dagster without a run; on disk, as a schedule needs it."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


def repro(root: Path, *arguments: str) -> str:
    """`python -m orchestration.repro`, which must succeed; what it says."""
    return command(root, "repro", *arguments)


def command(root: Path, name: str, *arguments: str, code: int = 0) -> str:
    """A command of this package in the project: what it says."""
    done = subprocess.run(
        [sys.executable, "-m", f"orchestration.{name}", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def tick(
    world: Path, instance: DagsterInstance, definitions: Definitions | None = None
) -> SensorResult:
    """One look of the sensor."""
    definitions = definitions or build_definitions(world)
    result = definitions.resolve_sensor_def("changes")(
        build_sensor_context(instance=instance, definitions=definitions)
    )
    assert isinstance(result, SensorResult)
    return result


def asked(result: SensorResult | RunRequest | SkipReason) -> set[str]:
    """The assets of the run that is asked for; none if none is."""
    requests = result.run_requests or [] if isinstance(result, SensorResult) else [result]
    return {
        key.to_user_string()
        for request in requests
        if isinstance(request, RunRequest)
        for key in request.asset_selection or []
    }


def message(result: SensorResult) -> str:
    """Why nothing is asked for."""
    assert result.skip_reason is not None
    return result.skip_reason.skip_message or ""


def carry_out(world: Path, instance: DagsterInstance, result: SensorResult) -> Run:
    """The run that is asked for."""
    (request,) = result.run_requests or []
    job = build_definitions(world).resolve_job_def(WHOLE_GRAPH)
    run_id, events = run_here(job, instance, request.asset_selection)
    assert request.run_key
    instance.add_run_tags(run_id, {**request.tags, RUN_KEY: request.run_key})  # as Dagster does
    return Run(run_id=run_id, events=list(events))


def edit(world: Path, name: str = "c4", text: str = "another document\n") -> None:
    """A source's text."""
    (world / "sources" / name / "documents").write_text(text)


def set_cut(world: Path, cut: int) -> None:
    """Of the recipe `short`."""
    params = json.loads(json.dumps(PARAMS))
    params["mixed"]["recipes"]["short"]["cut"] = cut
    (world / "params.yaml").write_text(yaml.safe_dump(params))


def comment(world: Path) -> None:
    """In the code of every item."""
    with (world / "stage.py").open("a") as file:
        file.write("# a comment\n")


def priced(world: Path, **hours: float) -> None:
    """A plan for some recipes."""
    (world / "training").mkdir(exist_ok=True)
    (world / "training/__init__.py").touch()
    (world / "training/plan.py").write_text(PLAN)
    said = {f"mixed@{name}": {"gpu_hours": price, "devices": 8} for name, price in hours.items()}
    (world / "prices.json").write_text(json.dumps(said))


def forget(world: Path, *addresses: str) -> None:
    """As if they had never run here."""
    for address in addresses:
        (world / costs.SECONDS / f"{address}.json").unlink()


# What it costs


def test_every_item_that_ran_has_the_seconds_of_that_run(world: Path) -> None:
    for address in read_graph(world).items:
        seconds = costs.last_seconds(world, address)
        assert seconds is not None and 0 < seconds < 60
    before = {path: path.read_text() for path in (world / costs.SECONDS).iterdir()}
    edit(world)
    repro(world, "raw@c4")
    after = {path: path.read_text() for path in (world / costs.SECONDS).iterdir()}
    assert [path.stem for path in before if before[path] != after[path]] == ["raw@c4"]


def test_a_cost_is_the_larger_of_last_run_and_plan(
    tmp_path: Path,
) -> None:
    prices = {"a": costs.Price(gpu_hours=2.0, devices=4)}
    assert costs.cost_of(tmp_path, "a", "", {}).hours == Hours()
    assert costs.cost_of(tmp_path, "a", "gpu", {}).hours == Hours(gpu=math.inf)
    assert costs.cost_of(tmp_path, "a", "gpu", prices).hours == Hours(gpu=2.0)
    costs.note_seconds(tmp_path, "a", 3600)
    assert costs.cost_of(tmp_path, "a", "", {}).hours == Hours(cpu=1.0)
    assert costs.cost_of(tmp_path, "a", "gpu", {}).hours == Hours(gpu=1.0)
    assert costs.cost_of(tmp_path, "a", "gpu", prices).hours == Hours(gpu=4.0)


def test_the_plan_is_asked_once_until_its_inputs_change(world: Path) -> None:
    priced(world, short=0.5)
    for _ in range(2):
        assert preview.read_prices(read_graph(world))["mixed@short"].gpu_hours == 0.5
    edit(world)
    preview.read_prices(read_graph(world))
    assert (world / "asked").read_text() == "x"
    set_cut(world, 7)
    assert not preview.read_prices(read_graph(world), ask=False)
    assert preview.read_prices(read_graph(world)) and (world / "asked").read_text() == "xx"


@pytest.mark.parametrize("said", ["no JSON", "[]", '{"mixed@short": 1}', '{"mixed@short": {}}'])
def test_a_plan_that_can_not_be_read_prices_nothing(world: Path, said: str) -> None:
    priced(world)
    (world / "prices.json").write_text(said)
    assert preview.read_prices(read_graph(world)) == {}


def test_a_plan_that_failed_is_tried_again_but_not_at_each_tick(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    priced(world)
    (world / "prices.json").write_text("no JSON")
    for _ in range(2):
        assert costs.read_prices(world, []) == {}
    assert (world / "asked").read_text() == "x"
    assert "make plan gave no prices" in capsys.readouterr().err
    (world / "prices.json").write_text('{"mixed@short": {"gpu_hours": 0.5, "devices": 1}}')
    assert costs.read_prices(world, []) == {}
    assert costs.read_prices(world, [], pause=0)["mixed@short"].gpu_hours == 0.5
    assert (world / "asked").read_text() == "xx"


def test_an_asset_shows_what_it_will_cost(world: Path, instance: DagsterInstance) -> None:
    priced(world, short=0.5)
    edit(world)
    materialize(world, instance, "raw/c4", "mixed/short")
    shown = {
        key: instance.get_latest_materialization_event(AssetKey(key.split("/")))
        for key in ("raw/c4", "mixed/short")
    }
    words = {
        key: str(event.asset_materialization.metadata["predicted cost"].value)
        for key, event in shown.items()
        if event and event.asset_materialization
    }
    assert words["raw/c4"].endswith("s of CPU (last run)")
    assert words["mixed/short"] == "0.5 GPU-hours (make plan)"
    spec = build_definitions(world).resolve_asset_graph().get(AssetKey(["mixed", "short"]))
    assert spec.metadata["predicted cost"] == "0.5 GPU-hours (make plan)"


# What would run


def test_the_preview_says_what_runs_and_why_in_100_columns(world: Path) -> None:
    edit(world, "book")
    set_cut(world, 7)
    shutil.rmtree(world / "data/report")
    text = command(world, "preview")
    lines = text.splitlines()
    assert all(len(line) <= preview.COLUMNS for line in lines)
    of = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert "source sources/book changed" in of["raw@book"] and "s of CPU" in of["raw@book"]
    assert "parameter mixed.recipes.short.cut 1 -> 7" in of["mixed@short"]
    assert "its output data/report/all is gone" in of["report"]
    assert "then: mixed@both" in lines
    assert read_status(world).keys() == {"raw@book", "mixed@short", "report"}, "nothing ran"


def test_the_preview_tells_what_the_cache_brings_back(world: Path) -> None:
    text = (world / "sources/c4/documents").read_text()
    edit(world)
    assert not preview.outlook(read_state(world)).restored
    repro(world)
    edit(world, text=text)
    view = preview.outlook(read_state(world))
    assert view.restored == {"raw@c4"} and view.hours(["raw@c4"]) == Hours()
    assert set(view.follows) == {"mixed@short", "mixed@both", "report"}
    assert "raw@c4' is cached" in repro(world)
    shutil.rmtree(world / "data/mixed/short")
    assert preview.outlook(read_state(world)).restored == {"mixed@short"}


def test_waiting_items_ask_the_cache_once_for_each_state(world: Path) -> None:
    edit(world)
    for _ in range(2):
        state = read_state(world)
    assert state is read_state(world)
    view = preview.outlook(state)
    with repository_held(world):  # whoever asks DVC now waits, or fails
        assert preview.outlook(read_state(world)) == view


def test_a_reason_is_told_in_plain_words_whatever_its_kind(world: Path) -> None:
    graph = read_graph(world)
    item = graph.items["mixed@short"]
    old = {"params.yaml": {"mixed.recipes.short": {"cut": 1, "domain": "book", "gone": 1}}}
    locked = Locked(command="", dependencies={}, params=old, outputs={}, sizes={})
    for reason, words in (
        ("changed deps: stage.py modified", "code stage.py changed"),
        ("changed deps: sources/c4 modified", "source sources/c4 changed"),
        ("changed deps: data/raw/c4 deleted", "input data/raw/c4 is gone"),
        ("changed outs: data/mixed/short modified", "its output data/mixed/short changed"),
        (
            "changed outs: data/mixed/short not in cache",
            "its output data/mixed/short is not in cache",
        ),
        ("changed deps: params.yaml: a.b new", "parameter a.b is new"),
        ("changed command", "its command changed"),
        ("always changed", "always changed"),
        (
            "changed deps: params.yaml: mixed.recipes.short modified",
            "parameter mixed.recipes.short changed in 2 values",
        ),
    ):
        assert preview.plain(item, [reason], locked, graph) == [words], reason
    assert preview.plain(item, ["anything"], None, graph) == ["never made"]


# What may be spent


def test_a_tick_and_its_run_show_the_preview(world: Path, instance: DagsterInstance) -> None:
    edit(world)
    result = tick(world, instance)
    assert asked(result) == {"raw/c4", "mixed/short", "mixed/both", "report"}
    assert "source sources/c4 changed" in (result.cursor or "")
    (request,) = result.run_requests or []
    assert request.tags["needlework/why"].startswith("raw@c4: source sources/c4 changed; 4 items")
    assert len(request.tags["needlework/why"]) <= preview.TAG_LETTERS


def test_what_is_beyond_the_budget_waits_and_the_rest_runs(
    world: Path, instance: DagsterInstance
) -> None:
    priced(world, short=0.6, both=0.6)
    edit(world)
    first = tick(world, instance)
    assert asked(first) == {"raw/c4", "mixed/both"}, "the second recipe is beyond one GPU-hour"
    assert "mixed@short (0.6 GPU-hours (make plan))" in (first.cursor or "")
    assert carry_out(world, instance, first).success

    second = tick(world, instance)
    assert not asked(second), "a tick after the other would spend all"
    assert "mixed@short" in message(second) and approve.COMMAND in message(second)
    schedule = build_definitions(world).resolve_schedule_def("nightly")
    night = schedule(build_schedule_context(instance=instance))
    assert isinstance(night, SkipReason) and "mixed@short" in (night.skip_message or "")

    said = command(world, "approve")
    assert "approved: mixed@short report" in said
    third = tick(world, instance)
    assert asked(third) == {"mixed/short", "report"}
    assert carry_out(world, instance, third).success and not read_status(world)
    tick(world, instance)
    assert json.loads((world / approve.APPROVED).read_text()) == {}, "an approval is used once"


def test_an_unknown_gpu_cost_waits_and_runs_by_hand(world: Path, instance: DagsterInstance) -> None:
    forget(world, "mixed@both", "raw@c4")
    edit(world)
    result = tick(world, instance)
    assert asked(result) == {"raw/c4", "mixed/short"}
    assert "mixed@both (unknown" in (result.cursor or "")
    seen, run = materialize(world, instance)
    assert run.success and seen["mixed@both"] is Outcome.RAN


def test_an_approval_is_void_when_what_it_is_made_from_changes(
    world: Path, instance: DagsterInstance
) -> None:
    priced(world, both=5.0)
    edit(world)
    graph = read_graph(world)
    approve.approve(graph, ["mixed@both"])
    assert approve.read_approved(graph) == {"mixed@both"}
    edit(world, text="yet another document\n")
    assert approve.read_approved(read_graph(world)) == set()
    assert "mixed/both" not in asked(tick(world, instance))


def test_approving_an_item_approves_only_it_and_its_inputs(world: Path) -> None:
    graph, waits = read_graph(world), ["mixed@short", "mixed@both", "report"]
    assert approve.with_upstream(graph, ["mixed/both"], waits) == ["mixed@both"]
    assert approve.with_upstream(graph, ["report"], waits) == waits
    with pytest.raises(ValueError, match="is not due"):
        approve.with_upstream(graph, ["raw@c4"], waits)


@pytest.mark.parametrize(
    "text, hours",
    [
        ("", Hours(gpu=1, cpu=4)),
        ("gpu=8", Hours(gpu=8, cpu=4)),
        (" cpu = 0.5 , gpu=0", Hours(gpu=0, cpu=0.5)),
        ("gpu=inf", Hours(gpu=math.inf, cpu=4)),
    ],
)
def test_a_budget_is_hours_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str, hours: Hours
) -> None:
    monkeypatch.setenv(BUDGET.name, text)
    assert costs.budget() == hours
    assert hours - Hours(gpu=hours.gpu, cpu=1) == Hours(
        gpu=math.inf if math.isinf(hours.gpu) else 0, cpu=max(hours.cpu - 1, 0)
    )


@pytest.mark.parametrize("text", ["gpu", "gpu=-1", "gpu=nan", "tpu=1", "gpu=1;cpu=2"])
def test_a_budget_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(BUDGET.name, text)
    with pytest.raises(ValueError, match=f"{BUDGET.name} is .*as in gpu=1,cpu=4"):
        costs.budget()


# What stands although its code changed


def test_accepted_code_runs_nothing_and_moves_only_its_hash(
    world: Path, instance: DagsterInstance
) -> None:
    materialize(world, instance)
    before = yaml.safe_load((world / "dvc.lock").read_text())["stages"]
    made = {path: path.stat().st_mtime_ns for path in (world / "data").rglob("*")}
    comment(world)
    assert len(read_status(world)) == 5
    said = command(world, "accept", "raw", "mixed@both")
    assert "raw@c4: stage.py" in said and "accepted.jsonl" in said
    assert read_status(world).keys() == {"mixed@short", "report"}

    after = yaml.safe_load((world / "dvc.lock").read_text())["stages"]
    assert list(after) == list(before)
    for address in ("raw@book", "raw@c4", "mixed@both"):
        for entry in (before[address], after[address]):
            (code,) = [dep for dep in entry["deps"] if dep["path"] == "stage.py"]
            del code["md5"], code["size"]
    assert after == before
    assert made == {path: path.stat().st_mtime_ns for path in (world / "data").rglob("*")}

    definitions = build_definitions(world)
    definitions.resolve_sensor_def("outside")(
        build_sensor_context(instance=instance, definitions=definitions)
    )
    assert out_of_date_in_dagster(world, instance) == {"mixed@short", "report"}
    command(world, "accept", "mixed/short", "report")
    assert not read_status(world) and not asked(tick(world, instance))
    assert "Up to date" in command(world, "accept", "raw")

    written = [json.loads(line) for line in (world / accept.RECORD).read_text().splitlines()]
    revision = git(world, "rev-parse", "HEAD")
    assert [entry["item"] for entry in written] == [
        "raw@book", "raw@c4", "mixed@both", "mixed@short", "report",
    ]  # fmt: skip
    assert all(entry["revision"].startswith(revision) and entry["user"] for entry in written)
    assert "stage.py" in written[0]["revision"], "the code was not committed when it was accepted"
    assert written[0]["files"]["stage.py"]["is"] == written[4]["files"]["stage.py"]["is"]
    assert f"?? {accept.RECORD}" in git(world, "status", "--porcelain")


def test_what_was_accepted_comes_back_from_the_cache(
    world: Path,
) -> None:
    comment(world)
    command(world, "accept", "raw@c4")
    text = (world / "sources/c4/documents").read_text()
    edit(world)
    repro(world, "raw@c4")
    edit(world, text=text)
    assert "raw@c4' is cached" in repro(world, "raw@c4")


@pytest.mark.parametrize("stuck", [accept.RECORD, ".dvc.lock.order.partial"])
def test_an_acceptance_comes_with_its_record_or_not_at_all(world: Path, stuck: str) -> None:
    """A folder is in the place of a file that is to be written."""
    comment(world)
    (world / stuck).mkdir()
    before = (world / "dvc.lock").read_bytes()
    assert stuck in command(world, "accept", "raw@c4", code=1)
    assert (world / "dvc.lock").read_bytes() == before
    assert not (world / accept.RECORD).is_file()


@pytest.mark.parametrize(
    "change, item, why",
    [
        (lambda world: edit(world), "raw@c4", "sources/c4"),
        (lambda world: set_cut(world, 7), "mixed@short", "mixed.recipes.short"),
        (lambda world: shutil.rmtree(world / "data/report"), "report", "data/report/all"),
        (lambda world: (world / "stage.py").unlink(), "raw@c4", "stage.py deleted"),
        (lambda world: (world / "dvc.lock").unlink(), "raw@c4", "never made"),
        (lambda world: None, "raw@wiki", "no such item"),
    ],
    ids=["source", "parameter", "lost output", "deleted code", "never made", "unknown"],
)
def test_accept_refuses_more_than_a_change_of_code(
    world: Path, change: object, item: str, why: str
) -> None:
    comment(world)
    assert callable(change)
    change(world)
    before = (world / "dvc.lock").read_bytes() if (world / "dvc.lock").exists() else b""
    said = command(world, "accept", "raw@book", item, code=1)
    assert why in said and len(said.strip().splitlines()) == 1
    after = (world / "dvc.lock").read_bytes() if (world / "dvc.lock").exists() else b""
    assert after == before and not (world / accept.RECORD).exists()
