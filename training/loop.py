"""The training loop: rows in an order known before, one optimizer step per batch of tokens, a rate
known from the step.

Rows are chosen by step index from a keyed permutation, never from a loader's state, so the order of
the data is the same for every run, on any number of processes, stopped or not. A batch is cut into
passes of whole rows; their gradients add up, at the cost of a longer step. A step whose loss is not
a number, or jumps, is not taken.
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
from training.optimizer import clip, learning_rate_at, set_rate
from training.optimizer_config import OptimizerConfig
from training.parallel import World
from training.passes import counted, forward, shares
from training.snapshots import StepLog

REMEMBERED = 20
"""Losses that a spike is measured against."""


class Diverged(UserError):
    """The loss is no number any more, or has jumped."""


class Stopped(Exception):
    """Somebody asked to stop; the weights are those after the last whole step."""


@dataclass(kw_only=True)
class Patience:
    """Whether somebody asked to stop: SIGTERM, from a scheduler, Dagster or a person."""

    stop: bool = False

    def listen(self) -> None:
        """Heed SIGTERM from now on, by stopping after the pass at work."""
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop = True


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train on and how, whatever the hardware."""

    what: str
    rows: Rows
    steps: int
    optimizer: OptimizerConfig
    seed: int
    document_mask: bool = False
    bf16: bool = True
    fp8: bool = False
    """Whether linear layers multiply in fp8."""
    patience: Patience = field(default_factory=Patience)

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimizer step."""
        return max(self.optimizer.batch_tokens // self.rows.length, 1)

    @property
    def rows_per_pass(self) -> int:
        """Rows that a group of processes holds at once."""
        return max(self.optimizer.micro_batch_tokens // self.rows.length, 1)


def train(
    loss: TokenLoss,
    optimizer: torch.optim.Optimizer,
    task: Task,
    world: World,
    before: Sequence[StepLog] = (),
) -> Iterator[StepLog]:
    """Train in place from where the log `before` ends, yielding a line for each step after it was
    taken.

    Raises Diverged before a step whose loss or gradient is not a number or whose loss jumps, and
    Stopped between two passes once asked to; in both cases the weights are those after the step
    before.
    """
    order = row_order(task.rows.count, task.steps * task.rows_per_step, task.seed)
    tokens_per_step = task.rows_per_step * task.rows.length
    progress = (
        Progress(task.what, (task.steps - len(before)) * tokens_per_step, "tok")
        if world.main
        else None
    )
    losses = [line.loss for line in before][-REMEMBERED:]
    begun = time.monotonic()
    loss.train()
    for step in range(len(before), task.steps):
        rate = learning_rate_at(task.optimizer, step, task.steps)
        set_rate(optimizer, rate)
        value = accumulate(
            loss, order[step * task.rows_per_step : (step + 1) * task.rows_per_step], task, world
        )
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
            speed = done / (time.monotonic() - begun)
            used = _mfu(speed, loss, task, world)
            progress.add(tokens_per_step, step=step + 1, steps=task.steps, loss=value, **used)
        yield line
    if progress is not None:
        progress.close()


def accumulate(loss: TokenLoss, numbers: np.ndarray, task: Task, world: World) -> float:
    """Gradients of the mean loss over the rows of these numbers, a pass at a time; returns that
    mean.

    Gradients are first those of the sum over the tokens there would be without document masks, and
    are set right at the end, for only then is it known how many were predicted.
    """
    nominal = len(numbers) * (task.rows.length - 1)
    total, predicted = 0.0, 0
    for mine, counts in shares(numbers, task.rows_per_pass, world):
        batch = task.rows.take(mine)
        value = forward(loss, batch, world, task.document_mask, task.bf16, None if counts else ())
        # torch leaves it untyped
        (value * (world.size / nominal)).backward()  # type: ignore[no-untyped-call]
        total += value.item()
        predicted += (
            counted(batch.starts, task.rows.length, task.document_mask)
            if counts and not world.stretch
            else 0
        )
        _, stop = world.sum([0.0, float(task.patience.stop)])
        if stop:
            loss.zero_grad(set_to_none=True)
            raise Stopped
    # a whole number
    total, predicted = world.sum([total, float(predicted)])  # type: ignore[assignment]
    if predicted != nominal:
        for part in loss.parameters():
            if part.grad is not None:
                part.grad.mul_(nominal / max(predicted, 1))
    return total / max(predicted, 1)


def _check(value: float, norm: float, losses: Sequence[float], step: int, task: Task) -> None:
    advice = (
        f"Lower optimizer.learning_rate (now {task.optimizer.learning_rate:g}) or raise "
        "optimizer.warmup_steps "
        f"(now {task.optimizer.warmup_steps})."
    )
    if not (np.isfinite(value) and np.isfinite(norm)):
        raise Diverged(
            f"{task.what}: at step {step + 1} the loss is {value} and the gradient's norm {norm}. "
            f"{advice}"
        )
    limit = task.optimizer.spike_nats
    if (
        limit is not None
        and len(losses) == REMEMBERED
        and value > statistics.median(losses) + limit
    ):
        raise Diverged(
            f"{task.what}: at step {step + 1} the loss jumped to {value:.3f} from about "
            f"{statistics.median(losses):.3f}, more than optimizer.spike_nats = {limit:g}. {advice}"
        )


def _mfu(tokens_per_second: float, loss: TokenLoss, task: Task, world: World) -> dict[str, float]:
    if world.device.type != "cuda":
        return {}
    gpu = named_gpu(torch.cuda.get_device_name())
    flops = shape_of(loss.model.config).training_flops(task.rows.length)
    return {"MFU": tokens_per_second * flops / (PEAK_BF16[gpu] * world.size)} if gpu else {}
