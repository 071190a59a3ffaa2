"""From rows to a loss: each process takes its rows, or its stretch of them, and all sums add up to
the batch's.

A step's rows are dealt out to the groups of processes in order, `micro_batch_tokens` at a time;
groups that get none in the last pass run a row that counts nothing, for sharded weights need every
process. So a batch is the same rows whatever the number of processes.
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


def shares(
    numbers: NDArray[np.int64], rows_per_pass: int, world: World
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """The row numbers that this process runs in each pass over a step's `numbers`, and whether they
    count.
    """
    at_once = rows_per_pass * world.groups
    for start in range(0, len(numbers), at_once):
        mine = numbers[start : start + at_once][
            world.group * rows_per_pass : (world.group + 1) * rows_per_pass
        ]
        yield (mine, True) if len(mine) else (numbers[:1], False)


def forward(
    loss: TokenLoss,
    batch: Batch,
    world: World,
    document_mask: bool,
    bf16: bool,
    places: Sequence[int] | None = None,
) -> torch.Tensor:
    """The summed loss of this process's stretch of the rows, fp32 scalar. places: where the loss
    counts; None: all.
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
        attention, positions = documents(starts, ids.shape[1], world.device)
        ids, targets = ids.reshape(1, -1), targets.reshape(1, -1)
    stretch = _stretch(ids.shape[1], world)
    parts = [
        part[:, stretch].to(world.device, non_blocking=True) for part in (ids, targets, positions)
    ]
    with torch.autocast(world.device.type, torch.bfloat16, enabled=bf16 and not world.sharded):
        total: torch.Tensor = loss(*parts, attention)
    return total


def counted(starts: Sequence[NDArray[np.int64]], row_length: int, document_mask: bool) -> int:
    """How many tokens of these rows are predicted."""
    inner = sum(int((start > 0).sum()) for start in starts) if document_mask else 0
    return len(starts) * (row_length - 1) - inner


def _stretch(length: int, world: World) -> slice:
    if length % world.hardware.sp:
        raise UserError(
            f"rows of {length:,} tokens can't be divided into {world.hardware.sp} equal stretches. "
            "Choose "
            "packed_shards.chunk_length as a multiple of parallelism_config_sp_size."
        )
    size = length // world.hardware.sp
    return slice(world.stretch * size, (world.stretch + 1) * size)
