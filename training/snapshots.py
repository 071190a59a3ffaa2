"""Where a training stands, on disk: written whole or not at all, hashed, and readable by any number
of processes.

A snapshot holds the fp32 weights, the optimizer's moments, the step and the log so far; the order
of the rows and the rate follow from the step, and nothing is drawn at random, so going on from it
gives the bytes of never having stopped. Every process writes its own part of every tensor as
safetensors, with the place of that part in its name's metadata; reading takes whatever parts
overlap, so a run may go on with fewer or more processes. Moments of 8 bits can't be cut so: each
process quantised its own in blocks, which begin elsewhere for another number of processes. They
carry the process's number in their name and go back to that process alone. The main process seals
the folder when all parts are there. With several machines the folder must be on storage that all of
them see.

Cost: 12 bytes a parameter (7B: 84 GB) for each of the two newest that are kept. Hashing reads them
once more.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from core.errors import UserError
from core.sealed import RECORD, beside, is_whole, read_json, sealed, write_json
from training.optimizer import set_rate
from training.parallel import World

KEPT = 2
STATE = "state.json"
PLACES = "places"
OF_PROCESS = "@"
"""Stands before the number of the process in the name of what only it can use."""


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One optimizer step: its number from 1, tokens seen after it, mean loss in nats per token,
    rate, gradient norm.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    log: Sequence[StepLog],
    world: World,
) -> Path:
    """Write the snapshot of the step that `log` ends with, and remove all but the newest KEPT.
    Returns its folder.

    Every process of the world must call it.
    """
    target = folder / f"step-{log[-1].step:08d}"
    facts = {"step": log[-1].step, "tokens": log[-1].tokens, "processes": world.size}
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


def snapshots(folder: Path) -> list[Path]:
    """The snapshots in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def step_of(snapshot: Path) -> int:
    """The step after which it was taken."""
    return int(snapshot.name.removeprefix("step-"))


def newest_valid(folder: Path, before: int | None = None) -> Path | None:
    """The newest snapshot, of those from before a step if one is given, whose every file has the
    hash of its record; damaged ones are named and passed over.
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
    """Put the snapshot's weights and moments in place; returns the log up to its step.

    Raises UserError, on every process, for moments of 8 bits that another number of processes
    wrote.
    """
    parts = [safe_open(path, "pt") for path in sorted(snapshot.glob("part-*.safetensors"))]
    places = [json.loads(part.metadata()[PLACES]) for part in parts]
    wrote = int(read_json(snapshot / RECORD)["processes"])
    if wrote != world.size and any(_of_process(name) for place in places for name in place):
        raise UserError(
            f"{snapshot}: its moments of 8 bits (optimizer.kind: adamw_8bit) belong to {wrote} "
            "processes, "
            f"each with blocks of its own, and can't go on in {world.size}. Train with {wrote}, or "
            "remove "
            f"{snapshot.parent} to begin anew."
        )
    _make_moments(optimizer)
    with torch.no_grad():
        for name, tensor in _tensors(model, optimizer, world).items():
            local, first = _part(tensor)
            for part, place in zip(parts, places, strict=True):
                if name in place:
                    _copy_overlap(local, first, part.get_slice(name), place[name])
    return [StepLog(**line) for line in read_json(snapshot / STATE)["log"]]


def _copy_overlap(local: torch.Tensor, first: int, stored: Any, stored_first: int) -> None:
    if local.ndim == 0:
        local.copy_(stored[...])
        return
    low = max(first, stored_first)
    high = min(first + local.shape[0], stored_first + stored.get_shape()[0])
    if low < high:
        local[low - first : high - first].copy_(stored[low - stored_first : high - stored_first])


def _write_part(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """This process's part of every tensor; what every process has whole, the main process alone
    writes.
    """
    tensors, places = {}, {}
    for name, tensor in _tensors(model, optimizer, world).items():
        if isinstance(tensor, DTensor) or _of_process(name) or world.main:
            local, first = _part(tensor)
            if local.numel():
                tensors[name], places[name] = local.detach().cpu().contiguous(), first
    save_file(
        tensors,
        folder / f"part-{world.rank:05d}.safetensors",
        {PLACES: json.dumps(places, sort_keys=True)},
    )


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> dict[str, torch.Tensor]:
    """Everything that moves, by name: weights, and each one's moments."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        found[f"weight/{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            found |= {
                f"{key}{inner}/{name}": tensor
                for inner, tensor in _plain(value, world.rank).items()
            }
    return found


def _plain(value: torch.Tensor, rank: int) -> dict[str, torch.Tensor]:
    """A tensor itself, or the plain tensors that this process's part of a quantised one is made of."""
    local = value.to_local() if isinstance(value, DTensor) else value
    if not hasattr(local, "__tensor_flatten__"):
        return {"": value}
    names, _ = local.__tensor_flatten__()
    return {f".{name}{OF_PROCESS}{rank}": getattr(local, name) for name in names}


def _of_process(name: str) -> bool:
    """Whether only the process that wrote it can use it."""
    return OF_PROCESS in name.split("/")[0]


def _part(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What this process holds of a tensor, and the number of its first row there. FSDP2 shards
    along rows, as torch.chunk does.
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0
    size = -(-tensor.shape[0] // tensor.device_mesh.size())
    return tensor.to_local(), min(size * tensor.device_mesh.get_local_rank(), tensor.shape[0])


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer make its state: a step with gradients and a rate of zero, which moves
    nothing.
    """
    rate = float(optimizer.param_groups[0]["lr"])
    set_rate(optimizer, 0.0)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    set_rate(optimizer, rate)
