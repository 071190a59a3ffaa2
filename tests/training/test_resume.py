"""A training that is stopped anywhere and resumed ends with the bytes of one never stopped."""

import json
import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import starts
import torch
import yaml
from safetensors.torch import load_file
from starts import Started
from transformers import AutoModelForCausalLM
from worlds import LENGTH, tiny

from core.errors import UserError
from training.checkpoint import run
from training.extension import extend
from training.parallel import alone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Project = Callable[..., Path]


def files(folder: Path) -> dict[str, str]:
    """Every file of the artefact and its hash."""
    return {
        name: facts["sha256"]
        for name, facts in json.loads((folder / "record.json").read_text())["files"].items()
    }


def start(**environment: str) -> Started:
    """The stage, as a user runs it, with a snapshot after every step."""
    settings = {"PYTHONPATH": str(ROOT), "NEEDLEWORK_SNAPSHOT_SECONDS": "0", **environment}
    return starts.start("training.checkpoint", "model", env={**os.environ, **settings})


def scratch(root: Path) -> Path:
    """The one scratch folder of the model."""
    return next((root / ".training/checkpoint/model").iterdir())


def snapshot_of(parent: Path, step: int) -> bool:
    """Whether the model whose folder that is has a snapshot of that step."""
    return any(parent.glob(f"*/step-{step:08d}"))


def test_a_killed_training_resumes_to_the_same_bytes(project: Project) -> None:
    undisturbed = project()
    run("model")
    wanted = files(undisturbed / "data/checkpoint/model")
    assert "model.safetensors" in wanted and f"at/{2 * 4 * LENGTH}/model.safetensors" in wanted
    struck, draw = project(), random.Random(0)
    parent = struck / ".training/checkpoint/model"
    for step in sorted(draw.sample(range(1, 6), 3)):
        process = start()
        process.wait_for(partial(snapshot_of, parent, step))
        process.kill()
        process.communicate()
    assert not (struck / "data/checkpoint/model").exists()
    finished = start()
    assert "resuming after step" in finished.communicate()[1] and finished.returncode == 0
    assert files(struck / "data/checkpoint/model") == wanted
    assert not (struck / ".training/checkpoint/model").exists()


def test_sigterm_leaves_a_snapshot_and_the_next_run_resumes(project: Project) -> None:
    root = project(tokens=100_000 * 4 * LENGTH)
    process = start(NEEDLEWORK_SNAPSHOT_SECONDS="3600")
    process.wait_for(lambda: list(root.glob(".training/checkpoint/model/*/at/*/record.json")))
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143 and "Traceback" not in said
    (left,) = scratch(root).glob("step-*")
    assert (
        f"stopped after step {int(left.name[-8:])}, as requested; the same command resumes from"
        in said
    )
    again = start()
    again.wait_for(left.with_name(f"step-{int(left.name[-8:]) + 1:08d}").is_dir)
    again.send_signal(signal.SIGTERM)
    assert f"resuming after step {int(left.name[-8:])}" in again.communicate()[1]


