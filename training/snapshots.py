"""Snapshots of a training on disk: complete or absent, hashed, readable by any number of processes.

A snapshot holds the fp32 weights, the optimizer's moments, the step and the log so far. The order
of the rows and the learning rate follow from the step, and no step draws a random number. So a
resumed training gives the bytes of one that was never stopped (training/resume.py).

Every process writes its own rows of every tensor as one safetensors file, with the numbers of its
first rows in the file's metadata. The main process seals the folder when all files are there. With
several machines the folder must be on storage that all of them see.

Cost: 12 bytes a parameter (7B: 84 GB) for each of the two newest, which are kept. Hashing reads
them once more.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from core.sealed import beside, sealed, write_json
from training.named_state import is_of_one_process, local_rows, named_tensors
from training.parallel import World

KEPT = 2  # the newest may be damaged, so the one before it stays
STATE = "state.json"
PLACES = "places"  # key of a file's metadata: JSON {tensor name: number of its first row}


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One optimizer step."""

    step: int
    """Its number, from 1."""
    tokens: int
    """Tokens trained on after it."""
    loss: float
    """Mean over the step's predicted tokens, in nats."""
    learning_rate: float
    """The rate with which it was taken."""
    gradient_norm: float
    """Before clipping."""


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    log: Sequence[StepLog],
    world: World,
) -> Path:
    """Write the snapshot of the step that `log` ends with; returns its folder.

    All but the newest KEPT snapshots are removed. Every process of the world must call it.
    """
    target = folder / f"step-{log[-1].step:08d}"
    facts = {"step": log[-1].step, "tokens": log[-1].tokens, "processes": world.size}
    # First wait: the main process has made the folder. Second wait: all files are written.
    if world.main:
        with sealed(target, facts) as aside:
            world.wait()
            _write_part(aside, model, optimizer, world)
            write_json(aside / STATE, {"log": [asdict(line) for line in log]})
            world.wait()
        for old in snapshots(folder)[:-KEPT]:
            shutil.rmtree(old)
    else:
        world.wait()
        _write_part(beside(target), model, optimizer, world)
        world.wait()
    return target


def _write_part(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """This process's rows of every tensor, in one file."""
    tensors, places = {}, {}
    for name, tensor in named_tensors(model, optimizer, world).items():
        # A tensor that every process has in full is written by the main process only.
        is_here_only = isinstance(tensor, DTensor) or is_of_one_process(name)
        if not (is_here_only or world.main):
            continue
        local, first = local_rows(tensor)
        if local.numel():
            tensors[name] = local.detach().cpu().contiguous()
            places[name] = first

    file = folder / f"part-{world.rank:05d}.safetensors"
    save_file(tensors, file, {PLACES: json.dumps(places, sort_keys=True)})


def snapshots(folder: Path) -> list[Path]:
    """The snapshots in `folder`, oldest first. They may be damaged (training/resume.py)."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def step_of(snapshot: Path) -> int:
    """The step after which it was taken."""
    return int(snapshot.name.removeprefix("step-"))
