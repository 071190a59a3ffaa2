"""`make plan PROFILE=NAME`: what a training costs, before it is paid.

Everything follows from the profile, the base model's config.json (or, before it is downloaded, the
figures in models/NAME.json) and a file of training/accelerate/. Only the share of the peak that a
device reaches (MFU) can't be known beforehand: it is an argument, and a table shows what the
paper's own days say about it.

`--json` says the GPU-hours of params.yaml as it stands, by item: of each training, under the
accelerate file in force (NEEDLEWORK_ACCELERATE; else one device), and of each needle grid, on one.
A model that is not trained costs nothing. What the grid of a model costs that a YAML file names is
not said. A grid is read as evaluation/walk.py reads it, at the same MFU; the frame, the statement
and the answer are left out. The grid's defaults stand in evaluation/needle_report_config.py, which
this package may not import; a test holds the two together.

It runs before work is priced, so it reads a plain Llama's config.json and the figures as JSON.
Other models are read by transformers, which costs seconds.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from assets.recipes import MixedDatasetConfig
from core.environment import ACCELERATE, text_of
from core.errors import UserError
from training.base_checkpoint_config import BaseCheckpointConfig
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.config_json import Dimensions, plain_llama, read_dimensions
from training.flops import MEMORY_GIB, PEAK_BF16, Shape, named_gpu, shape_of
from training.hardware import Hardware
from training.memory import GIB, MOMENT_BYTES, USABLE, on_device, on_host

PROFILES, FIGURES, PARAMS = Path("profiles"), Path("models"), Path("params.yaml")
GPU = "A100"
DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
"""Files of Linux, one of which is there where a GPU can be used: NVIDIA, AMD, Windows below."""
PRETRAINED = Path("data/tokenized_corpus")
"""The base's source if it is pretrained here."""
DAY = 86_400
MFU = 0.45
ADVICE = (
    "fsdp_activation_checkpointing",
    "fsdp_activation_checkpointing_offload",
    "fsdp_offload_params",
    "optimizer.kind: adamw_8bit",
    "parallelism_config_sp_size, or more devices",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the paper's table of hardware: what 10B tokens took on A100s of 80 GB."""

    gpus: int
    model: str
    length: int
    days: float


PAPER = [
    Row(gpus=gpus, model=f"llama-2-{size}", length=length, days=days)
    for gpus, size, length, days in (
        (8, "7b", 4096, 3),
        (8, "7b", 81_920, 10),
        (8, "13b", 4096, 5),
        (8, "13b", 65_536, 13),
        (16, "7b", 4096, 2),
        (16, "7b", 81_920, 7),
        (16, "13b", 4096, 4),
        (16, "13b", 65_536, 10),
    )
]
PAPER_TOKENS = 10e9


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training on some hardware."""

    shape: Shape
    rows: int
    length: int
    per_step: int
    config: CheckpointConfig
    hardware: Hardware
    gpu: str
    gpus: int
    copied: bool = True
    """Whether the base is there, and not pretrained here."""

    @property
    def tokens(self) -> int:
        """Tokens trained on, in whole steps."""
        return (
            max(self.config.tokens // (self.per_step * self.length), 1)
            * self.per_step
            * self.length
        )

    @property
    def in_pass(self) -> int:
        """Tokens that a group of devices holds at once."""
        return max(self.config.optimizer.micro_batch_tokens // self.length, 1) * self.length

    def seconds(self, mfu: float) -> float:
        """Of one training at that share of the peak."""
        return (
            self.tokens
            * self.shape.training_flops(self.length)
            / (self.gpus * PEAK_BF16[self.gpu] * mfu)
        )


def read_job(profile: str, gpu: str, hardware: Hardware, gpus: int) -> Job:
    """The training of that profile. Raises UserError for a profile or model that is not there or
    not valid.
    """
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        raise UserError(
            f"{path}: no such profile. There are: "
            f"{', '.join(sorted(p.stem for p in PROFILES.glob('*')))}."
        )
    return job_of(path, gpu, hardware, gpus)


def job_of(path: Path, gpu: str, hardware: Hardware, gpus: int) -> Job:
    """The training that a file of parameters asks for. Raises UserError."""
    try:
        values = yaml.safe_load(path.read_text())
        config = CheckpointConfig.model_validate(values["checkpoint"])
        source = BaseCheckpointConfig.model_validate(values["base_checkpoint"]).source
        length = int(values["packed_shards"]["chunk_length"])
        rows = MixedDatasetConfig.model_validate(values["mixed_dataset"]).token_budget // length
    except (ValidationError, KeyError, TypeError, OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from None
    return Job(
        shape=shape_at(source),
        rows=rows,
        length=length,
        config=config,
        hardware=hardware,
        gpu=gpu,
        gpus=gpus,
        copied=source != PRETRAINED,
        per_step=max(config.optimizer.batch_tokens // length, 1),
    )


def shape_at(source: Path) -> Shape:
    """Of the model in `source`, or of the figures under its name until it is there. Raises
    UserError.
    """
    figures = FIGURES / f"{source.name}.json"
    if (source / "config.json").is_file() or not figures.is_file():
        return shape_in(source)
    known = read_dimensions(figures, Dimensions)
    if known is not None:
        return shape_of(known)
    from transformers import LlamaConfig

    return shape_of(LlamaConfig.from_json_file(figures))


def shape_in(folder: Path) -> Shape:
    """Of the model in `folder`. Raises UserError."""
    plain = plain_llama(folder)
    if plain is not None:
        return shape_of(plain)
    from training.model import read_config

    return shape_of(read_config(folder))


def describe(job: Job, mfu: float, trainings: int) -> str:
    """The plan in words and figures."""
    shape, step = job.shape, job.per_step * job.length
    linear, attention = shape.linear_flops(), shape.attention_flops(job.length)
    unit, one = ("GiB", GIB) if shape.parameters > 1e8 else ("MiB", GIB / 1024)
    parts = on_device(shape, job.hardware, job.gpus, job.in_pass, job.config.optimizer.kind)
    host = on_host(shape, job.hardware, job.gpus, job.in_pass, job.config.optimizer.kind)
    total, limit = sum(parts.values()), USABLE * MEMORY_GIB[job.gpu] * GIB
    days = job.seconds(mfu) / DAY
    lines = [
        f"model        {_short(shape.parameters)} parameters: {shape.layers} layers of "
        f"{shape.width:,}, "
        f"{shape.heads} heads on {shape.key_value_heads} keys and values, vocabulary "
        f"{shape.vocabulary:,}",
        f"tokens       {_short(job.tokens)} in {job.tokens // step:,} steps of {job.per_step} rows "
        f"x {job.length:,} "
        f"= {_short(step)}",
        f"FLOP/token   {linear:.2e} linear + {attention:.2e} attention = {linear + attention:.2e} "
        f"({attention / (linear + attention):.0%} attention)",
        f"devices      {job.gpus} x {job.gpu}, rows along {job.hardware.sp}, "
        f"{_passes(job)} passes a step of {job.in_pass // job.hardware.sp:,} tokens a device",
        "",
        f"memory on each device, {unit}",
        *(f"  {part:<28}{size / one:>8.1f}" for part, size in parts.items()),
        f"  {'in all':<28}{total / one:>8.1f}   of {limit / one:,.0f} usable: "
        f"{'fits' if total <= limit else 'DOES NOT FIT'}",
        f"  {'in the host, each process':<28}{host / one:>8.1f}",
    ]
    if total > limit:
        lines.append(f"  In this order, what makes it smaller: {'; '.join(ADVICE)}.")
    lines += [
        "",
        f"time at an MFU of {mfu:.0%}, which is assumed",
        f"  one training {days:>10,.1f} days = {days * 24 * job.gpus:,.0f} GPU-hours, "
        f"{job.tokens / job.seconds(mfu) / job.gpus:,.0f} tokens/s on each device",
        f"  all {trainings} of the profile {days * trainings:,.1f} days",
        "",
        f"disk, {unit}",
        *(f"  {what:<44}{size / one:>8.1f}" for what, size in disk(job).items()),
    ]
    return "\n".join(lines)


def _short(count: float) -> str:
    """6.74B, 442K."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _passes(job: Job) -> int:
    at_once = job.in_pass // job.length * (job.gpus // job.hardware.sp)
    return -(-job.per_step // at_once)


def disk(job: Job) -> dict[str, float]:
    """Bytes of each artefact, once; DVC's cache links to them."""
    token = 2 if job.shape.vocabulary <= 1 << 16 else 4
    packed = job.rows * job.length
    saved = {"float32": 4, "bfloat16": 2}[job.config.saved_as] * job.shape.parameters
    state = (4 + MOMENT_BYTES[job.config.optimizer.kind]) * job.shape.parameters
    return {
        "tokenized_corpus, to hold the budget once": float(token * packed),
        "packed_shards, each recipe": float(token * packed),
        "base_checkpoint, in bf16": 2.0 * job.shape.parameters,
        "checkpoint, each model": float(saved),
        "while training: two snapshots, a third aside": 3.0 * state,
    }


def beside_the_paper(mfu: float) -> str:
    """Each line of the paper's table of hardware beside the plan for it, and the MFU that its days
    mean.
    """
    lines = [
        f"the paper's own trainings of 10B tokens on A100s, planned at the same {mfu:.0%}",
        f"  {'GPUs':>4}  "
        f"{'model':<12}{'length':>8}{'paper':>9}{'plan':>9}{'plan/paper':>12}{'its MFU':>9}",
    ]
    for row in PAPER:
        flops = PAPER_TOKENS * shape_at(FIGURES / row.model).training_flops(row.length)
        at_peak = flops / (row.gpus * PEAK_BF16["A100"]) / DAY
        lines.append(
            f"  {row.gpus:>4}  {row.model:<12}{row.length:>8,}{row.days:>7.0f} "
            f"d{at_peak / mfu:>7.1f} d"
            f"{at_peak / mfu / row.days:>12.2f}{at_peak / row.days:>9.0%}"
        )
    return "\n".join(lines)


def is_trained(model: ModelConfig) -> bool:
    """Whether it is trained, and not copied, stretched or taken from another's snapshots."""
    return (
        model.source != BASE
        and model.at is None
        and model.source.suffix not in (".yaml", ".yml")
        and not (model.source / "config.json").is_file()
    )


def shape_under(model: ModelConfig, base: Shape) -> Shape | None:
    """Of the model that a report asks; None if it is not known, or not here."""
    if model.source.suffix in (".yaml", ".yml"):
        return None
    own = model.source != BASE and (model.source / "config.json").is_file() and model.at is None
    return shape_in(model.source) if own else base


def read_flops(shape: Shape, known: int, read: int) -> float:
    """FLOP of reading `read` tokens after `known` ones, forwards only."""
    pairs = known * read + read**2 / 2
    return (
        2.0 * shape.matrix_weights * read
        + 4.0 * shape.layers * shape.heads * shape.head_dim * pairs
    )


def places_of(grid: Mapping[str, Any]) -> dict[int, int]:
    """Place of the statement, in tokens -> the longest context that is read from there on."""
    lengths = [int(length) for length in grid["lengths"]]
    if grid.get("kind", "percent") == "percent":
        depths = grid.get("depths") or np.linspace(0, 100, 10).round(2).tolist()
        cells = [(round(length * depth / 100), length) for length in lengths for depth in depths]
    else:
        places = np.linspace(0, max(lengths), int(grid.get("places", 40))).round().astype(int)
        cells = [(int(place), max(lengths)) for place in places]
    found = dict[int, int]()
    for place, length in cells:
        found[place] = max(found.get(place, 0), length)
    return found


def grid_flops(shape: Shape, grid: Mapping[str, Any], trials: int) -> float:
    """Of a needle grid: the longest haystack once, and from each place on to the end."""
    once = read_flops(shape, 0, max(int(length) for length in grid["lengths"]))
    cells = places_of(grid).items()
    return trials * (once + sum(read_flops(shape, at, length - at) for at, length in cells))


def prices(job: Job, needle: Mapping[str, Any], mfu: float) -> dict[str, dict[str, float]]:
    """Address -> its GPU-hours, and on how many devices. needle: the section needle_report."""
    found = dict[str, dict[str, float]]()
    if job.copied:
        found["base_checkpoint"] = {"gpu_hours": 0.0, "devices": 1}
    speed = PEAK_BF16[job.gpu] * mfu
    for name, model in job.config.models.items():
        hours = job.seconds(mfu) * job.gpus / 3600 if is_trained(model) else 0.0
        devices = job.gpus if is_trained(model) else 1
        found[f"checkpoint@{name}"] = {"gpu_hours": hours, "devices": devices}
        shape = shape_under(model, job.shape)
        if shape is not None:
            flops = grid_flops(shape, needle["grid"], int(needle.get("trials", 1)))
            hours = flops / speed / 3600
            found[f"needle_report@{name}"] = {"gpu_hours": hours, "devices": 1}
    return found


def grid_line(path: Path, job: Job, mfu: float) -> str:
    """What one needle grid of a profile takes, in words. Raises UserError."""
    try:
        needle = yaml.safe_load(path.read_text())["needle_report"]
        flops = grid_flops(job.shape, needle["grid"], int(needle.get("trials", 1)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: needle_report: {error}") from None
    return (
        f"one needle grid {flops / PEAK_BF16[job.gpu] / mfu / 3600:,.2f} GPU-hours, on one device"
    )


def gpu_here() -> str | None:
    """The entry of PEAK_BF16 that this machine's GPU is, if it has one that PyTorch can use."""
    if sys.platform == "linux" and not any(path.exists() for path in DRIVERS):
        return None
    import torch

    return named_gpu(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def prices_in_force() -> dict[str, dict[str, float]]:
    """Those of params.yaml here and now. Raises UserError."""
    file = text_of(ACCELERATE)
    hardware, gpus = Hardware.of_file(Path(file)) if file else (Hardware(), 1)
    job = job_of(PARAMS, gpu_here() or GPU, hardware, gpus)
    try:
        return prices(job, yaml.safe_load(PARAMS.read_text())["needle_report"], MFU)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{PARAMS}: needle_report: {error}") from None


def main() -> None:
    """Print the plan."""
    if sys.argv[1:] == ["--json"]:
        try:
            print(json.dumps(prices_in_force()))
        except UserError as error:
            sys.exit(f"plan: {error}")
        return
    parse = argparse.ArgumentParser(prog="python -m training.plan", description=__doc__)
    parse.add_argument("profile")
    parse.add_argument(
        "--accelerate", type=Path, default=Path("training/accelerate/gpus-8.yaml"), metavar="FILE"
    )
    parse.add_argument("--gpu", choices=sorted(PEAK_BF16), default=GPU)
    parse.add_argument("--mfu", type=float, default=MFU, help="share of the peak in bf16, 0 to 1")
    given = parse.parse_args()
    try:
        hardware, gpus = Hardware.of_file(given.accelerate)
        job = read_job(given.profile, given.gpu, hardware, gpus)
        trained = [model for model in job.config.models.values() if is_trained(model)]
        print(
            f"{given.profile} under "
            f"{given.accelerate}\n\n{describe(job, given.mfu, len(trained))}\n\n"
            f"{grid_line(PROFILES / f'{given.profile}.yaml', job, given.mfu)}\n\n"
            f"{beside_the_paper(given.mfu)}"
        )
    except UserError as error:
        sys.exit(f"plan: {error}")


if __name__ == "__main__":
    main()
