"""Where training runs: one CPU process, or the processes that `accelerate launch` started, on GPUs
or CPUs.

How the model is divided is read from the environment that accelerate makes of a file in
training/accelerate/, so hardware never becomes part of an artefact's identity. Alone on a CPU
nothing is divided. Otherwise every parameter is sharded over all processes (FSDP2), and rows are
divided along groups of `sp` processes. The products are in bf16, the weights and the sums over
processes in fp32. The order of the data depends on neither.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from core.environment import SWITCHES, text_of
from core.errors import UserError
from training.hardware import Hardware
from training.loss import TokenLoss
from training.switches import apply, checkpoint_activations, to_fp8

LAUNCHED = "ACCELERATE_USE_FSDP"
WAIT = timedelta(hours=2)
"""How long processes wait for each other: the main one reads and hashes whole snapshots meanwhile
(156 GB at 250 MB/s take 10 minutes, which is NCCL's own limit).
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes at work, and this one's place among them."""

    device: torch.device
    rank: int = 0
    size: int = 1
    hardware: Hardware = Hardware()
    sharded: bool = False
    """Whether the model is divided; alone on a CPU it is not."""

    @property
    def main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def groups(self) -> int:
        """How many rows are read at once: one by each group of sp processes."""
        return self.size // self.hardware.sp

    @property
    def group(self) -> int:
        """Number of this process's group."""
        return self.rank // self.hardware.sp

    @property
    def stretch(self) -> int:
        """Which stretch of its group's row this process holds."""
        return self.rank % self.hardware.sp

    @cached_property
    def mesh(self) -> DeviceMesh:
        """All processes in a line."""
        return init_device_mesh(self.device.type, (self.size,), mesh_dim_names=("all",))

    @cached_property
    def row_group(self) -> dist.ProcessGroup | None:
        """The processes that share this one's row; None where rows are whole."""
        if self.hardware.sp == 1:
            return None
        return dist.new_subgroups(self.hardware.sp, timeout=WAIT)[0]

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes, the same on each."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def alone() -> World:
    """One process on the CPU, nothing divided, with the switches of the environment."""
    return World(
        device=torch.device("cpu"),
        hardware=Hardware.of_environment({SWITCHES.name: text_of(SWITCHES)}),
    )


def join_world() -> World:
    """The world that accelerate launched, or this process alone. Raises UserError where rows can't
    be divided so.
    """
    if LAUNCHED not in os.environ:
        return alone()
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
    hardware = Hardware.of_environment(os.environ)
    if state.num_processes % hardware.sp:
        raise UserError(
            f"{state.num_processes} processes can't be divided into groups of "
            "parallelism_config_sp_size = "
            f"{hardware.sp}. Set num_processes to a multiple of it."
        )
    # one process, whose weights may still be kept in the host's memory
    if not dist.is_initialized():
        dist.init_process_group(
            "cuda:nccl,cpu:gloo" if state.device.type == "cuda" else "gloo",
            rank=0,
            world_size=1,
            timeout=WAIT,
            store=dist.HashStore(),  # type: ignore[attr-defined]  # documented, not re-exported
        )
    device = state.device if state.device.type == "cuda" else torch.device("cpu")
    return World(
        device=device,
        rank=state.process_index,
        size=state.num_processes,
        hardware=hardware,
        sharded=True,
    )


def divide(loss: TokenLoss, world: World, bf16: bool, fp8: bool = False) -> TokenLoss:
    """The model, in place: sharded over the world, each layer by itself, with the weights that the
    main process has.

    fp8: linear layers multiply in fp8. Raises UserError for a switch that can't be used here.
    """
    hardware, has_host = world.hardware, world.device.type != "cpu"
    if fp8:
        to_fp8(loss.model, world.device)
    apply(loss.model, hardware.switches, world.device)
    if hardware.checkpoint_activations:
        checkpoint_activations(
            loss.model, hardware.keep_attention, hardware.offload_activations and has_host
        )
    if not world.sharded:
        return loss
    whole: dict[str, torch.Tensor] = {}
    # detached, or sharding would move the very tensors to this process's device
    if world.main and world.size > 1:
        whole = {name: part.detach() for name, part in loss.named_parameters()}
    in_bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options: dict[str, Any] = {
        "mesh": world.mesh,
        "reshard_after_forward": hardware.reshard,
        "mp_policy": in_bf16 if bf16 else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy()
        if hardware.offload_weights and has_host
        else OffloadPolicy(),
    }
    layers = loss.model.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(loss, **options | {"reshard_after_forward": False})
    if world.size > 1:
        _hand_out(whole, loss, world)
    return loss


def _hand_out(whole: dict[str, torch.Tensor], loss: TokenLoss, world: World) -> None:
    """Give every process its part of the main process's weights, one parameter at a time, taken out
    of `whole`.
    """
    with torch.no_grad():
        for name, part in loss.named_parameters():
            assert isinstance(part, DTensor)
            full = whole.pop(name) if world.main else torch.empty(part.shape, dtype=part.dtype)
            given = distribute_tensor(
                full.to(world.device), world.mesh, part.placements, src_data_rank=0
            )
            part.to_local().copy_(given.to_local())


def whole_weights(
    parameters: Iterable[tuple[str, torch.Tensor]], world: World
) -> dict[str, torch.Tensor]:
    """Every parameter, put together in the host's memory of the main process; empty elsewhere."""
    found = {}
    for name, part in parameters:
        full = part.detach()
        if isinstance(full, DTensor):
            # still a DTensor
            full = full.to(world.device).full_tensor()  # type: ignore[attr-defined]
        if world.main:
            found[name] = full.cpu()
    return found
