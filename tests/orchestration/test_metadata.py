"""What an asset shows: what one looks for first, in units that people read."""

import json
import xml.etree.ElementTree as ET
from base64 import b64decode
from pathlib import Path

import pytest
import yaml
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    FloatMetadataValue,
    IntMetadataValue,
    RunsFilter,
)
from dvc_world import an_item, dvc, make_world, materialize, path_of

from orchestration import units
from orchestration.definitions import build_definitions
from orchestration.dvc_exp import merged
from orchestration.executor import note_location, of_a_terminal, run_here
from orchestration.experiment import example, unknown
from orchestration.graph import Graph, GraphError, Item, read_graph
from orchestration.metadata import describe, results
from orchestration.metrics import tables
from orchestration.outside import report_once
from orchestration.pictures import beside_the_logs, curve, inline, loss_over_tokens
from orchestration.status import read_state
from orchestration.step import cause, is_own_line, without_name
from orchestration.translation import asset_spec, group_name, kinds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIXEL = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def item(command: str, **changes: object) -> Item:
    """An item that runs this command."""
    metrics = "metrics/thing/one.json"
    fields: dict[str, object] = {
        "command": command,
        "description": "Says what it is",
        "outputs": ("data/thing/one", metrics),
        "metrics": (metrics,),
    }
    return an_item("thing@one", **(fields | changes))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.size(0), "0 bytes"),
        (units.size(999), "999 bytes"),
        (units.size(1_000), "1.00 kB"),
        (units.size(12_345_678), "12.3 MB"),
        (units.size(999_950), "1.00 MB"),
        (units.size(123_456_789_012), "123 GB"),
        (units.duration(3.21), "3.2 s"),
        (units.duration(59.99), "1 min 0 s"),
        (units.duration(200), "3 min 20 s"),
        (units.duration(7_530), "2 h 6 min"),
        (units.duration(864_000 + 4 * 3600), "10 d 4 h"),
        (units.duration(86_399), "1 d 0 h"),
        (units.number(655_360), "655,360"),
        (units.number(6.362033633735236), "6.362"),
        (units.number(1234567.8), "1,235,000"),
        (units.number(0.000012345), "1.234e-05"),
        (units.number(50_000.0), "50,000"),
    ],
)
def test_a_number_is_shown_as_people_read_it(shown: str, expected: str) -> None:
    assert shown == expected


def test_only_compared_metrics_are_numbers_and_stand_first() -> None:
    found = {
        "base_context": 4096,
        "file_bytes": 12_345_678,
        "wait_seconds": 200.0,
        "chat": False,
        "warning": "cut",
        "nothing": None,
        "loss_at 64": 3.1415926,
        "loss": 2.5,
        "tokens": 655_360,
        "undefined": float("nan"),
    }
    shown = results(item("x", plotted=("loss*", "tokens", "undefined")), found)
    assert list(shown)[:3] == ["loss_at 64", "loss", "tokens"]
    assert shown["loss_at 64"] == FloatMetadataValue(3.142)
    assert shown["tokens"] == IntMetadataValue(655_360)
    assert {name: value.value for name, value in list(shown.items())[3:]} == {
        "base_context": "4,096",
        "file_bytes": "12.3 MB",
        "wait_seconds": "3 min 20 s",
        "chat": "no",
        "warning": "cut",
        "undefined": "nan",
    }


