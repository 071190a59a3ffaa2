"""The check `loads_in_transformers` fails where plain transformers would draw, leave out or reshape
a weight.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from worlds import tiny

from training.checkpoint import loads_in_transformers

Weights = dict[str, torch.Tensor]
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny Llama as a stage leaves it."""
    tiny().save_pretrained(tmp_path)
    return tmp_path


def test_a_whole_model_loads(model: Path) -> None:
    check = loads_in_transformers(model, served=False)
    assert check.passed and check.blocking and check.found == "whole"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda weights: weights.pop(QUERY), f"missing keys: {QUERY}"),
        (
            lambda weights: weights.update(left_over=weights[QUERY].clone()),
            "unexpected keys: left_over",
        ),
        (
            lambda weights: weights.update({QUERY: weights[QUERY][:4].clone()}),
            f"mismatched keys: {QUERY}",
        ),
    ],
)
def test_a_weight_missing_left_over_or_of_another_shape_is_named(
    model: Path, change: Callable[[Weights], object], found: str
) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    check = loads_in_transformers(model, served=False)
    assert check.passed is False and check.found == found


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("half", [True, False])
def test_a_file_that_is_cut_off_or_not_there_fails(model: Path, file: str, half: bool) -> None:
    content = (model / file).read_bytes()
    (model / file).unlink()
    if half:
        (model / file).write_bytes(content[: len(content) // 2])
    check = loads_in_transformers(model, served=False)
    assert check.passed is False and "\n" not in check.found


def test_a_model_behind_an_endpoint_is_not_checked(tmp_path: Path) -> None:
    check = loads_in_transformers(tmp_path, served=True)
    assert check.passed is None and "endpoint" in check.found
