"""GPU-hours of each item of the graph, before it is made.

A training costs what training/job.py says. A model that is not trained costs nothing. A needle grid
is priced as evaluation reads it: the longest haystack once, and from each place of the statement to
the end again. Frame, statement and answer are left out, and the grid of a model that a YAML file
names has no price.

The grid's defaults are in evaluation/needle_report_config.py, which this package may not import. A
test compares the two.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.environment import ACCELERATE, text_of
from core.errors import UserError
from training.checkpoint_config import BASE, ModelConfig
from training.flops import PEAK_BF16, Shape, named_gpu
from training.hardware import Hardware
from training.job import Job, job_of, shape_in

PARAMS = Path("params.yaml")
GPU = "A100"  # where no GPU is found: the paper's
MFU = 0.45  # assumed share of the peak in bf16; the paper's own days mean 34 to 76 %
# On Linux a usable GPU has one of these files: NVIDIA, AMD, or Windows underneath.
DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
HOUR = 3600


def is_trained(model: ModelConfig) -> bool:
    """Whether the model is trained, and not copied, changed in its config or a snapshot."""
    return (
        model.source != BASE
        and model.at is None
        and model.source.suffix not in (".yaml", ".yml")
        and not (model.source / "config.json").is_file()
    )


def shape_under(model: ModelConfig, base: Shape) -> Shape | None:
    """The shape of the model that a report reads; None if it is not known here."""
    if model.source.suffix in (".yaml", ".yml"):
        return None
    own = model.source != BASE and (model.source / "config.json").is_file() and model.at is None
    return shape_in(model.source) if own else base


def read_flops(shape: Shape, known: int, read: int) -> float:
    """FLOP to read `read` tokens after `known` cached ones, forward only."""
    # Token i of those read attends to known + i tokens.
    pairs = known * read + read**2 / 2
    return (
        2.0 * shape.matrix_weights * read
        + 4.0 * shape.layers * shape.heads * shape.head_dim * pairs
    )


def places_of(grid: Mapping[str, Any]) -> dict[int, int]:
    """Place of the statement, in tokens -> the longest context that is read from there on.

    grid: the section needle_report.grid, with defaults left out.
    """
    lengths = [int(length) for length in grid["lengths"]]
    cells = []
    if grid.get("kind", "percent") == "percent":
        depths = grid.get("depths") or np.linspace(0, 100, 10).round(2).tolist()
        for length in lengths:
            cells += [(round(length * depth / 100), length) for depth in depths]
    else:
        count = int(grid.get("places", 40))
        places = np.linspace(0, max(lengths), count).round().astype(int)
        cells = [(int(place), max(lengths)) for place in places]

    longest = dict[int, int]()
    for place, length in cells:
        longest[place] = max(longest.get(place, 0), length)
    return longest


def grid_flops(shape: Shape, grid: Mapping[str, Any], trials: int) -> float:
    """FLOP of a needle grid: the longest haystack once, and from each place on to the end.

    grid: the section needle_report.grid. trials: each has a haystack of its own.
    """
    total = read_flops(shape, 0, max(int(length) for length in grid["lengths"]))
    for place, length in places_of(grid).items():
        total += read_flops(shape, place, length - place)
    return trials * total


def prices(job: Job, needle: Mapping[str, Any], mfu: float) -> dict[str, dict[str, float]]:
    """Address -> {"gpu_hours", "devices"}, of each item that has a price.

    needle: the section needle_report of params.yaml. mfu: share of the peak, 0 to 1.
    """
    found = dict[str, dict[str, float]]()
    if job.copied:
        found["base_checkpoint"] = {"gpu_hours": 0.0, "devices": 1}

    for name, model in job.config.models.items():
        if is_trained(model):
            hours = job.seconds(mfu) * job.gpus / HOUR
            found[f"checkpoint@{name}"] = {"gpu_hours": hours, "devices": job.gpus}
        else:
            found[f"checkpoint@{name}"] = {"gpu_hours": 0.0, "devices": 1}

        shape = shape_under(model, job.shape)
        if shape is not None:
            flops = grid_flops(shape, needle["grid"], int(needle.get("trials", 1)))
            hours = flops / (PEAK_BF16[job.gpu] * mfu) / HOUR
            found[f"needle_report@{name}"] = {"gpu_hours": hours, "devices": 1}
    return found


def prices_in_force() -> dict[str, dict[str, float]]:
    """The prices of params.yaml, here and now: under NEEDLEWORK_ACCELERATE, on this machine's GPU.

    Raises UserError.
    """
    file = text_of(ACCELERATE)
    hardware, gpus = Hardware.of_file(Path(file)) if file else (Hardware(), 1)
    job = job_of(PARAMS, gpu_here() or GPU, hardware, gpus)
    try:
        return prices(job, yaml.safe_load(PARAMS.read_text())["needle_report"], MFU)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{PARAMS}: needle_report: {error}") from None


def gpu_here() -> str | None:
    """The key of PEAK_BF16 for this machine's GPU; None without one that PyTorch can use."""
    # PyTorch takes a second to import, so it is asked only where a driver is present.
    if sys.platform == "linux" and not any(path.exists() for path in DRIVERS):
        return None
    import torch

    return named_gpu(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