def test_pictures_and_results_stand_before_what_it_was_made_from(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    item = read_graph(world).items["report"]
    own = Item(**{name: getattr(item, name) for name in Item.__slots__} | {"metrics": ("m.json",)})
    folder = world / "data/report/all"
    folder.mkdir(parents=True)
    (world / "m.json").write_text(json.dumps({"loss": 2.0, "made_with": "numpy 2"}))
    (folder / "plot.png").write_bytes(PIXEL)
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    graph = Graph(root=world, items={"report": own})
    shown = list(describe(graph, "report", {}, outcome="ran", seconds=200.0, revision="abc"))
    assert shown == [
        *("plot.png", "loss", "rows.csv", "outcome", "took", "seconds", "path"),
        *("made with", "git revision"),
    ]


def test_a_picture_is_short_in_the_text(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        text = beside_the_logs(instance, "run-1")("heatmap", PIXEL * 100, "png")
        assert len(text) < 1000 < len(inline("heatmap", PIXEL * 100, "png"))
        *key, ending = text.removeprefix("![heatmap](/logs/").removesuffix(")").split("/")
        place = instance.compute_log_manager.get_captured_local_path(key, ending)  # type: ignore[attr-defined]
        assert Path(place).read_bytes() == PIXEL * 100, "where the webserver looks for it"
        instance.compute_log_manager.delete_logs(prefix=["run-1"])
        assert not Path(place).exists(), "it goes with its run"


def test_a_training_log_becomes_a_curve_of_the_loss_over_tokens(tmp_path: Path) -> None:
    rows = "".join(f"{step},{step * 16},{5 - step / 1000}\n" for step in range(3_000))
    (tmp_path / "log.csv").write_text(f"step,tokens,loss\n{rows}")
    drawn = loss_over_tokens(tmp_path / "log.csv")
    assert drawn is not None and len(drawn) < 20_000, "whatever the number of steps"
    line = next(part for part in ET.fromstring(drawn) if part.tag.endswith("polyline"))
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert points == sorted(points), "a falling loss goes right and down"
    assert "47,984" in drawn.decode(), "the last tokens stand at the axis"


def test_a_row_without_two_numbers_is_left_out_of_the_curve(tmp_path: Path) -> None:
    good = "tokens,loss\n16,5\n32,4\n"
    (tmp_path / "log.csv").write_text(good)
    drawn = loss_over_tokens(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text(f"{good}48,nan\n64,inf\n80,x\n96")
    assert loss_over_tokens(tmp_path / "log.csv") == drawn


def test_where_there_is_no_curve_none_is_drawn(tmp_path: Path) -> None:
    assert loss_over_tokens(tmp_path / "log.csv") is None
    for text in (
        "",
        "tokens,loss\n",
        "tokens,loss\n1,2\n",
        "a,b\n1,2\n3,4\n",
        "tokens,loss\n1,x\n",
    ):
        (tmp_path / "log.csv").write_text(text)
        assert loss_over_tokens(tmp_path / "log.csv") is None
    assert b"nan" not in curve([(1, 2), (2, 2)], "tokens", "loss"), "a flat line is a line"


@pytest.mark.parametrize(
    ("command", "own_group", "group", "labels"),
    [
        ("python -m assets.raw_corpus book", "", "data", {"dvc", "python", "arrow"}),
        ("python -m assets.tokenizer", "", "data", {"dvc", "python"}),
        ("python -m training.checkpoint base", "", "training", {"dvc", "python", "pytorch"}),
        ("python3.12 -u -m evaluation.needle_report x", "", "evaluation", {"dvc", "pytorch"}),
        ("python -m evaluation.comparison", "report", "report", {"dvc", "python"}),
        ("python stage.py training evaluation", "", "thing", {"dvc", "python"}),
        ("cat training/evaluation.txt", "", "thing", {"dvc"}),
    ],
)
def test_group_and_labels_come_from_the_commands_module(
    command: str, own_group: str, group: str, labels: set[str]
) -> None:
    made = item(command, group=own_group, inputs={"training/evaluation.jsonl": "1"})
    assert group_name(made) == group
    assert kinds(made) - {"python"} == labels - {"python"}


def test_the_graph_has_four_groups_and_a_job_for_each_stage(tmp_path: Path) -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = {}
    for stage, definition in declared.items():
        body = definition.get("do", definition)
        group = body["meta"].get("group", "")
        found[stage] = group_name(item(body["cmd"], stage=stage, group=group))
    assert set(found.values()) == {"data", "training", "evaluation", "report"}
    assert {stage for stage, group in found.items() if group == "report"} == {
        "data_report",
        "comparison",
    }
    world = make_world(tmp_path / "world")
    defs = build_definitions(world)
    for stage in ("raw", "mixed", "report"):
        made = defs.resolve_job_def(stage).asset_layer.executable_asset_keys
        assert {key.path[0] for key in made} == {stage}


def test_every_plotted_metric_is_named_by_its_stage() -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    bodies = [definition.get("do", definition) for definition in declared.values()]
    assert all(len(body["meta"]["plotted"]) <= 4 for body in bodies)


def test_an_owner_is_shown_and_an_unknown_one_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    text = (world / "dvc.yaml").read_text()
    for owner, known in (("team:data", True), ("ann@example.com", True), ("Ann", False)):
        meta = f"      meta: {{owners: [{owner}]}}\n      desc: Documents"
        (world / "dvc.yaml").write_text(text.replace("      desc: Documents", meta))
        graph = read_graph(world)
        one = next(one for one in graph.items.values() if path_of(one) == "raw/book")
        if known:
            assert list(asset_spec(graph, one).owners) == [owner]
        else:
            with pytest.raises(GraphError, match="meta.owners: 'Ann' is no owner"):
                asset_spec(graph, one)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Loading weights:  45%|████▌     | 9/20 [00:01<00:01,  8.71it/s]",
        "Fetching 3 files: 100%|##########| 3/3 [00:00<00:00, 21.0it/s]",
        "1234it [00:10, 123.4it/s]",
        "Downloading ━━━━━━━━ 12.3/45.6 MB",
        "Running stage 'checkpoint@base':",
        "Stage 'checkpoint@base' is cached - skipping run, checking out outputs",
        "> python -m training.checkpoint base",
        "Updating lock file 'dvc.lock'",
        "  git add dvc.lock",
    ],
)
def test_no_bar_and_none_of_dvcs_own_words_is_in_a_runs_log(line: str) -> None:
    assert not is_own_line(line)


@pytest.mark.parametrize(
    "line",
    ["loss 3.2", "45% of the answers | are cut", "2/3 domains [book]", "Traceback (most recent"],
)
def test_what_an_item_says_is_in_the_log(line: str) -> None:
    assert is_own_line(line)


def test_no_line_repeats_the_names_that_its_step_bears() -> None:
    made = item("x", address="checkpoint@base", stage="checkpoint", name="base")
    for said, told in {
        "checkpoint@base: base: rows": "rows",
        "checkpoint: base: rows": "rows",
        "checkpoint base: warning: cut": "warning: cut",
        "base: rows": "rows",
        "basement: rows": "basement: rows",
        "rows of base: 3": "rows of base: 3",
        "base: ": "base: ",
    }.items():
        assert without_name(made, said) == told


def test_a_failure_starts_with_its_cause() -> None:
    tail = ["reading", "checkpoint: loss is nan", "ERROR: failed to reproduce 'checkpoint@base'"]
    text = cause("checkpoint@base", tail, Exception("exit code 1"))
    assert text.startswith("checkpoint: loss is nan\n")
    assert cause("x", [], Exception("exit code 1")).startswith("exit code 1")


def test_a_run_of_the_terminal_belongs_to_the_uis_location(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    job = build_definitions(world).resolve_job_def("raw")
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        run_id, events = run_here(job, instance, root=world)
        assert list(events)[-1].event_type is DagsterEventType.RUN_SUCCESS
        plain, _ = run_here(job, instance)
        note_location(instance, plain)
        label = {".dagster/repository": "__repository__@needlework"}  # what the home page asks for
        found = [run.run_id for run in instance.get_runs(RunsFilter(tags=label))]
        assert set(found) == {run_id, plain}
        run = instance.get_run_by_id(run_id)
        assert run is not None and run.job_code_origin is not None and of_a_terminal(run)
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == "needlework", "where it can be run again"
        pointer = run.job_code_origin.repository_origin.code_pointer
        assert getattr(pointer, "working_directory", "") == str(world)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("a.deep", 0.8, "  deep: 0.8   # a comment that stays"),
        ("a.flow.cut", [1, None], "  flow: {cut: [1, null], name: global, none: null}"),
        ("a.flow.none", "no", "  flow: {cut: 2048, name: global, none: 'no'}"),
        ("b", {"x": 1}, "b: {x: 1}"),
        ("c", True, "c: true"),
    ],
)
def test_an_experiment_changes_one_line_of_params_yaml(key: str, value: object, line: str) -> None:
    before = (
        "# A comment.\na:\n  deep: 0.7   # a comment that stays\n"
        "  flow: {cut: 2048, name: global, none: null}\n\nb: x\nc: null\n" + f"d: {'long ' * 40}\n"
    )
    new = yaml.safe_load(before)
    *path, last = key.split(".")
    inner = new
    for part in path:
        inner = inner[part]
    inner[last] = value
    text = merged(before, yaml.safe_dump(new))
    assert yaml.safe_load(text) == new
    lines = zip(before.splitlines(), text.splitlines(), strict=True)
    assert [now for old, now in lines if old != now] == [line]


