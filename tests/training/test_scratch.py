"""A training's scratch folder is found by parameters, base and rows; other code is reported."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import starts
import yaml
from starts import Started
from worlds import LENGTH

from assets.origin import done_by_others, note
from core.errors import UserError
from core.sealed import write_json
from training.checkpoint import run
from training.curves import write_log
from training.scratch import clear_others, model_params, scratch_folder
from training.snapshots import StepLog, snapshots, step_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Project = Callable[..., Path]


def folder() -> Path:
    """Where the model of params.yaml keeps its state."""
    return scratch_folder("model", *model_params("model"))


def edit(key: str, value: Any) -> None:
    """Set a key of `checkpoint` in params.yaml, dots go deeper."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    *path, last = key.split(".")
    node = params["checkpoint"]
    for part in path:
        node = node[part]
    node[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def edit_record(stage: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = Path("data") / stage / "record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("tokens", 5 * 4 * LENGTH),
        ("context", 2 * LENGTH),
        ("document_mask", True),
        ("precision", "bf16"),
        ("saved_as", "bfloat16"),
        ("optimizer.learning_rate", 1e-3),
        ("optimizer.micro_batch_tokens", 4 * LENGTH),
        ("optimizer.clip_norm", 2.0),
        ("models.model.rope", {"base": 60000}),
    ],
)
def test_each_setting_that_decides_bytes_is_in_the_name(
    project: Project, key: str, value: Any
) -> None:
    project()
    before = folder()
    edit(key, value)
    assert folder() != before


@pytest.mark.parametrize("stage", ["base_checkpoint", "packed_shards/rows"])
def test_base_and_rows_are_in_the_name_by_their_files_only(project: Project, stage: str) -> None:
    project()
    edit_record(stage, lambda record: record.update(files={"a": {"sha256": "1"}}))
    before = folder()
    edit_record(stage, lambda record: record.update(a_new_fact=1))
    assert folder() == before
    edit_record(stage, lambda record: record["files"].update(a={"sha256": "2"}))
    assert folder() != before


def test_which_snapshots_are_kept_on_the_way_is_not_in_the_name(project: Project) -> None:
    project()
    before = folder()
    edit("models.model.snapshots", [4 * LENGTH])
    assert folder() == before


def start(code: Path) -> Started:
    """The stage by the code in that folder, with a snapshot after every step."""
    settings = {"PYTHONPATH": str(code), "NEEDLEWORK_SNAPSHOT_SECONDS": "0"}
    return starts.start("training.checkpoint", "model", env={**os.environ, **settings})


def test_a_training_resumes_under_other_code_and_reports_it(
    project: Project, tmp_path: Path
) -> None:
    undisturbed = project(tokens=60 * 4 * LENGTH)
    run("model")
    wanted = json.loads((undisturbed / "data/checkpoint/model/record.json").read_text())
    assert "steps_by_other_code" not in json.loads(
        (undisturbed / "metrics/checkpoint/model.json").read_text()
    )
    code = tmp_path / "code"
    for package in ("core", "assets", "training"):
        shutil.copytree(
            ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    root = project(tokens=60 * 4 * LENGTH)
    kept = folder()
    struck = start(code)
    struck.wait_for(lambda: max(map(step_of, snapshots(kept)), default=0) >= 3)
    assert struck.poll() is None, struck.communicate()[1]
    struck.kill()
    struck.communicate()
    for module in ("plan", "trainer"):  # one that no training imports, and one that does
        (code / f"training/{module}.py").write_text(
            (code / f"training/{module}.py").read_text() + "# reworded\n"
        )
    finished = start(code)
    said = finished.communicate()[1]
    assert finished.returncode == 0, said
    assert "resuming after step" in said
    (line,) = [line for line in said.splitlines() if "steps so far were taken by" in line]
    assert "by other code (training.trainer). The training continues from them" in line
    assert f"to start from step 0 instead, remove {kept}" in said
    assert json.loads((root / "data/checkpoint/model/record.json").read_text()) == wanted
    metrics = json.loads((root / "metrics/checkpoint/model.json").read_text())
    assert 3 <= metrics["steps_by_other_code"] < 60


def test_a_new_training_reports_an_earlier_one_and_what_changed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    project(optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(UserError):
        run("model")
    first = folder()
    edit("optimizer.learning_rate", 1e-2)
    edit("seed", 3)
    run("model")
    said = capsys.readouterr().err
    assert f"{first} holds a training up to step " in said
    assert (
        "of other parameters or data (checkpoint.optimizer, checkpoint.seed). This one starts from "
        "step 0" in said
    )


def test_a_folder_with_an_older_name_resumes_after_a_move(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    project(optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(UserError):
        run("model")
    old = folder().with_name("0123456789abcdef")
    folder().rename(old)
    for name in ("decides.json", "origin.json"):
        (old / name).unlink()
    with pytest.raises(UserError):
        run("model")
    assert f"{old} holds a training up to step" in (said := capsys.readouterr().err)
    assert "of an older Needlework, whose name depends on code too" in said
    shutil.rmtree(folder())
    old.rename(folder())
    with pytest.raises(UserError):
        run("model")
    assert "resuming after step" in capsys.readouterr().err


def test_of_earlier_trainings_the_one_that_got_furthest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, step in (("long", 900), ("short", 20), ("empty", 0)):
        (tmp_path / name).mkdir()
        if step:
            (tmp_path / name / f"step-{step:08d}").mkdir()
    clear_others(tmp_path / "now", {})
    assert [path.name for path in tmp_path.iterdir()] == ["long"]
    said = capsys.readouterr().err
    assert f"{tmp_path}/short, a training up to step 20 with earlier parameters, is removed" in said
    assert f"{tmp_path}/long holds a training up to step 900" in said


def test_origins_are_recorded_once_and_after_each_change(tmp_path: Path) -> None:
    path = tmp_path / "origin.json"

    def changed(key: str, **parts: str) -> None:
        noted = json.loads(path.read_text())
        noted[-1][key] |= parts
        write_json(path, noted)

    assert note(path, "checkpoint", 0) == "" and done_by_others(path) == 0
    assert note(path, "checkpoint", 5) == "" and len(json.loads(path.read_text())) == 1
    changed("packages", torch="1.0")
    changed("code", **{"assets.tokenizer": "0", "training.no_longer_there": "0"})
    said = note(path, "checkpoint", 7)
    assert (
        said.startswith("other code (assets.tokenizer), torch 1.0 (now ")
        and done_by_others(path) == 7
    )
    assert note(path, "checkpoint", 9) == "" and done_by_others(path) == 7
    assert note(path, "checkpoint", 7) == said, (
        "back before the change, the steps are those of the first again"
    )
    assert note(path, "checkpoint", 0) == "" and done_by_others(path) == 0, "from step 0 again"


def test_the_training_curve_needs_the_standard_library_only(
    tmp_path: Path,
) -> None:
    write_log(
        tmp_path, [StepLog(step=1, tokens=8, loss=2.5, learning_rate=1e-3, gradient_norm=0.5)]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert (tmp_path / "log.csv").read_text() == (
        "step,tokens,loss,learning_rate,gradient_norm\n1,8,2.50000,0.001,0.5\n"
    )
    assert "dvclive" not in sys.modules, "nor does any other module of the tests need it"
