"""The processes of a training, and how the model is divided among them.

Training runs in one CPU process, or in the processes that `accelerate launch` started, on GPUs or
CPUs. How the model is divided is read from the environment that accelerate sets from a file in
training/accelerate/. So hardware is never part of an artefact's identity.

On one CPU process nothing is divided. Otherwise every parameter is sharded over all processes
(FSDP2), and rows are divided over groups of `sp` processes. Matmuls run in bf16; weights, and sums
over processes, are fp32. The order of the data depends on none of this.
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

LAUNCHED = "ACCELERATE_USE_FSDP"  # set by `accelerate launch` with a file of training/accelerate/
# How long processes wait for each other. Meanwhile the main one may hash whole snapshots: 156 GB at
# 250 MB/s take 10 minutes, which is NCCL's own limit.
WAIT = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class World:
    """All processes of a training, and this one's place among them."""

    device: torch.device
    """The device of this process."""
    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    hardware: Hardware = Hardware()
    """How rows and weights are divided."""
    sharded: bool = False
    """Whether the model is divided; on one CPU process it is not."""
    on_this_host: int = 1
    """Number of processes on this machine."""

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    @property
    def groups(self) -> int:
        """Number of groups of `sp` processes; each reads rows of its own."""
        return self.size // self.hardware.sp

    @property
    def group(self) -> int:
        """Number of this process's group."""
        return self.rank // self.hardware.sp

    @property
    def shard(self) -> int:
        """Number of this process's shard of its group's rows."""
        return self.rank % self.hardware.sp

    @cached_property
    def mesh(self) -> DeviceMesh:
        """All processes in a line."""
        return init_device_mesh(self.device.type, (self.size,), mesh_dim_names=("all",))

    @cached_property
    def row_group(self) -> dist.ProcessGroup | None:
        """The processes that share a row with this one; None if rows are not divided."""
        if self.hardware.sp == 1:
            return None
        return dist.new_subgroups(self.hardware.sp, timeout=WAIT)[0]

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes, the same on each. Every process must call it."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def wait(self) -> None:
        """Return when every process has called it."""
        if self.size > 1:
            dist.barrier()


def alone() -> World:
    """One process on the CPU, nothing divided, with the switches of the environment."""
    return World(
        device=torch.device("cpu"),
        hardware=Hardware.of_environment({SWITCHES.name: text_of(SWITCHES)}),
    )


def join_world() -> World:
    """The world that accelerate launched; one CPU process if it did not.

    Raises UserError if the processes can't be divided into groups.
    """
    if LAUNCHED not in os.environ:
        return alone()
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
    hardware = Hardware.of_environment(os.environ)
    if state.num_processes % hardware.sp:
        raise UserError(
            f"{state.num_processes} processes can't be divided into groups of "
            f"parallelism_config_sp_size = {hardware.sp}. Set num_processes to a multiple of it."
        )

    # accelerate makes no process group for a single process. FSDP needs one, for example to keep
    # the weights in the host's memory.
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
        # torchrun and accelerate set it; one machine where they do not.
        on_this_host=int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes)),
    )


def divide(loss: TokenLoss, world: World, bf16: bool, fp8: bool = False) -> TokenLoss:
    """Shard the model over the world, in place, with the weights of the main process.

    fp8: run linear layers in fp8. Raises UserError for a switch that can't be used here.
    """
    hardware = world.hardware
    # On a CPU the host's memory is the device's memory: there is nothing to offload to.
    has_host = world.device.type != "cpu"

    if fp8:
        to_fp8(loss.model, world.device)
    apply(loss.model, hardware.switches, world.device)
    if hardware.checkpoint_activations:
        offload = hardware.offload_activations and has_host
        checkpoint_activations(loss.model, hardware.keep_attention, offload)
    if not world.sharded:
        return loss

    whole: dict[str, torch.Tensor] = {}
    # Detached: sharding would move the parameters themselves to this process's device.
    if world.main and world.size > 1:
        whole = {name: part.detach() for name, part in loss.named_parameters()}
    in_bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    offload_weights = hardware.offload_weights and has_host
    options: dict[str, Any] = {
        "mesh": world.mesh,
        "reshard_after_forward": hardware.reshard,
        "mp_policy": in_bf16 if bf16 else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offload_weights else OffloadPolicy(),
    }

    # Each layer by itself, so that only the layers in use are gathered.
    layers = loss.model.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        fully_shard(layer, **options)
    # The rest, embedding and head, is needed at both ends of a step, so it stays gathered.
    fully_shard(loss, **options | {"reshard_after_forward": False})
    if world.size > 1:
        _scatter(whole, loss, world)
    return loss


def _scatter(whole: dict[str, torch.Tensor], loss: TokenLoss, world: World) -> None:
    """Scatter rank 0's weights. Every process gets its shard of each.

    One parameter at a time is removed from `whole`, so that the full model is never held twice.
    """
    with torch.no_grad():
        for name, part in loss.named_parameters():
            assert isinstance(part, DTensor)
            full = whole.pop(name) if world.main else torch.empty(part.shape, dtype=part.dtype)
            here = full.to(world.device)
            sharded = distribute_tensor(here, world.mesh, part.placements, src_data_rank=0)
            part.to_local().copy_(sharded.to_local())


def whole_weights(
    parameters: Iterable[tuple[str, torch.Tensor]], world: World
) -> dict[str, torch.Tensor]:
    """Name -> full tensor in the main process's host memory; empty on the other processes.

    Every process must call it.
    """
    found = {}
    for name, part in parameters:
        full = part.detach()
        if isinstance(full, DTensor):
            # Offloaded shards must be on the device to be gathered. It is still a DTensor then.
            full = full.to(world.device).full_tensor()  # type: ignore[attr-defined]
        if world.main:
            found[name] = full.cpu()
    return found
