"""Models that others made are compared as they are; a wrong name is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from worlds import tiny

from core.errors import UserError
from evaluation.model_under_test import of_user
from training.baselines import described
from training.checkpoint import run

Project = Callable[..., Path]


def test_a_folder_is_taken_as_it_is_and_keeps_its_own_context(
    project: Project, tmp_path: Path
) -> None:
    theirs = tiny(seed=1)
    theirs.config.max_position_embeddings = 64
    theirs.save_pretrained(tmp_path / "theirs")
    root = project(models={"theirs": {"source": str(tmp_path / "theirs")}})
    run("theirs")
    made = root / "data/checkpoint/theirs"
    assert (made / "model.safetensors").read_bytes() == (
        tmp_path / "theirs/model.safetensors"
    ).read_bytes()
    record = json.loads((made / "record.json").read_text())
    assert (record["base_context"], record["tokens_trained"], record["rope_base"]) == (
        64,
        0,
        10_000,
    )


def test_the_base_untouched_and_the_base_stretched_are_controls(project: Project) -> None:
    root = project(
        models={
            "base": {"source": "data/base_checkpoint"},
            "raised": {"source": "data/base_checkpoint", "rope": {"base": 50_000}},
        }
    )
    for name, base in (("base", 10_000), ("raised", 50_000)):
        run(name)
        record = json.loads((root / f"data/checkpoint/{name}/record.json").read_text())
        assert (record["base_context"], record["rope_base"], record["tokens_trained"]) == (
            16,
            base,
            0,
        )
    one, other = (
        load_file(root / f"data/checkpoint/{name}/model.safetensors") for name in ("base", "raised")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_endpoint_is_a_description_and_a_tokenizer(project: Project, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tokenizer / name).write_text("{}")
    described = tmp_path / "gpt.yaml"
    described.write_text(
        yaml.safe_dump(
            {
                "endpoint": "http://127.0.0.1:1/v1",
                "model": "gpt",
                "context": 128,
                "tokenizer": str(tokenizer),
            }
        )
    )
    root = project(models={"gpt": {"source": str(described)}})
    run("gpt")
    made = root / "data/checkpoint/gpt"
    assert json.loads((made / "endpoint.json").read_text())["model"] == "gpt"
    assert json.loads((made / "record.json").read_text())["base_context"] == 128
    described.write_text(yaml.safe_dump({"endpoint": "http://127.0.0.1:1/v1", "model": "gpt"}))
    with pytest.raises(UserError, match="tokenizer: missing"):
        run("gpt")


def test_a_model_of_the_hub_that_can_not_be_had_is_a_line(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    described = tmp_path / "theirs.yaml"
    described.write_text("hub: nobody/nothing")
    project(models={"theirs": {"source": str(described)}})
    with pytest.raises(
        UserError, match="nobody/nothing: neither a folder nor a model that can be fetched"
    ):
        run("theirs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no model"),
        ("- hub", "names no model"),
        ("model: gpt", "names no model"),
        ("hub: [", "read as YAML"),
        ("{endpoint: localhost, model: gpt, tokenizer: x, context: 64}", "endpoint = 'localhost'"),
    ],
)
def test_a_file_that_names_no_model_is_a_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(text)
    for read in (described, lambda path: of_user(str(path))):
        with pytest.raises(UserError, match=f"theirs.yaml.*{message}"):
            read(file)
