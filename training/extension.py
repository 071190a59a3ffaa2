"""Continual pretraining of one model, by any number of processes.

`accelerate launch` starts this module on every device; on one CPU process the stage calls `extend`.
The training starts from the base, or resumes from its newest valid snapshot. The finished model
stays in the scratch folder (training/scratch.py), and the stage copies it from there.

`snapshots` are models that are kept on the way. One that is requested after the training is made
from the newest state before it, and refused if no such state is left.

NEEDLEWORK_SNAPSHOT_SECONDS sets the time between two snapshots (15 minutes). It decides how much
work a kill costs, and not the result.
"""

import ctypes
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from assets.origin import note
from core.command import plain_errors
from core.environment import SNAPSHOT_SECONDS, number_of
from core.errors import UserError
from core.sealed import RECORD, is_whole, sealed, write_json
from training import attention, correctness_probe, host_memory, resume, snapshots
from training.batches import PackedRows, open_rows
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.curves import write_log
from training.flops import shape_of
from training.loss import TokenLoss
from training.memory import GIB, USABLE, Load, on_device
from training.model import load_model, make_reproducible, read_config, save_model, shell_of
from training.optimizer import make_optimizer
from training.parallel import World, alone, divide, join_world, whole_weights
from training.scratch import (
    DECIDES,
    ORIGIN,
    decides,
    model_params,
    scratch_folder,
    step_tokens,
    steps_of,
)
from training.trainer import Diverged, Patience, Stopped, Task, train

PR_SET_PDEATHSIG = 1  # Linux: <sys/prctl.h>
STOPPED = 143  # exit status after SIGTERM, as a shell gives it: 128 + 15


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training in progress, as this process sees it."""

    name: str
    config: CheckpointConfig
    """The section `checkpoint`."""
    chosen: ModelConfig
    """The model's entry in `checkpoint.models`."""
    scratch: Path
    """The folder of its snapshots."""
    world: World
    task: Task
    model_config: PretrainedConfig
    """The base's config with the new rotary embedding and context."""
    loss: TokenLoss
    """The model, divided over the world."""
    optimizer: torch.optim.Optimizer
    log: list[snapshots.StepLog]
    """One line for each step that was taken."""

    def say(self, text: str) -> None:
        """Print a line of the log, once for all processes."""
        _say(self.world, f"{self.name}: {text}")


def extend(name: str, world: World) -> Path:
    """Train the model `name` in its scratch folder, unless it is finished; returns its folder.

    Raises UserError; Diverged, which names the last good snapshot; Stopped after a snapshot.
    """
    config, chosen = model_params(name)
    scratch = scratch_folder(name, config, chosen)
    seconds = number_of(SNAPSHOT_SECONDS)
    rows = open_rows(chosen.source)
    wanted = _missing(name, scratch, config, chosen, rows)
    if not wanted and is_whole(scratch / "final"):
        _note_origin(scratch, steps_of(config, rows), world)
        return scratch / "final"

    run = _prepare(name, config, chosen, rows, world, before=min(wanted, default=None))
    if world.main:
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(scratch / DECIDES, decides(name, config, chosen))
    _note_origin(scratch, len(run.log), world)
    run.say(correctness_probe.check_sight(run.loss, world, run.task.document_mask, run.task.bf16))

    try:
        _train(run, seconds)
    except Stopped:
        _leave_snapshot(run)
        raise
    except Diverged as error:
        raise _with_last_snapshot(run, error) from None

    if world.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(world.device)
        run.say(f"peak memory {peak / GIB:.1f} GiB")
    _export(run, scratch / "final")
    return scratch / "final"


def _prepare(
    name: str,
    config: CheckpointConfig,
    chosen: ModelConfig,
    rows: PackedRows,
    world: World,
    before: int | None,
) -> Run:
    """Model and optimizer as they stand after the newest usable snapshot.

    before: a step that this snapshot must not have reached; None: any snapshot.
    """
    make_reproducible(config.seed)
    task = Task(
        what=name,
        rows=rows,
        steps=steps_of(config, rows),
        optimizer=config.optimizer,
        seed=config.seed,
        document_mask=config.document_mask,
        bf16=config.precision != "fp32",
        fp8=config.precision == "fp8",
        patience=Patience(),
    )
    task.patience.listen()

    scratch = scratch_folder(name, config, chosen)
    model_config = read_config(BASE, chosen.rope, config.context)
    loss = _ready(model_config, world, task)
    optimizer = make_optimizer(loss, config.optimizer)
    return Run(
        name=name,
        config=config,
        chosen=chosen,
        scratch=scratch,
        world=world,
        task=task,
        model_config=model_config,
        loss=loss,
        optimizer=optimizer,
        log=_resume(scratch, loss, optimizer, world, before),
    )


