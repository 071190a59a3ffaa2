"""Every tensor of a training by a name: the weights, and the optimizer's moments of each weight.

A snapshot stores the tensors under these names, where `model.norm.weight` is a parameter:

| name | tensor |
|---|---|
| `weight/model.norm.weight` | the weight |
| `exp_avg/model.norm.weight` | its first moment; `step` and `exp_avg_sq` likewise |
| `exp_avg.codes@3/model.norm.weight` | the codes of an 8-bit moment of process 3 |

A sharded tensor has one name on every process, and each process stores its rows. An 8-bit moment
can't be cut into rows like that: every process quantises its own shard in blocks, and the blocks
begin elsewhere under another number of processes. So its name carries the number of its process
after the mark `@`.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.parallel import World

OF_PROCESS = "@"  # before the number of the only process that can use the tensor


def named_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> dict[str, torch.Tensor]:
    """Name -> tensor, of all that a step changes.

    The tensors are the live ones and no copies: to fill them is to change the training.
    """
    found: dict[str, torch.Tensor] = {}
    for parameter_name, parameter in model.named_parameters():
        found[f"weight/{parameter_name}"] = parameter
        for moment, value in optimizer.state.get(parameter, {}).items():
            for suffix, tensor in _plain_parts(value, world.rank).items():
                found[f"{moment}{suffix}/{parameter_name}"] = tensor
    return found


def _plain_parts(value: torch.Tensor, rank: int) -> dict[str, torch.Tensor]:
    """Suffix of the name -> tensor: the value itself, or the plain tensors of a quantised shard."""
    local = value.to_local() if isinstance(value, DTensor) else value
    # torch's protocol for tensors that are made of others; torchao's 8-bit moments follow it.
    if not hasattr(local, "__tensor_flatten__"):
        return {"": value}
    names, _ = local.__tensor_flatten__()
    return {f".{name}{OF_PROCESS}{rank}": getattr(local, name) for name in names}


def is_of_one_process(name: str) -> bool:
    """Whether only the process that stored this tensor can use it."""
    return OF_PROCESS in name.split("/")[0]


def local_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """This process's rows of a tensor, and the number of the first one in the whole tensor.

    [rows, ...] -> [local rows, ...]. A tensor that is not sharded has all rows here.
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0
    # FSDP2 shards along dimension 0 as torch.chunk does: equal parts rounded up, so the last
    # processes may hold fewer rows or none.
    rows_each = -(-tensor.shape[0] // tensor.device_mesh.size())
    first = min(rows_each * tensor.device_mesh.get_local_rank(), tensor.shape[0])
    return tensor.to_local(), first
