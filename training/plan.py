"""`make plan PROFILE=NAME`: what a training costs, before it is paid for.

The plan follows from the profile, the base model's dimensions and a file of training/accelerate/.
Only the share of the peak that a device reaches (MFU) can't be known in advance. It is an argument,
and a table compares the plan with the days that the paper's own trainings took.

`--json` prints the GPU-hours of params.yaml by item (training/prices.py), under the accelerate file
in force, or on one device. It runs before each price is shown, so it must be fast.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from core.errors import UserError
from training import host_memory
from training.flops import MEMORY_GIB, PEAK_BF16
from training.hardware import Hardware
from training.job import FIGURES, PROFILES, Job, read_job, shape_at
from training.memory import GIB, MOMENT_BYTES, USABLE, Load, on_device
from training.prices import GPU, MFU, grid_flops, is_trained, prices_in_force

DAY = 86_400
# What makes a training fit, the cheapest in time first.
ADVICE = (
    "fsdp_activation_checkpointing",
    "fsdp_activation_checkpointing_offload",
    "fsdp_offload_params",
    "optimizer.kind: adamw_8bit",
    "parallelism_config_sp_size, or more devices",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the paper's table of hardware: 10B tokens on A100s of 80 GB."""

    gpus: int
    model: str
    length: int
    """Tokens in a row."""
    days: float


PAPER = [
    Row(
        gpus=8,
        model="llama-2-7b",
        length=4096,
        days=3,
    ),
    Row(
        gpus=8,
        model="llama-2-7b",
        length=81_920,
        days=10,
    ),
    Row(
        gpus=8,
        model="llama-2-13b",
        length=4096,
        days=5,
    ),
    Row(
        gpus=8,
        model="llama-2-13b",
        length=65_536,
        days=13,
    ),
    Row(
        gpus=16,
        model="llama-2-7b",
        length=4096,
        days=2,
    ),
    Row(
        gpus=16,
        model="llama-2-7b",
        length=81_920,
        days=7,
    ),
    Row(
        gpus=16,
        model="llama-2-13b",
        length=4096,
        days=4,
    ),
    Row(
        gpus=16,
        model="llama-2-13b",
        length=65_536,
        days=10,
    ),
]
PAPER_TOKENS = 10e9


def describe(job: Job, mfu: float, trainings: int) -> str:
    """The whole plan as text.

    mfu: assumed share of the peak, 0 to 1. trainings: how many the profile has.
    """
    return "\n".join(
        [*_work(job), "", *_memory(job), "", *_time(job, mfu, trainings), "", *_disk(job)]
    )


def _work(job: Job) -> list[str]:
    """Lines about model, tokens, FLOP and devices."""
    shape = job.shape
    step = job.per_step * job.length
    linear, attention = shape.linear_flops(), shape.attention_flops(job.length)
    total = linear + attention
    return [
        f"model        {_short(shape.parameters)} parameters: {shape.layers} layers of "
        f"{shape.width:,}, {shape.heads} heads on {shape.key_value_heads} keys and values, "
        f"vocabulary {shape.vocabulary:,}",
        f"tokens       {_short(job.tokens)} in {job.tokens // step:,} steps of {job.per_step} rows "
        f"x {job.length:,} = {_short(step)}",
        f"FLOP/token   {linear:.2e} linear + {attention:.2e} attention = {total:.2e} "
        f"({attention / total:.0%} attention)",
        f"devices      {job.gpus} x {job.gpu}, rows along {job.hardware.sp}, "
        f"{job.micro_batches} micro-batches a step "
        f"of {job.micro_batch // job.hardware.sp:,} tokens a device",
    ]


def _memory(job: Job) -> list[str]:
    """Lines about memory, and advice if it is not enough."""
    kind = job.config.optimizer.kind
    load = Load(
        shape=job.shape,
        hardware=job.hardware,
        processes=job.gpus,
        tokens=job.micro_batch,
        optimizer=kind,
        element=4 if job.config.precision == "fp32" else 2,
        accumulates=job.micro_batches > 1,
    )
    parts = on_device(load)
    host = host_memory.planned(load, on_cpu=False)
    total = sum(parts.values())
    limit = USABLE * MEMORY_GIB[job.gpu] * GIB

    unit, size_of_unit = _unit(job)
    lines = [f"memory on each device, {unit}"]
    lines += [f"  {part:<28}{size / size_of_unit:>8.1f}" for part, size in parts.items()]
    lines += [
        f"  {'in all':<28}{total / size_of_unit:>8.1f}   of {limit / size_of_unit:,.0f} usable: "
        f"{'fits' if total <= limit else 'DOES NOT FIT'}",
        f"  {'in the host, each process':<28}{host / size_of_unit:>8.1f}",
    ]
    if total > limit:
        lines.append(f"  To make it smaller, in this order: {'; '.join(ADVICE)}.")
    return lines