def _train(run: Run, seconds: float) -> None:
    """All steps that are left. Keeps the models of `snapshots`, and a snapshot every `seconds`."""
    per_step = run.task.rows_per_step * run.task.rows.length
    last_snapshot = time.monotonic()
    for line in train(run.loss, run.optimizer, run.task, run.world, run.log):
        run.log.append(line)

        for tokens in run.chosen.snapshots:
            reached_in_this_step = line.tokens - per_step < tokens <= line.tokens
            if reached_in_this_step:
                _export(run, run.scratch / "at" / str(tokens))

        # The last step needs no snapshot: the finished model follows.
        if _due(last_snapshot, seconds, run.world) and line.step < run.task.steps:
            snapshots.save(run.scratch, run.loss, run.optimizer, run.log, run.world)
            last_snapshot = time.monotonic()


def _leave_snapshot(run: Run) -> None:
    """After a request to stop: a snapshot of the last whole step, if there is one."""
    if not run.log:
        return
    where = snapshots.save(run.scratch, run.loss, run.optimizer, run.log, run.world)
    run.say(
        f"stopped after step {run.log[-1].step}, as requested; "
        f"the same command resumes from {where}"
    )


def _with_last_snapshot(run: Run, error: Diverged) -> Diverged:
    """The error, with the newest valid snapshot. Only the main process reads the disk."""
    good = resume.newest_valid(run.scratch) if run.world.main else None
    found = f"The last good snapshot is {good}." if good else "There is no snapshot yet."
    return Diverged(f"{error} {found}")