def test_a_key_that_is_new_or_gone_still_means_what_dvc_wrote() -> None:
    for after in ("a: 1\nb: 2\n", "b: 2\n", "- 1\n"):
        assert yaml.safe_load(merged("a: 1\n", after)) == yaml.safe_load(after)


def test_the_launchpad_of_experiment_opens_with_what_works(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    filled = example(world)
    assert filled.overrides == {"mixed.recipes.both.cut": 2}, "as it is in params.yaml"
    params = yaml.safe_load((world / "params.yaml").read_text())
    assert not any(unknown(params, key) for key in filled.overrides)
    sample = example(ROOT)
    assert sample.overrides == {"mixed_dataset.recipes.cut_at_base.cut": 256}
    job = build_definitions(world).resolve_job_def("experiment")
    assert job.run_config is not None and "first-try" in str(job.run_config)


def test_the_table_of_metrics_fits_a_screen_whatever_there_is(tmp_path: Path) -> None:
    made = {}
    for name in ("base", "x" * 120):
        fields = {"name": name, "outputs": (), "metrics": (f"{name}.json",)}
        made[name] = item("x", plotted=("m*", "loss"), **fields)
        values = {f"metric_{number}": 1234567.0 + number for number in range(30)}
        content = {**values, "m" * 130: 1, "loss": 3.14159, "left_out": 1, "missing": None}
        content["metric_long"] = 10**120
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (text,) = tables(Graph(root=tmp_path, items=made))
    assert max(map(len, text.splitlines())) <= 100
    for number in range(30):
        assert text.count(f"metric_{number} ") + text.count(f"metric_{number}\n") == 1
    assert "3.142" in text and "left_out" not in text
    assert not list(tables(Graph(root=tmp_path, items=made), ["other"]))


def test_an_out_of_date_page_names_the_file_or_parameter(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    dvc(world, "repro")

    def said(instance: DagsterInstance, asset: str) -> list[str]:
        report_once(instance, read_state(world))
        events = instance.fetch_observations(AssetKey(asset.split("/")), limit=10).records
        found = [event.asset_observation.metadata for event in events if event.asset_observation]
        return [str(metadata["out of date"].value) for metadata in found]

    with DagsterInstance.ephemeral() as instance:
        assert said(instance, "raw/book") == []
        documents = world / "sources/book/documents"
        before = documents.read_text()
        documents.write_text("another\n")
        params = world / "params.yaml"
        params.write_text(params.read_text().replace("cut: 1", "cut: 7"))
        changed = "source sources/book changed"
        assert said(instance, "raw/book") == [changed]
        (words,) = said(instance, "mixed/short")
        assert words == "parameter mixed.recipes.short.cut 1 -> 7"
        assert said(instance, "raw/book") == [changed], "said once"
        documents.write_text(before)
        assert said(instance, "raw/book") == ["no longer", changed]
        (world / "data/raw/c4/text").unlink()
        assert "output data/raw/c4" in said(instance, "raw/c4")[0]
        event = instance.get_latest_materialization_event(AssetKey(["raw", "c4"]))
        assert event is not None and event.asset_materialization is not None
        shown = event.asset_materialization.metadata
        assert "lost" in str(shown["outcome"].value)
        assert "dvc checkout raw@c4" in str(shown["what to do"].value)


def test_a_check_without_a_result_does_not_fail_its_step(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    command = """mkdir -p data && touch data/a && echo '{"mean_exact_match": 0.5}' > m.json"""
    stage = {"cmd": command, "outs": ["data/a"], "metrics": ["m.json"]}
    (world / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"needle_report": stage}}))
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        _, run = materialize(world, instance)
        assert run.success, "the first run has nothing to hold the needle against"
        assert [check.check_name for check in run.checks] == ["in_order"]
