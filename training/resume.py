"""Resume a training from a snapshot, under the same or another number of processes.

Each process reads the rows that it needs from all files of the snapshot, so sharded tensors fit any
number of processes. 8-bit moments do not (training/named_state.py): they are read by the process
that wrote them, and another number of processes is refused. Only a snapshot in which every file has
the hash of the record is used, at the cost of reading it twice.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from core.errors import UserError
from core.sealed import RECORD, is_whole, read_json
from training.named_state import is_of_one_process, local_rows, named_tensors
from training.optimizer import set_rate
from training.parallel import World
from training.snapshots import PLACES, STATE, StepLog, snapshots, step_of


def newest_valid(folder: Path, before: int | None = None) -> Path | None:
    """The newest snapshot whose every file has the hash of its record. Damaged ones are reported.

    before: a step that it must not have reached; None: any.
    """
    for path in reversed(snapshots(folder)):
        if before is not None and step_of(path) >= before:
            continue
        if is_whole(path):
            return path
        print(f"{path}: damaged, so an older snapshot is taken", file=sys.stderr)
    return None


def load(
    snapshot: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> list[StepLog]:
    """Load the snapshot's weights and moments in place; returns the log up to its step.

    Every process of the world must call it. Raises UserError, on every process, for 8-bit moments
    of another number of processes.
    """
    parts = [safe_open(path, "pt") for path in sorted(snapshot.glob("part-*.safetensors"))]
    places = [json.loads(part.metadata()[PLACES]) for part in parts]
    _check_processes(snapshot, places, world)

    _create_moments(optimizer)
    with torch.no_grad():
        for name, tensor in named_tensors(model, optimizer, world).items():
            local, first = local_rows(tensor)
            for part, place in zip(parts, places, strict=True):
                if name in place:
                    _copy_overlap(local, first, part.get_slice(name), place[name])

    return [StepLog(**line) for line in read_json(snapshot / STATE)["log"]]


def _check_processes(snapshot: Path, places: list[dict[str, int]], world: World) -> None:
    """Raise UserError for 8-bit moments of another number of processes.

    places: for each file, tensor name -> number of its first row.
    """
    wrote = int(read_json(snapshot / RECORD)["processes"])
    names = {name for place in places for name in place}
    if wrote == world.size or not any(map(is_of_one_process, names)):
        return
    raise UserError(
        f"{snapshot}: its 8-bit moments (optimizer.kind: adamw_8bit) belong to {wrote} processes, "
        f"each with blocks of its own, and can't be used by {world.size}. Train with {wrote}, or "
        f"remove {snapshot.parent} to start from step 0."
    )


def _copy_overlap(local: torch.Tensor, first: int, stored: Any, stored_first: int) -> None:
    """Copy the rows that `local` and one stored part share.

    local: [rows, ...], from row `first` of the whole tensor on; or a scalar.
    stored: a slice of a safetensors file, from row `stored_first` on.
    """
    if local.ndim == 0:
        local.copy_(stored[...])
        return
    low = max(first, stored_first)
    high = min(first + local.shape[0], stored_first + stored.get_shape()[0])
    if low < high:
        local[low - first : high - first].copy_(stored[low - stored_first : high - stored_first])


def _create_moments(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer create its state tensors, to be filled."""
    # An optimizer creates its state in its first step. With a rate and gradients of zero that step
    # changes no weight.
    rate = float(optimizer.param_groups[0]["lr"])
    set_rate(optimizer, 0.0)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    set_rate(optimizer, rate)