def _time(job: Job, mfu: float, trainings: int) -> list[str]:
    """Lines about days and GPU-hours."""
    seconds = job.seconds(mfu)
    days = seconds / DAY
    return [
        f"time at an assumed MFU of {mfu:.0%}",
        f"  one training {days:>10,.1f} days = {days * 24 * job.gpus:,.0f} GPU-hours, "
        f"{job.tokens / seconds / job.gpus:,.0f} tokens/s on each device",
        f"  all {trainings} of the profile {days * trainings:,.1f} days",
    ]


def _disk(job: Job) -> list[str]:
    """Lines about the artefacts' sizes."""
    unit, size_of_unit = _unit(job)
    lines = [f"disk, {unit}"]
    return lines + [f"  {what:<44}{size / size_of_unit:>8.1f}" for what, size in disk(job).items()]


def disk(job: Job) -> dict[str, float]:
    """Bytes of each artefact, once; DVC's cache links to them."""
    # As in assets/token_store.py: 16 bits are enough for 65,536 ids.
    token_bytes = 2 if job.shape.vocabulary <= 1 << 16 else 4
    packed = float(token_bytes * job.rows * job.length)
    weight_bytes = {"float32": 4, "bfloat16": 2}[job.config.saved_as]
    state_bytes = 4 + MOMENT_BYTES[job.config.optimizer.kind]
    parameters = job.shape.parameters
    return {
        "tokenized_corpus, to hold the budget once": packed,
        "packed_shards, each recipe": packed,
        "base_checkpoint, in bf16": 2.0 * parameters,
        "checkpoint, each model": float(weight_bytes * parameters),
        "while training: two snapshots, a third aside": 3.0 * state_bytes * parameters,
    }


def _unit(job: Job) -> tuple[str, float]:
    """The unit of sizes and its bytes: MiB for a small model, whose sizes in GiB would be 0.0."""
    return ("GiB", GIB) if job.shape.parameters > 1e8 else ("MiB", GIB / 1024)


def _short(count: float) -> str:
    """6.74B, 442K."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def beside_the_paper(mfu: float) -> str:
    """Each line of the paper's table of hardware, its plan, and the MFU that its days mean."""
    lines = [
        f"the paper's own trainings of 10B tokens on A100s, planned at the same {mfu:.0%}",
        f"  {'GPUs':>4}  "
        f"{'model':<12}{'length':>8}{'paper':>9}{'plan':>9}{'plan/paper':>12}{'its MFU':>9}",
    ]
    for row in PAPER:
        flops = PAPER_TOKENS * shape_at(FIGURES / row.model).training_flops(row.length)
        days_at_peak = flops / (row.gpus * PEAK_BF16["A100"]) / DAY
        planned = days_at_peak / mfu
        lines.append(
            f"  {row.gpus:>4}  {row.model:<12}{row.length:>8,}{row.days:>7.0f} d{planned:>7.1f} d"
            f"{planned / row.days:>12.2f}{days_at_peak / row.days:>9.0%}"
        )
    return "\n".join(lines)


def grid_line(path: Path, job: Job, mfu: float) -> str:
    """The cost of one needle grid of a profile, as text.

    path: the profile. Raises UserError if its section needle_report is not valid.
    """
    try:
        needle = yaml.safe_load(path.read_text())["needle_report"]
        flops = grid_flops(job.shape, needle["grid"], int(needle.get("trials", 1)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: needle_report: {error}") from None
    hours = flops / PEAK_BF16[job.gpu] / mfu / 3600
    return f"one needle grid {hours:,.2f} GPU-hours, on one device"


def main() -> None:
    """Print the plan."""
    # For a program. argparse would ask for a profile.
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
    parse.add_argument(
        "--mfu",
        type=float,
        default=MFU,
        help="share of the peak in bf16, 0 to 1",
    )
    given = parse.parse_args()
    try:
        hardware, gpus = Hardware.of_file(given.accelerate)
        job = read_job(given.profile, given.gpu, hardware, gpus)
        trained = [model for model in job.config.models.values() if is_trained(model)]
        parts = [
            f"{given.profile} under {given.accelerate}",
            describe(job, given.mfu, len(trained)),
            grid_line(PROFILES / f"{given.profile}.yaml", job, given.mfu),
            beside_the_paper(given.mfu),
        ]
    except UserError as error:
        sys.exit(f"plan: {error}")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
