"""Continual pretraining of one model, by however many processes: from the base, or from where it
was stopped.

What `accelerate launch` starts on every device; alone on a CPU, the stage calls it. It leaves the
trained model in a scratch folder that no one versions, named by a hash of settings, base and rows,
and the stage takes it from there. So a killed run goes on from its newest whole snapshot, and one
whose settings changed never does. Code and packages are not part of the hash, because a reworded
comment would then orphan ten days of training; a run that continues under other ones reports it
(assets/origin.py). `snapshots`, the models kept on the way, do not change the result and are not
part of it either: one that is added later is made from the newest state before it, and refused if
there is none.

NEEDLEWORK_SNAPSHOT_SECONDS says how often to snapshot (15 minutes); it changes how much a kill
costs, nothing else.
"""

import ctypes
import json
import shutil
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from assets.origin import note
from core.command import plain_errors
from core.environment import SNAPSHOT_SECONDS, number_of
from core.errors import UserError
from core.missing import missing
from core.params import read_params
from core.sealed import DATA, RECORD, is_whole, read_json, sealed, write_json
from training import attention, probe, snapshots
from training.batches import PackedRows, open_rows
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.curves import write_log
from training.flops import shape_of
from training.loop import Diverged, Patience, Stopped, Task, train
from training.loss import TokenLoss
from training.memory import GIB, USABLE, on_device
from training.model import load_model, make_reproducible, read_config, save_model, shell_of
from training.optimizer import make_optimizer
from training.parallel import World, alone, divide, join_world, whole_weights

SCRATCH = Path(".training/checkpoint")
PR_SET_PDEATHSIG = 1
"""Linux: <sys/prctl.h>."""
FORM = 1
"""Version of a scratch folder's content. Raise it when earlier content can no longer be used."""
DECIDES, ORIGIN = "decides.json", "origin.json"
"""In a scratch folder: the values that its name is a hash of, and the code and packages so far."""
STOPPED = 143
"""Exit status after SIGTERM, as a shell gives it."""


def extend(name: str, world: World) -> Path:
    """Train the model `name` in its scratch folder, unless that is done; returns the folder of the
    finished model.

    Raises UserError, Diverged naming the last good snapshot, or Stopped after a snapshot.
    """
    config, chosen = settings(name)
    scratch, seconds = (
        scratch_folder(name, config, chosen),
        number_of(SNAPSHOT_SECONDS),
    )
    final, rows = scratch / "final", open_rows(chosen.source)
    wanted = _missing(name, scratch, config, chosen, rows)
    if not wanted and is_whole(final):
        _note_origin(scratch, steps_of(config, rows), world)
        return final
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
    changed = read_config(BASE, chosen.rope, config.context)
    loss = _ready(changed, world, task)
    optimizer = make_optimizer(loss, config.optimizer)
    log = _go_on(scratch, loss, optimizer, world, min(wanted, default=None))
    if world.main:
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(scratch / DECIDES, decides(name, config, chosen))
    _note_origin(scratch, len(log), world)
    _say(world, f"{name}: {probe.check_sight(loss, world, task.document_mask, task.bf16)}")
    last_snapshot = time.monotonic()
    try:
        for line in train(loss, optimizer, task, world, log):
            log.append(line)
            for tokens in chosen.snapshots:
                if line.tokens >= tokens > line.tokens - task.rows_per_step * rows.length:
                    _export(scratch / "at" / str(tokens), loss, changed, config, log, world)
            if _due(last_snapshot, seconds, world) and line.step < task.steps:
                snapshots.save(scratch, loss, optimizer, log, world)
                last_snapshot = time.monotonic()
    except Stopped:
        if log:
            where = snapshots.save(scratch, loss, optimizer, log, world)
            _say(
                world,
                f"{name}: stopped as asked after step {log[-1].step}; the same command goes on "
                f"from {where}",
            )
        raise
    except Diverged as error:
        good = snapshots.newest_valid(scratch) if world.main else None
        raise Diverged(
            f"{error} The last good snapshot is {good}."
            if good
            else f"{error} There is no snapshot yet."
        ) from None
    if world.device.type == "cuda":
        _say(
            world,
            f"{name}: peak memory {torch.cuda.max_memory_allocated(world.device) / GIB:.1f} GiB",
        )
    _export(final, loss, changed, config, log, world)
    return final


def settings(name: str) -> tuple[CheckpointConfig, ModelConfig]:
    """The parameters of the model `name`."""
    return read_params("checkpoint", CheckpointConfig), read_params(
        f"checkpoint.models.{name}", ModelConfig
    )


