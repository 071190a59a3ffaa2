"""How fast training is, and how much memory it takes: ratios measured side by side, each part in a
process of its own.

    python -m benchmarks.training loss      the chunked loss against plain cross-entropy: time,
                                            memory, difference
    python -m benchmarks.training trainer   this loop against transformers.Trainer, with the same
                                            model, rows and optimizer
    python -m benchmarks.training lengths   one device, longer and longer rows: tokens/s, MFU, peak
                                            memory

`lengths` trains a LLaMA-2-7B of random weights on one GPU, by the path that the stage takes (FSDP2,
chunked loss, activation checkpointing with offload). Without a GPU it trains a toy on the CPU, to
check that it runs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training import attention
from training.batches import RowsInMemory
from training.flops import shape_of
from training.loss import TokenLoss, summed_loss
from training.memory import GIB
from training.model import make_reproducible, shell_of
from training.optimizer import make_optimizer
from training.optimizer_config import OptimizerConfig
from training.parallel import LAUNCHED, alone, divide, join_world
from training.trainer import Task, train

ROOT = Path(__file__).parents[1]
PUBLISHED = "torchtitan, 8B at 128K, fp8, 8 x H100: 1,071 tokens/s on each"
LENGTHS = (4096, 16_384, 32_768, 81_920, 131_072)
TOY_LENGTHS = (512, 1024, 2048)
# 11 million parameters with a vocabulary of 32,000: a step takes seconds on one thread.
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def peak_gib() -> float:
    """The peak resident memory of this process, in GiB."""
    # Linux gives KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def one_loss(
    how: str,
    tokens: int,
    width: int,
    vocabulary: int,
    repeats: int = 3,
) -> dict[str, float]:
    """Forward and backward pass of the loss alone, in bf16.

    how: "plain" or "chunked". Returns loss, norm of a gradient, seconds, and GiB above the inputs.
    """
    make_reproducible(0)
    hidden = torch.randn(tokens, width).bfloat16().requires_grad_()
    # So scaled, the logits have a variance of one.
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,))

    before, spent = peak_gib(), []
    for _ in range(repeats):
        start = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16):
            if how == "plain":
                logits = torch.nn.functional.linear(hidden, weight).float()
                loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            else:
                loss = summed_loss(hidden, weight, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        spent.append(time.monotonic() - start)

    assert weight.grad is not None
    return {
        "loss": loss.item() / tokens,
        "gradient": float(weight.grad.norm()),
        "seconds": min(spent),
        "GiB": peak_gib() - before,
    }


def small_model(length: int) -> LlamaForCausalLM:
    """A Llama of 11 million parameters, with a vocabulary of 32,000."""
    make_reproducible(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000, max_position_embeddings=length, tie_word_embeddings=True, **SMALL
        )
    )


def one_training(how: str, length: int, rows_per_step: int, steps: int) -> dict[str, float]:
    """Seconds a step after the first, the last loss and peak memory.

    how: "Trainer" or "ours". Both train on the same rows in the same order.
    """
    ids = np.random.default_rng(0).integers(0, 32_000, (rows_per_step * steps, length))
    model = small_model(length)
    train_with = with_trainer if how == "Trainer" else with_ours
    times, losses = train_with(model, ids, rows_per_step, steps)
    # The first step allocates, and is left out.
    return {
        "seconds a step": float(np.median(np.diff(times)[1:])),
        "last loss": losses[-1],
        "GiB": peak_gib(),
    }


def with_ours(
    model: LlamaForCausalLM, ids: np.ndarray, rows_per_step: int, steps: int
) -> tuple[list[float], list[float]]:
    """This project's loop, one row a micro-batch. Returns times, of start and steps, and losses."""
    attention.register(alone().device, None)
    model.set_attn_implementation(attention.NAME)
    length = ids.shape[1]
    # The betas and the decay of transformers.Trainer.
    optimizer = OptimizerConfig(
        learning_rate=1e-4,
        batch_tokens=rows_per_step * length,
        micro_batch_tokens=length,
        betas=(0.9, 0.999),
        weight_decay=0.0,
    )
    task = Task(
        what="ours",
        rows=RowsInMemory(ids=ids),
        steps=steps,
        optimizer=optimizer,
        seed=0,
    )
    loss = divide(TokenLoss(model), alone(), True)

    times, losses = [time.monotonic()], []
    for line in train(loss, make_optimizer(loss, optimizer), task, alone()):
        times.append(time.monotonic())
        losses.append(line.loss)
    return times, losses