def test_a_damaged_snapshot_is_named_and_an_older_one_taken(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    root = project(optimizer={"spike_nats": None})
    run("model")
    wanted = files(root / "data/checkpoint/model")
    process = start()
    process.wait_for(lambda: list(root.glob(".training/checkpoint/model/*/step-00000004")))
    process.kill()
    process.communicate()
    newest = sorted(scratch(root).glob("step-*"))[-1]
    part = newest / "part-00000.safetensors"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run("model")
    said = capsys.readouterr().err
    assert f"{newest.relative_to(root)}: damaged" in said
    assert f"resuming after step {int(newest.name[-8:]) - 1}" in said
    assert files(root / "data/checkpoint/model") == wanted


def test_at_most_two_snapshots_are_kept(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    root = project(optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(UserError, match="the gradient's norm|jumped"):
        run("model")
    assert len(list(scratch(root).glob("step-*"))) <= 2


def test_a_nan_loss_stops_and_names_the_last_good_snapshot(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    root = project(optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(
        UserError, match=r"Lower optimizer.learning_rate .* The last good snapshot is .*step-0000"
    ):
        run("model")
    assert not (root / "data/checkpoint/model").exists()


def test_a_snapshot_by_tokens_is_the_model_of_a_shorter_training(project: Project) -> None:
    longer = project()
    run("model")
    shorter = project(tokens=2 * 4 * LENGTH)
    run("model")
    one, other = (
        load_file(path / "model.safetensors")
        for path in (
            longer / f"data/checkpoint/model/at/{2 * 4 * LENGTH}",
            shorter / "data/checkpoint/model",
        )
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_models_config_has_its_new_rope_base(
    project: Project,
) -> None:
    root = project()
    run("model")
    stock = AutoModelForCausalLM.from_pretrained(
        root / "data/checkpoint/model", dtype=torch.float32
    )
    assert (
        stock.config.rope_parameters["rope_theta"] == 50000
        and stock.config.max_position_embeddings == LENGTH
    )
    assert (root / "data/checkpoint/model/log.csv").read_text().count("\n") == 1 + 6


def test_a_snapshot_can_be_a_model_of_the_comparison(project: Project) -> None:
    tokens = 2 * 4 * LENGTH
    models = {
        "model": {"source": "data/packed_shards/rows", "snapshots": [tokens]},
        "early": {"source": "data/checkpoint/model", "at": tokens},
        "wrong": {"source": "data/checkpoint/model", "at": 7},
    }
    root = project(models=models)
    run("model")
    run("early")
    assert (
        json.loads((root / "data/checkpoint/early/record.json").read_text())["tokens_trained"]
        == tokens
    )
    with pytest.raises(UserError, match=f"has these snapshots: {tokens}"):
        run("wrong")


def test_an_unreachable_snapshot_is_refused_before_training(
    project: Project,
) -> None:
    root = project(
        tokens=6 * 4 * LENGTH + 50,
        models={"model": {"source": "data/packed_shards/rows", "snapshots": [6 * 4 * LENGTH + 1]}},
    )
    with pytest.raises(
        UserError,
        match="769 tokens are never reached: checkpoint.tokens = 818 are 768 in whole steps",
    ):
        run("model")
    assert not (root / "data/checkpoint/model").exists() and not (root / ".training").exists()


def test_a_late_snapshot_is_made_from_a_state_before_or_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "0")
    root, step = project(), 4 * LENGTH

    def ask_for(*tokens: int) -> None:
        params = yaml.safe_load((root / "params.yaml").read_text())
        params["checkpoint"]["models"]["model"]["snapshots"] = list(tokens)
        (root / "params.yaml").write_text(yaml.safe_dump(params))

    made = extend("model", alone())
    wanted, states = files(made), sorted(path.name for path in made.parent.glob("step-*"))
    assert states == ["step-00000004", "step-00000005"]
    ask_for(2 * step, 3 * step)
    with pytest.raises(
        UserError, match="already passed 384 tokens, and the earliest kept state is after 512"
    ):
        run("model")
    ask_for(2 * step, 5 * step)
    run("model")
    assert files(root / "data/checkpoint/model").items() >= wanted.items()
    later = load_file(root / f"data/checkpoint/model/at/{5 * step}/model.safetensors")
    project(tokens=5 * step)
    run("model")
    assert all(
        torch.equal(part, later[name])
        for name, part in load_file("data/checkpoint/model/model.safetensors").items()
    )


def test_a_time_between_snapshots_that_is_no_number_is_a_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLEWORK_SNAPSHOT_SECONDS", "15m")
    project()
    with pytest.raises(UserError, match="NEEDLEWORK_SNAPSHOT_SECONDS = 15m"):
        run("model")


def test_moments_of_eight_bits_resume_to_the_byte_too(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao", reason="the extra `memory` is not installed")
    overrides = {
        "optimizer": {"kind": "adamw_8bit"},
        "models": {"model": {"source": "data/packed_shards/rows"}},
    }
    undisturbed = project(**overrides)
    tiny(feed_forward=256).save_pretrained(
        undisturbed / "data/base_checkpoint"
    )  # smaller ones stay in fp32
    run("model")
    struck = project(**overrides)
    tiny(feed_forward=256).save_pretrained(struck / "data/base_checkpoint")
    process = start()
    process.wait_for(lambda: list(struck.glob(".training/checkpoint/model/*/step-00000003")))
    process.kill()
    process.communicate()
    run("model")
    assert files(struck / "data/checkpoint/model") == files(undisturbed / "data/checkpoint/model")