def _missing(
    name: str, scratch: Path, config: CheckpointConfig, chosen: ModelConfig, rows: PackedRows
) -> list[int]:
    """The steps after which a model of `snapshots` must still be kept.

    Raises UserError for a snapshot that the training never reaches, and for one that it has passed
    without leaving a state to make it from.
    """
    where = f"checkpoint.models.{name}.snapshots"
    per_step = step_tokens(config, rows)
    steps = steps_of(config, rows)
    late = [tokens for tokens in chosen.snapshots if tokens > steps * per_step]
    if late:
        raise UserError(
            f"{where}: {late[0]:,} tokens are never reached: checkpoint.tokens = {config.tokens:,} "
            f"are {steps * per_step:,} in whole steps. Ask for that at most, or train longer."
        )

    absent = []
    for tokens in chosen.snapshots:
        if not (scratch / "at" / str(tokens) / RECORD).is_file():
            absent.append(tokens)
    kept = [snapshots.step_of(state) for state in snapshots.snapshots(scratch)]
    if (scratch / "final" / RECORD).is_file():
        kept.append(steps)

    # A snapshot is taken at the end of the step that reaches its tokens: rounded up.
    wanted = [-(-tokens // per_step) for tokens in absent]
    if wanted and kept and min(kept) >= min(wanted):
        raise UserError(
            f"{where}: the training has already passed {min(absent):,} tokens, and the earliest "
            f"kept state is after {min(kept) * per_step:,}. Remove this snapshot from the list, or "
            f"remove {scratch} to train again from step 0."
        )
    return wanted


def _ready(config: PretrainedConfig, world: World, task: Task) -> TokenLoss:
    """The base under its new config, checked and divided over the world."""
    # Only the main process reads the weights; `divide` scatters them.
    model = load_model(BASE, config) if world.main else shell_of(config)
    attention.register(alone().device, None)
    if world.main:
        correctness_probe.agrees_with_stock(model)

    model.set_attn_implementation(attention.NAME)
    words = attention.register(world.device, world.row_group)
    kernel = attention.kernel_words(config, task.rows.length, world.device)
    switches = ", ".join(["", *sorted(world.hardware.switches)])
    _say(
        world,
        f"{task.what}: {task.steps} steps of {task.rows_per_step} rows of {task.rows.length:,} "
        f"tokens, {world.size} x {world.device.type}, {words}, kernel {kernel}{switches}",
    )
    _say(world, f"{task.what}: {_room(config, world, task)}")
    if task.bf16 and (words := slow_bf16(world.device, cpu_multiplies_bf16())):
        _say(world, f"{task.what}: {words}")
    return divide(TokenLoss(model), world, task.bf16, task.fp8)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has the instructions with which oneDNN multiplies bf16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def slow_bf16(device: torch.device, supported: bool) -> str:
    """A warning if bf16 is emulated, which is 3 to 70 times slower than fp32; "" otherwise.

    supported: the result of `cpu_multiplies_bf16`.
    """
    if device.type != "cpu" or supported:
        return ""
    return (
        "this CPU has no instructions for bf16 (avx512 or the like), so bf16 products take several "
        "times as long as fp32. Set checkpoint.precision to fp32, or train on another machine"
    )


def _room(config: PretrainedConfig, world: World, task: Task) -> str:
    """What is planned of this device's memory. A plan above it is a warning: it is an estimate.

    Raises UserError for more of the host's memory than there is, because the kernel would kill
    the process.
    """
    on_cpu = world.device.type != "cuda"
    load = Load(
        shape=shape_of(config),
        hardware=world.hardware,
        processes=world.size,
        tokens=task.rows_per_micro_batch * task.rows.length,
        optimizer=task.optimizer.kind,
        element=2 if task.bf16 else 4,
        sharded=world.sharded,
        accumulates=task.rows_per_step > task.rows_per_micro_batch * world.groups,
    )
    needed, there = host_memory.planned(load, on_cpu), host_memory.available()
    # The weights are there already.
    missing = needed - (4 * load.shape.parameters if on_cpu and not world.sharded else 0)
    problem = host_memory.why_too_much(missing, there, world.on_this_host)
    if problem:
        raise UserError(f"{task.what}: {problem}")
    if on_cpu:
        return f"planned {needed / GIB:.1f} GiB of the host's memory in each process"

    planned = sum(on_device(load).values()) / GIB
    of_device = torch.cuda.get_device_properties(world.device).total_memory / GIB
    words = f"planned {planned:.1f} GiB of this device's {of_device:.1f}"
    if planned > USABLE * of_device:
        words += ": IT MAY NOT FIT. `make plan` shows the parts"
    return words


def _resume(
    scratch: Path,
    loss: TokenLoss,
    optimizer: torch.optim.Optimizer,
    world: World,
    before: int | None,
) -> list[snapshots.StepLog]:
    """Load the newest valid snapshot on every process; returns its log, or an empty one.

    before: a step that the snapshot must not have reached.
    """
    newest = resume.newest_valid(scratch, before) if world.main else None
    # Only the main process knows the step; the sum gives it to all of them.
    step = int(world.sum([float(snapshots.step_of(newest)) if newest else 0.0])[0])
    if not step:
        return []
    log = resume.load(scratch / f"step-{step:08d}", loss, optimizer, world)
    _say(world, f"resuming after step {step}")
    return log


def _note_origin(scratch: Path, steps: int, world: World) -> None:
    """Record the code and packages that train from now on; report what changed after `steps`."""
    changed = note(scratch / ORIGIN, "checkpoint", steps) if world.main else ""
    if changed:
        _say(
            world,
            f"the {steps} steps so far were taken by {changed}. The training continues from "
            f"them; to start from step 0 instead, remove {scratch}",
        )


def _due(last: float, seconds: float, world: World) -> bool:
    """Whether it is time for a snapshot, by the main process's clock."""
    # Every process must decide the same, or those that save would wait for the others for ever.
    return bool(world.sum([float(world.main and time.monotonic() - last >= seconds)])[0])


def _export(run: Run, target: Path) -> None:
    """Write the model in its present state as a plain transformers folder, with the log so far.

    Every process must call it: each one holds a part of the weights.
    """
    weights = whole_weights(run.loss.named_parameters(), run.world)
    if run.world.main:
        facts: dict[str, Any] = {"tokens": run.log[-1].tokens, "loss": run.log[-1].loss}
        named = {name.removeprefix("model."): part for name, part in weights.items()}
        with sealed(target, facts) as folder:
            save_model(named, run.model_config, BASE, folder, run.config.saved_as)
            write_log(folder, run.log)
    run.world.wait()


def _say(world: World, text: str) -> None:
    """Print a line to stderr, from the main process only."""
    if world.main:
        print(text, file=sys.stderr, flush=True)


def leave_with_launcher() -> None:
    """Let the kernel kill this process when the launcher is killed. Only Linux can.

    The launcher starts its workers in sessions of their own, so a kill of the launcher does not
    reach them, and the next run would train beside them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m training.extension MODEL")
    leave_with_launcher()
    try:
        with plain_errors("extension"):
            extend(sys.argv[1], join_world())
    except Stopped:
        sys.exit(STOPPED)
