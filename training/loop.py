"""The training loop: rows in a fixed order, AdamW, one optimizer step per batch of tokens, a rate known from the step.

Rows are chosen by step index from a keyed permutation, never from a loader's state, so the order of the data is known
before training and is the same for every run. Documents in a row see each other (no document mask), as in the paper.
A batch is cut into micro-batches of whole rows; their gradients add up, at the cost of a longer step. The loss takes
the logits of one micro-batch at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional
from transformers import PreTrainedModel

from assets.progress import Progress
from assets.randomness import generator
from assets.stage import Config, UserError

Rows = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Row numbers, int64[n] -> token ids, int64[n, row_length]."""


class OptimizerConfig(Config):
    """How the weights move. The paper: AdamW, constant rate 2e-5, 4M tokens a batch."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine down to a tenth of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens in one optimizer step; rounded down to whole rows, at least one."""
    micro_batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens held in memory at once; changes memory and the order of sums, hence the last bits of the result."""


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One optimizer step: its number from 1, tokens seen after it, mean loss in nats per token, rate used."""

    step: int
    tokens: int
    loss: float
    learning_rate: float


def learning_rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * (0.1 + 0.45 * (1 + float(np.cos(np.pi * done))))


def row_order(count: int, needed: int, seed: int) -> NDArray[np.int64]:
    """`needed` row numbers out of `count`: each row once per epoch, every epoch in its own order. int64[needed]."""
    epochs = [generator(seed, "epoch", epoch).permutation(count) for epoch in range(-(-needed // count))]
    return np.concatenate(epochs)[:needed].astype(np.int64)


def train(model: PreTrainedModel, rows: Rows, count: int, row_length: int, steps: int, config: OptimizerConfig,
          seed: int, what: str) -> Iterator[StepLog]:
    """Train `model` in place for `steps` steps on `count` rows of `row_length` tokens, yielding a log line per step.

    Raises UserError when the loss is not a number, naming the step.
    """
    rows_per_step = max(config.batch_tokens // row_length, 1)
    rows_per_pass = max(config.micro_batch_tokens // row_length, 1)
    optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.learning_rate,
                                  betas=config.betas, fused=True)
    order = row_order(count, steps * rows_per_step, seed)
    progress = Progress(what, steps * rows_per_step * row_length, "tok")
    model.train()
    for step in range(steps):
        rate = learning_rate_at(config, step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rows(order[step * rows_per_step:(step + 1) * rows_per_step])
        loss = accumulate(model, torch.from_numpy(batch), rows_per_pass)
        if not np.isfinite(loss):
            raise UserError(f"{what}: the loss at step {step + 1} is {loss}. Lower the learning rate "
                            f"(now {config.learning_rate:g}) or lengthen the warm-up ({config.warmup_steps} steps).")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.add(batch.size, f"loss {loss:.3f}")
        yield StepLog(step=step + 1, tokens=(step + 1) * rows_per_step * row_length, loss=loss, learning_rate=rate)
    progress.close()


def next_token_loss(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy in nats of every token but the first of each row. rows: int64[n, length] -> fp32 scalar."""
    with torch.autocast(rows.device.type, torch.bfloat16):
        hidden = model.base_model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden)
    return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


def accumulate(model: PreTrainedModel, batch: torch.Tensor, rows_per_pass: int) -> float:
    """Gradients of the batch's mean loss, one micro-batch at a time; returns that mean."""
    targets = batch.shape[0] * (batch.shape[1] - 1)
    total = 0.0
    for micro_batch in batch.split(rows_per_pass):
        loss = next_token_loss(model, micro_batch) / targets
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += loss.item()
    return total


def _decay_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, vectors (norms, biases) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