def with_trainer(
    model: LlamaForCausalLM, ids: np.ndarray, rows_per_step: int, steps: int
) -> tuple[list[float], list[float]]:
    """transformers.Trainer, one row a micro-batch, with the rows in the order of this loop."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from training.batches import row_order

    rows = []
    for number in row_order(len(ids), len(ids), 0):
        row = torch.from_numpy(ids[number])
        # transformers shifts the labels itself.
        rows.append({"input_ids": row, "labels": row})
    times, losses = [time.monotonic()], []

    class Clock(TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            times.append(time.monotonic())

        def on_log(
            self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **more: Any
        ) -> None:
            # The last line is a summary without a loss.
            if "loss" in logs:
                losses.append(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=rows_per_step,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            bf16=True,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            optim="adamw_torch_fused",
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            callbacks=[Clock()],
        ).train()
    return times, losses


def one_length(length: int, steps: int = 3) -> dict[str, float | str]:
    """A few steps of one row each at that length, on this device, as in the stage."""
    gpu = torch.cuda.is_available()
    os.environ |= {
        LAUNCHED: "true",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
        "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": str(gpu).lower(),
    }
    world = join_world()
    make_reproducible(0)

    config = read_llama(length) if gpu else toy_llama(length)
    with world.device:
        model = shell_of(config)
        with torch.no_grad():
            for part in model.parameters():
                # Matrices are random; norms are one, as at the start of a pretraining.
                part.normal_(0, 0.02) if part.ndim > 1 else part.fill_(1)

    words = attention.register(world.device, None)
    model.set_attn_implementation(attention.NAME)
    optimizer = OptimizerConfig(
        learning_rate=1e-5,
        batch_tokens=length,
        micro_batch_tokens=length,
    )
    ids = np.random.default_rng(0).integers(0, 32_000, (steps, length))
    task = Task(
        what=f"{length:,}", rows=RowsInMemory(ids=ids), steps=steps, optimizer=optimizer, seed=0
    )
    loss = divide(TokenLoss(model), world, True)

    times = [time.monotonic()]
    for _ in train(loss, make_optimizer(loss, optimizer), task, world):
        # Kernels run on after the call returns.
        if gpu:
            torch.cuda.synchronize()
        times.append(time.monotonic())

    speed = length / min(np.diff(times)[1:])
    flops = shape_of(config).training_flops(length)
    peak = torch.cuda.max_memory_allocated() / GIB if gpu else peak_gib()
    return {
        "length": length,
        "tokens/s": speed,
        "TFLOP/s": speed * flops / 1e12,
        "GiB": peak,
        "attention": words,
    }


def read_llama(length: int) -> LlamaConfig:
    """The config of LLaMA-2-7B with that context."""
    config = LlamaConfig.from_json_file(ROOT / "models/llama-2-7b.json")
    config.max_position_embeddings = length
    return config


def toy_llama(length: int) -> LlamaConfig:
    """The config of a small Llama with that context."""
    return LlamaConfig(
        vocab_size=32_000,
        max_position_embeddings=length,
        **SMALL,
    )


def ceiling() -> dict[str, float]:
    """TFLOP/s of a large matrix product in bf16 on this device."""
    # Large enough that memory and launches do not limit it.
    size, device = (16_384, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    make_reproducible(0)
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    best = float("inf")
    for _ in range(10):
        start = time.monotonic()
        one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - start)

    # Two for each of size^3 multiplications: a product and a sum.
    return {"TFLOP/s": 2 * size**3 / best / 1e12}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    part.__name__: part for part in (one_loss, one_training, one_length, ceiling)
}


def apart(part: Callable[..., dict[str, Any]], *arguments: str | int) -> dict[str, Any]:
    """The result of `part` in a process of its own, or {"failed": the last line on stderr}.

    In a process of its own, because peak memory never falls within one.
    """
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "part", part.__name__, json.dumps(arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if run.returncode:
        return {"failed": run.stderr.strip().splitlines()[-1][:100]}
    return json.loads(run.stdout.splitlines()[-1])


def compare_losses() -> None:
    """Print time and memory of the chunked loss as ratios to plain cross-entropy."""
    rows = []
    for tokens in (2048, 8192, 16_384):
        plain, ours = (apart(one_loss, how, tokens, 256, 32_000) for how in ("plain", "chunked"))
        rows.append(
            {
                "tokens": tokens,
                "plain GiB": plain["GiB"],
                "chunked GiB": ours["GiB"],
                "memory ratio": ours["GiB"] / plain["GiB"],
                "time ratio": ours["seconds"] / plain["seconds"],
                "loss differs by": abs(ours["loss"] / plain["loss"] - 1),
                "gradient by": abs(ours["gradient"] / plain["gradient"] - 1),
            }
        )
    print(
        "loss and its gradients, width 256, vocabulary 32,000, bf16, one thread; "
        "ratios: chunked to plain"
    )
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def compare_trainers(repeats: int = 3) -> None:
    """Print seconds a step and memory of this loop as ratios to transformers.Trainer."""
    rows = []
    for length in (512, 2048, 8192):
        # A step of the longest rows takes half a minute.
        steps = 6 if length < 8192 else 4
        turns = repeats if length < 8192 else 1

        # In turns, so that other work on the machine slows both; then the best of each.
        theirs, own = [], []
        for _ in range(turns):
            theirs.append(
                apart(
                    one_training,
                    "Trainer",
                    length,
                    2,
                    steps,
                )
            )
            own.append(
                apart(
                    one_training,
                    "ours",
                    length,
                    2,
                    steps,
                )
            )
        trainer = min(theirs, key=lambda result: result["seconds a step"])
        ours = min(own, key=lambda result: result["seconds a step"])

        rows.append(
            {
                "row length": length,
                "Trainer, s a step": trainer["seconds a step"],
                "ours, s a step": ours["seconds a step"],
                "time ratio": ours["seconds a step"] / trainer["seconds a step"],
                "memory ratio": ours["GiB"] / trainer["GiB"],
                "last losses": f"{ours['last loss']:.4f} {trainer['last loss']:.4f}",
            }
        )
    print(
        "a Llama of 11M parameters, 2 rows a step, bf16 products, one thread; "
        "ratios: ours to transformers.Trainer"
    )
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def measure_lengths(lengths: Sequence[int]) -> None:
    """Print a line for each length, or why it failed, e.g. out of memory."""
    gpu = torch.cuda.is_available()
    best = apart(ceiling)["TFLOP/s"]
    where = torch.cuda.get_device_name() if gpu else "CPU, one thread, a toy"
    print(f"{where}: {best:,.3g} TFLOP/s in a large matrix product, bf16")

    for length in lengths or (LENGTHS if gpu else TOY_LENGTHS):
        found = apart(one_length, length)
        if "failed" in found:
            print(f"{length:>9,}  {found['failed']}", flush=True)
            continue
        mfu = found["TFLOP/s"] / best
        print(
            f"{length:>9,}  {found['tokens/s']:>9,.0f} tokens/s  MFU {mfu:>5.1%} of that  "
            f"peak {found['GiB']:>6.1f} GiB  {found['attention']}",
            flush=True,
        )
    print(f"published: {PUBLISHED}")


def main() -> None:
    """Run the requested comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["loss", "trainer", "lengths", "part"])
    parser.add_argument("more", nargs="*")
    given = parser.parse_args()

    # "part" is how `apart` starts this module again.
    if given.what == "part":
        print(json.dumps(PARTS[given.more[0]](*json.loads(given.more[1]))))
    elif given.what == "lengths":
        measure_lengths([int(length) for length in given.more])
    else:
        {"loss": compare_losses, "trainer": compare_trainers}[given.what]()


if __name__ == "__main__":
    main()