def step_tokens(config: CheckpointConfig, rows: PackedRows) -> int:
    """Tokens of an optimizer step."""
    return max(config.optimizer.batch_tokens // rows.length, 1) * rows.length


def steps_of(config: CheckpointConfig, rows: PackedRows) -> int:
    """Optimizer steps of a whole training."""
    return max(config.tokens // step_tokens(config, rows), 1)


def scratch_folder(name: str, config: CheckpointConfig, chosen: ModelConfig) -> Path:
    """The folder with the state of this training, named by its settings, base and rows."""
    decided = json.dumps(decides(name, config, chosen), sort_keys=True)
    return SCRATCH / name / sha256(decided.encode()).hexdigest()[:16]


def decides(name: str, config: CheckpointConfig, chosen: ModelConfig) -> dict[str, Any]:
    """Everything that decides the result except code and packages; and FORM."""
    base, rows = BASE / RECORD, chosen.source / RECORD
    for record in (base, rows):
        if not record.is_file() and record.parts[0] == DATA.name:
            raise missing(record.parent)
        if not record.is_file():
            raise UserError(
                f"checkpoint.models.{name}.source = {chosen.source}: no config.json and no packed "
                "rows "
                "there. Name a model's folder, or data/packed_shards/RECIPE."
            )
    return {
        "form": FORM,
        "checkpoint": config.model_dump(mode="json", exclude={"models"}),
        "model": chosen.model_dump(mode="json", exclude={"snapshots"}),
        "base": _files_of(base),
        "rows": _files_of(rows),
    }


def _files_of(record: Path) -> dict[str, Any]:
    """The files in a record; the whole record if it lists none."""
    facts = dict(read_json(record))
    return dict(facts.get("files", facts))


def clear_others(scratch: Path, now: dict[str, Any]) -> None:
    """Remove the scratch folders of earlier settings, except the one that was trained furthest.

    Its snapshots may still be wanted, and a training that starts from step 0 reports them.
    now: `decides` of this training, to report what has changed since.
    """
    others = [path for path in scratch.parent.glob("*") if path != scratch]
    others.sort(key=lambda path: (_furthest(path), path.stat().st_mtime))
    for old in others[:-1]:
        print(
            f"{old}, a training up to step {_furthest(old)} with earlier settings, is removed",
            file=sys.stderr,
        )
        shutil.rmtree(old)
    if others and not scratch.exists() and (step := _furthest(others[-1])):
        other = _other_settings(others[-1], now)
        print(
            f"{others[-1]} holds a training up to step {step} {other}. This one starts from step 0 "
            f"in {scratch}; that folder stays until this training has ended",
            file=sys.stderr,
        )


def _furthest(scratch: Path) -> int:
    """The step of the newest snapshot in a scratch folder; 0 without one."""
    return max(map(snapshots.step_of, snapshots.snapshots(scratch)), default=0)


def _other_settings(old: Path, now: dict[str, Any]) -> str:
    """What differed in the training of a scratch folder, as a phrase."""
    try:
        before = dict(read_json(old / DECIDES))
    except (OSError, ValueError, TypeError):
        return (
            "of an older Needlework, whose name depends on code too. If its settings, base and "
            "rows are the same as now, move it to the place of this one to continue it"
        )
    parts = [
        f"{part}.{key}" if part in ("checkpoint", "model") else f"data of the {part}"
        for part in ("checkpoint", "model", "base", "rows")
        for key in sorted(before.get(part, {}).keys() | now.get(part, {}).keys())
        if before.get(part, {}).get(key) != now.get(part, {}).get(key)
    ]
    other = ", ".join(dict.fromkeys(parts)) or "another form of what is kept"
    return f"of other settings or data ({other})"


def _missing(
    name: str, scratch: Path, config: CheckpointConfig, chosen: ModelConfig, rows: PackedRows
) -> list[int]:
    """The steps after which a model is still to be kept. Raises UserError for one that the training
    never reaches, or has passed without leaving a state to make it from.
    """
    steps, per_step, where = (
        steps_of(config, rows),
        step_tokens(config, rows),
        f"checkpoint.models.{name}.snapshots",
    )
    late = [tokens for tokens in chosen.snapshots if tokens > steps * per_step]
    if late:
        raise UserError(
            f"{where}: {late[0]:,} tokens are never reached: checkpoint.tokens = {config.tokens:,} "
            "are "
            f"{steps * per_step:,} in whole steps. Ask for that at most, or train longer."
        )
    absent = [
        tokens
        for tokens in chosen.snapshots
        if not (scratch / "at" / str(tokens) / RECORD).is_file()
    ]
    kept = [snapshots.step_of(state) for state in snapshots.snapshots(scratch)]
    kept += [steps] if (scratch / "final" / RECORD).is_file() else []
    wanted = [-(-tokens // per_step) for tokens in absent]
    if wanted and kept and min(kept) >= min(wanted):
        raise UserError(
            f"{where}: the training has passed {min(absent):,} tokens already, and the earliest "
            "state "
            f"kept is that after {min(kept) * per_step:,}. Take it out, or remove {scratch} to "
            "train anew."
        )
    return wanted


def _ready(config: PretrainedConfig, world: World, task: Task) -> TokenLoss:
    """The base under its new config, looked at and divided over the world."""
    model = load_model(BASE, config) if world.main else shell_of(config)
    attention.register(alone().device, None)
    if world.main:
        probe.agrees_with_stock(model)
    model.set_attn_implementation(attention.NAME)
    words = attention.register(world.device, world.row_group)
    _say(
        world,
        f"{task.what}: {task.steps} steps of {task.rows_per_step} rows of {task.rows.length:,} "
        "tokens, "
        f"{world.size} x {world.device.type}, {words}, kernel "
        f"{attention.kernel_words(config, task.rows.length, world.device)}"
        f"{', '.join(['', *sorted(world.hardware.switches)])}",
    )
    _say(world, f"{task.what}: {_room(config, world, task)}")
    if task.bf16 and (words := slow_bf16(world.device, cpu_multiplies_bf16())):
        _say(world, f"{task.what}: {words}")
    return divide(TokenLoss(model), world, task.bf16, task.fp8)


def cpu_multiplies_bf16() -> bool:
    """Whether oneDNN, which multiplies bf16 on CPUs, finds the instructions that it needs."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def slow_bf16(device: torch.device, supported: bool) -> str:
    """A warning where bf16 has no hardware and is emulated, 3 to 70 times slower than fp32; or
    empty. supported: what `cpu_multiplies_bf16` says.
    """
    if device.type != "cpu" or supported:
        return ""
    return (
        "this CPU has no instructions for bf16 (avx512 or the like), so bf16 products take several "
        "times as long as fp32. Set checkpoint.precision to fp32, or train on another machine"
    )


def _room(config: PretrainedConfig, world: World, task: Task) -> str:
    """Whether the plan fits this device, in words: an estimate, so it warns and does not refuse."""
    if world.device.type != "cuda":
        return "in the host's memory"
    parts = on_device(
        shape_of(config),
        world.hardware,
        world.size,
        task.rows_per_pass * task.rows.length,
        task.optimizer.kind,
    )
    planned, there = (
        sum(parts.values()) / GIB,
        torch.cuda.get_device_properties(world.device).total_memory / GIB,
    )
    words = f"planned {planned:.1f} GiB of this device's {there:.1f}"
    return (
        words
        if planned <= USABLE * there
        else f"{words}: IT MAY NOT FIT. `make plan` shows the parts"
    )


def _go_on(
    scratch: Path, loss: TokenLoss, optimizer: Any, world: World, before: int | None
) -> list[snapshots.StepLog]:
    """Put the newest whole snapshot in place, the same on every process; returns its log, or an
    empty one.

    before: a step that it must not have taken yet.
    """
    newest = snapshots.newest_valid(scratch, before) if world.main else None
    step = int(world.sum([float(snapshots.step_of(newest)) if newest else 0.0])[0])
    if not step:
        return []
    log = snapshots.load(scratch / f"step-{step:08d}", loss, optimizer, world)
    _say(world, f"going on after step {step}")
    return log


def _note_origin(scratch: Path, steps: int, world: World) -> None:
    """Write down the code and packages from now on, and report what changed since those steps."""
    changed = note(scratch / ORIGIN, "checkpoint", steps) if world.main else ""
    if changed:
        _say(
            world,
            f"the {steps} steps so far were taken by {changed}. The training continues from "
            f"them; to start from step 0 instead, remove {scratch}",
        )


def _due(last: float, seconds: float, world: World) -> bool:
    """Whether the main process's clock says that it is time for a snapshot."""
    return bool(world.sum([float(world.main and time.monotonic() - last >= seconds)])[0])


def _export(
    target: Path,
    loss: TokenLoss,
    config: PretrainedConfig,
    settings: CheckpointConfig,
    log: list[snapshots.StepLog],
    world: World,
) -> None:
    """Write the model as it is now as a plain transformers folder, with the log so far. Every
    process must call it.
    """
    weights = whole_weights(loss.named_parameters(), world)
    if world.main:
        with sealed(target, {"tokens": log[-1].tokens, "loss": log[-1].loss}) as folder:
            save_model(
                {name.removeprefix("model."): part for name, part in weights.items()},
                config,
                BASE,
                folder,
                settings.saved_as,
            )
            write_log(folder, log)
    world.wait()


def _say(world: World, text: str) -> None:
    if world.main:
        print(text, file=sys.stderr, flush=True)


def leave_with_launcher() -> None:
    """Have the kernel kill this process when the launcher is killed, which gives its workers
    sessions of their own: the next run must not meet them still at work. Only Linux can.
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
