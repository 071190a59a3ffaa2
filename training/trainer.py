"""The training loop: one optimizer step per batch of rows, in an order that is fixed in advance.

The rows of a step follow from its number and a keyed permutation, never from the state of a loader.
So the order of the data is the same in every run: on any number of processes, resumed or not. The
learning rate follows from the step too. A batch is cut into micro-batches of whole rows, whose
gradients are summed; that fits any batch into memory, at the cost of a longer step. A step whose
loss is NaN, or jumps, is not taken.
"""

import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
import torch

from core.errors import UserError
from core.progress import Progress
from training.batches import Rows, row_order
from training.flops import PEAK_BF16, named_gpu, shape_of
from training.loss import TokenLoss
from training.micro_batches import counted, forward, own_rows
from training.optimizer import clip, learning_rate_at, set_rate
from training.optimizer_config import OptimizerConfig
from training.parallel import World
from training.snapshots import StepLog

REMEMBERED = 20  # losses whose median a spike is compared with: few enough to follow the trend


class Diverged(UserError):
    """The loss is NaN or infinite, or has jumped."""


class Stopped(Exception):
    """SIGTERM was received. The weights are those after the last whole step."""


@dataclass(kw_only=True)
class Patience:
    """Whether SIGTERM was received, from a scheduler, Dagster or a person."""

    stop: bool = False

    def listen(self) -> None:
        """From now on, SIGTERM stops the training after the current micro-batch."""
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM. Only a flag is set, because a step must not end halfway."""
        self.stop = True


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train on and how, on any hardware."""

    what: str
    """A name for the log."""
    rows: Rows
    """Where the rows of each step are read from."""
    steps: int
    """Optimizer steps of the whole training."""
    optimizer: OptimizerConfig
    seed: int
    """Of the order of the rows."""
    document_mask: bool = False
    """Whether attention stays inside each document."""
    bf16: bool = True
    """Whether matmuls run in bf16; else in fp32."""
    fp8: bool = False
    """Whether linear layers run in fp8."""
    patience: Patience = field(default_factory=Patience)
    """Whether to stop after the current micro-batch."""

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimizer step."""
        return max(self.optimizer.batch_tokens // self.rows.length, 1)

    @property
    def rows_per_micro_batch(self) -> int:
        """Rows of a micro-batch: what a group of processes holds at once."""
        return max(self.optimizer.micro_batch_tokens // self.rows.length, 1)


def train(
    loss: TokenLoss,
    optimizer: torch.optim.Optimizer,
    task: Task,
    world: World,
    before: Sequence[StepLog] = (),
) -> Iterator[StepLog]:
    """Train in place, from the step after the log `before` on. Yields a line after each step.

    Every process of the world must iterate it. The model is changed in place. Raises Diverged
    before a step whose loss or gradient is NaN or infinite, or whose loss jumps; Stopped between
    two micro-batches after SIGTERM. The weights are then those after the last whole step.
    """
    order = row_order(task.rows.count, task.steps * task.rows_per_step, task.seed)
    tokens_per_step = task.rows_per_step * task.rows.length
    progress = None
    if world.main:
        progress = Progress(task.what, (task.steps - len(before)) * tokens_per_step, "tok")
    losses = [line.loss for line in before][-REMEMBERED:]
    started = time.monotonic()

    loss.train()
    for step in range(len(before), task.steps):
        rate = learning_rate_at(task.optimizer, step, task.steps)
        set_rate(optimizer, rate)
        numbers = order[step * task.rows_per_step : (step + 1) * task.rows_per_step]
        value = accumulate(loss, numbers, task, world)
        norm = clip(loss, task.optimizer.clip_norm, world)

        _check(value, norm, losses, step, task)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        losses = [*losses, value][-REMEMBERED:]
        line = StepLog(
            step=step + 1,
            tokens=(step + 1) * tokens_per_step,
            loss=value,
            learning_rate=rate,
            gradient_norm=norm,
        )
        if progress is not None:
            done = (step + 1 - len(before)) * tokens_per_step
            speed = done / (time.monotonic() - started)
            mfu = _mfu(speed, loss, task, world)
            progress.add(tokens_per_step, step=step + 1, steps=task.steps, loss=value, **mfu)
        yield line

    if progress is not None:
        progress.close()


def accumulate(loss: TokenLoss, numbers: np.ndarray, task: Task, world: World) -> float:
    """Compute the gradients of the mean loss over some rows; returns that mean, in nats per token.

    numbers: int64[n], the rows of one step. One micro-batch is processed at a time.
    """
    # The mean is over the predicted tokens. A document mask leaves some tokens unpredicted, and
    # their number is known only at the end. So the gradients are first divided by the number
    # without a mask, and corrected at the end.
    nominal = len(numbers) * (task.rows.length - 1)
    total, predicted = 0.0, 0
    for mine, counts in own_rows(numbers, task.rows_per_micro_batch, world):
        batch = task.rows.take(mine)
        value = forward(loss, batch, world, task.document_mask, task.bf16, None if counts else ())
        # FSDP averages gradients over the processes; here they must be summed.
        # torch leaves `backward` untyped.
        (value * (world.size / nominal)).backward()  # type: ignore[no-untyped-call]
        total += value.item()
        # A row that is divided over several processes is counted by the first of them.
        if counts and world.shard == 0:
            predicted += counted(batch.starts, task.rows.length, task.document_mask)

        # SIGTERM may reach only some processes. All must stop at the same micro-batch.
        _, stop = world.sum([0.0, float(task.patience.stop)])
        if stop:
            loss.zero_grad(set_to_none=True)
            raise Stopped

    # `predicted` is a whole number, which float64 holds exactly.
    total, predicted = world.sum([total, float(predicted)])  # type: ignore[assignment]
    if predicted != nominal:
        for part in loss.parameters():
            if part.grad is not None:
                part.grad.mul_(nominal / max(predicted, 1))
    return total / max(predicted, 1)


def _check(value: float, norm: float, losses: Sequence[float], step: int, task: Task) -> None:
    """Raise Diverged if the step would spoil the weights.

    value: the step's loss. norm: its gradient's. losses: of the steps before, the newest last.
    """
    where = f"{task.what}: at step {step + 1}"
    advice = (
        f"Lower optimizer.learning_rate (now {task.optimizer.learning_rate:g}) or raise "
        f"optimizer.warmup_steps (now {task.optimizer.warmup_steps})."
    )
    if not (np.isfinite(value) and np.isfinite(norm)):
        raise Diverged(f"{where} the loss is {value} and the gradient's norm {norm}. {advice}")

    # Before REMEMBERED steps the loss still falls fast, and its median means little.
    limit = task.optimizer.spike_nats
    if limit is None or len(losses) < REMEMBERED:
        return
    usual = statistics.median(losses)
    if value > usual + limit:
        raise Diverged(
            f"{where} the loss jumped to {value:.3f} from about {usual:.3f}, more than "
            f"optimizer.spike_nats = {limit:g}. {advice}"
        )


def _mfu(tokens_per_second: float, loss: TokenLoss, task: Task, world: World) -> dict[str, float]:
    """{"MFU": share of the peak}; empty on a CPU or a GPU of unknown peak."""
    if world.device.type != "cuda":
        return {}
    gpu = named_gpu(torch.cuda.get_device_name())
    if gpu is None:
        return {}
    flops = shape_of(loss.model.config).training_flops(task.rows.length)
    return {"MFU": tokens_per_second * flops / (PEAK_BF16[gpu] * world.size)}
