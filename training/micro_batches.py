"""From rows to a loss: each process runs its rows, or its shard of them, one micro-batch at a time.

A step's rows are given to the groups of processes in order, `micro_batch_tokens` at a time. So a
batch is the same rows under any number of processes, and the sum over all processes is its loss.
Sharded weights need every process. So a group that gets no row in the last micro-batch runs a row
that does not count: that is the cost.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError
from training.attention import documents
from training.batches import Batch
from training.loss import IGNORED, TokenLoss, next_tokens
from training.parallel import World


def own_rows(
    numbers: NDArray[np.int64], rows_per_micro_batch: int, world: World
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """For each micro-batch: the rows that this process runs, int64[n], and whether they count.

    numbers: int64[rows], the rows of one step.
    """
    at_once = rows_per_micro_batch * world.groups
    first = world.group * rows_per_micro_batch
    for start in range(0, len(numbers), at_once):
        of_all = numbers[start : start + at_once]
        mine = of_all[first : first + rows_per_micro_batch]
        if len(mine):
            yield mine, True
        else:
            yield numbers[:1], False


def forward(
    loss: TokenLoss,
    batch: Batch,
    world: World,
    document_mask: bool,
    bf16: bool,
    places: Sequence[int] | None = None,
) -> torch.Tensor:
    """The summed loss of this process's shard of the rows, in nats: fp32 scalar.

    places: the positions of a row at which the loss counts; None: all.
    """
    ids = torch.from_numpy(batch.ids)
    starts = [torch.from_numpy(start) for start in batch.starts]
    targets = next_tokens(ids, starts if document_mask else None)
    if places is not None:
        counted = torch.zeros(targets.shape[1], dtype=torch.bool)
        counted[list(places)] = True
        targets = targets.where(counted, IGNORED)

    attention: dict[str, Any] = {}
    positions = torch.arange(ids.shape[1]).unsqueeze(0)
    if document_mask:
        # Masked by document edges, so all rows become one long row.
        attention, positions = documents(starts, ids.shape[1], world.device)
        ids, targets = ids.reshape(1, -1), targets.reshape(1, -1)

    shard = _shard(ids.shape[1], world)
    parts = []
    for part in (ids, targets, positions):
        parts.append(part[:, shard].to(world.device, non_blocking=True))
    # A sharded model casts its weights itself.
    with torch.autocast(world.device.type, torch.bfloat16, enabled=bf16 and not world.sharded):
        total: torch.Tensor = loss(*parts, attention)
    return total


def counted(starts: Sequence[NDArray[np.int64]], row_length: int, document_mask: bool) -> int:
    """The number of tokens of these rows that are predicted.

    starts: for each row, int64[documents], the positions where its documents begin.
    """
    # The first token of a row has nothing before it; nor has that of a masked document.
    inner = sum(int((start > 0).sum()) for start in starts) if document_mask else 0
    return len(starts) * (row_length - 1) - inner


def _shard(length: int, world: World) -> slice:
    """The positions of a row that this process holds. Raises UserError for unequal shards."""
    if length % world.hardware.sp:
        raise UserError(
            f"rows of {length:,} tokens can't be divided into {world.hardware.sp} equal shards. "
            "Choose packed_shards.chunk_length as a multiple of parallelism_config_sp_size."
        )
    size = length // world.hardware.sp
    return slice(world.shard * size, (world.shard + 1) * size)
