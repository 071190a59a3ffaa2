"""The plan counts what real models have; memory, time and price follow from its counts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from worlds import tiny

from training.flops import Shape, shape_of
from training.hardware import Hardware
from training.memory import Load, on_device
from training.plan import PAPER, beside_the_paper
from training.prices import grid_flops, read_flops

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FIGURES = {
    "llama-2-7b": 6.738e9,
    "llama-2-13b": 13.016e9,
    "qwen3-8b-base": 8.191e9,
    "smollm2-135m-instruct": 1.345e8,
}
CLASSES = {"llama": LlamaConfig, "qwen3": Qwen3Config}


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_are_counted_as_transformers_does(name: str) -> None:
    kind = CLASSES["qwen3" if "qwen" in name else "llama"]
    config = kind.from_json_file(ROOT / f"models/{name}.json")
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config).num_parameters()
    assert (
        shape_of(config).parameters
        == pytest.approx(built, rel=1e-5)
        == pytest.approx(FIGURES[name], rel=1e-3)
    )


def test_flops_are_those_that_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, length = tiny(), 32
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ids = torch.zeros(1, length, dtype=torch.long)
        model(ids, labels=ids).loss.backward()
    shape = shape_of(model.config)
    whole_square = shape.linear_flops() + 2 * shape.attention_flops(length)
    assert counter.get_total_flops() == pytest.approx(length * whole_square, rel=0.02)


def test_memory_is_sixteen_bytes_a_weight_and_follows_offload() -> None:
    shape = shape_of(LlamaConfig.from_json_file(ROOT / "models/llama-2-7b.json"))
    near = load(shape, Hardware(checkpoint_activations=True))
    parts = on_device(near)
    state = parts["weights, fp32"] + parts["gradients, fp32"] + parts["moments"]
    assert state == pytest.approx(16 * shape.parameters / 8)
    assert parts["checkpointed activations"] == 32 * 81_920 * 4096 * 2
    away = load(
        shape,
        Hardware(checkpoint_activations=True, offload_activations=True, offload_weights=True),
    )
    moved = on_device(away)
    assert moved["weights, fp32"] == moved["moments"] == moved["checkpointed activations"] == 0
    along = on_device(load(shape, Hardware(checkpoint_activations=True, sp=8)))
    assert along["inside layers"] == parts["inside layers"] / 8


def load(shape: Shape, hardware: Hardware) -> Load:
    """A row of 80K on each of eight devices."""
    return Load(shape=shape, hardware=hardware, processes=8, tokens=81_920)


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m training.plan` in the project."""
    return subprocess.run(
        [sys.executable, "-m", "training.plan", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_the_plan_prints_every_part_and_row_of_the_paper() -> None:
    said = plan("llama2-7b-80k").stdout
    for part in (
        "6.74B parameters",
        "1,271 steps of 48 rows x 81,920",
        "62% attention",
        "gradients, fp32",
        "GPU-hours",
        "one needle grid",
        "packed_shards",
        "fits",
    ):
        assert part in said
    assert (
        len([line for line in beside_the_paper(0.45).splitlines() if "llama-2-" in line])
        == len(PAPER)
        == 8
    )


def test_a_plan_that_does_not_fit_says_so_and_what_would() -> None:
    said = plan(
        "llama2-7b-80k", "--accelerate", "training/accelerate/gpu-1.yaml", "--gpu", "H100"
    ).stdout
    assert "DOES NOT FIT" in said and "fsdp_offload_params" in said
    assert (
        ": fits"
        in plan(
            "llama2-7b-80k", "--accelerate", "training/accelerate/gpu-1.yaml", "--gpu", "H200"
        ).stdout
    )


def test_a_missing_profile_is_a_line_with_the_known_names() -> None:
    wrong = plan("llama3")
    assert (
        wrong.returncode == 1
        and "llama2-7b-80k" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )


def test_a_grid_is_priced_from_each_place_to_the_longest_end() -> None:
    shape = shape_of(LlamaConfig.from_json_file(ROOT / "models/llama-2-7b.json"))
    grid = {"lengths": [100, 200], "depths": [0, 50]}
    parts = [(0, 200), (0, 200), (50, 50), (100, 100)]  # place 0 serves both lengths
    assert grid_flops(shape, grid, 3) == 3 * sum(read_flops(shape, *part) for part in parts)
    shared = {"kind": "shared", "lengths": [100, 200], "places": 3}
    parts = [(0, 200), (0, 200), (100, 100), (200, 0)]
    assert grid_flops(shape, shared, 1) == sum(read_flops(shape, *part) for part in parts)


def test_a_price_is_of_what_is_trained_and_of_every_grid(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "profiles/llama2-7b-80k.yaml", tmp_path / "params.yaml")
    shutil.copytree(
        ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("sample-base")
    )
    done = subprocess.run(
        [sys.executable, "-m", "training.plan", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NEEDLEWORK_ACCELERATE": str(ROOT / "training/accelerate/gpus-8.yaml"),
        },
    )
    prices = json.loads(done.stdout)
    trained = {name for name, price in prices.items() if price["devices"] == 8}
    assert trained and all(prices[name]["gpu_hours"] > 100 for name in trained)
    copied = {name for name in prices if name.startswith("checkpoint@")} - trained
    assert copied and all(prices[name]["gpu_hours"] == 0 for name in copied)
    grids = [prices[name] for name in prices if name.startswith("needle_report@")]
    assert grids and all(0 < price["gpu_hours"] < 1000 for price in grids)
