"""Continual pretraining at long context: stretch the rotary embedding in the config, then train on packed rows.

A model is a name, the rows it trains on and how its rotary embedding is stretched. Two controls are models too: `base`
is the base untouched and `base_rope_raised` is stretched and not trained, so every report treats all alike; and so is a
snapshot of another model, so the curve over tokens is one training. All parameters move, with full attention, as in
the paper. The result is a plain `transformers` folder.

NEEDLEWORK_ACCELERATE names a file of training/accelerate/ that says which devices train; without it one CPU process
does. The stage itself never divides: it has the model trained in a scratch folder and takes it from there.
"""

import os
import shutil
import sys
from pathlib import Path

from assets.stage import RECORD, UserError, command, is_whole, output, read_json
from training.curves import write_log
from training.extension import (
    BASE,
    SCRATCH,
    STOPPED,
    CheckpointConfig,
    ModelConfig,
    clear_others,
    extend,
    scratch_folder,
    settings,
)
from training.loop import Stopped
from training.model import load_model, make_reproducible, read_config, rope_base, save_model
from training.parallel import alone

ACCELERATE = "NEEDLEWORK_ACCELERATE"


def run(name: str) -> None:
    """Make data/checkpoint/NAME."""
    config, chosen = settings(name)
    if chosen.rows == BASE:
        source = None
    elif chosen.at is not None:
        source = chosen.rows / "at" / str(chosen.at)
    else:
        source = train_in_scratch(name, scratch_folder(name, config, chosen))
    with output("checkpoint", name) as out:
        if source is None:
            _control(config, chosen, out.folder)
            facts = {"tokens": 0}
        else:
            _take(source, out.folder, name)
            facts = read_json(source / RECORD)
            for snapshot in chosen.snapshots:
                shutil.copytree(source.parent / "at" / str(snapshot), out.folder / "at" / str(snapshot))
        out.facts = {"base_context": read_json(BASE / RECORD)["base_context"],
                     "rope_base": rope_base(read_config(out.folder)), "tokens_trained": facts["tokens"]}
        out.metrics = {**out.facts, **({"loss": facts["loss"]} if "loss" in facts else {})}
    shutil.rmtree(SCRATCH / name, ignore_errors=True)


def train_in_scratch(name: str, scratch: Path) -> Path:
    """Have the model trained, here or by the processes that NEEDLEWORK_ACCELERATE says; returns its folder."""
    clear_others(scratch)
    file = os.environ.get(ACCELERATE)
    if not file:
        try:
            return extend(name, alone())
        except Stopped:
            sys.exit(STOPPED)
    if not Path(file).is_file():
        raise UserError(f"{ACCELERATE} = {file}: no such file. training/accelerate/ has some; `accelerate config` "
                        "writes others.")
    _launch(file, name)
    if not is_whole(scratch / "final"):
        raise UserError(f"{name}: trained, but not into {scratch}: parameters, rows or code changed while it ran. "
                        "Run it again.")
    return scratch / "final"


def _launch(file: str, name: str) -> None:
    """`accelerate launch` of training.extension; its own errors are on the screen already."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(["--config_file", file, "--module", "training.extension",
                                                           name]))
    except SignalException:
        sys.exit(STOPPED)
    except ChildFailedError as error:
        codes = sorted({failure.exitcode for failure in error.failures.values()})
        if STOPPED in codes:
            sys.exit(STOPPED)
        raise UserError(f"training under {file} ended with exit status {', '.join(map(str, codes))}; the reason is "
                        "above.") from None


def _control(config: CheckpointConfig, chosen: ModelConfig, folder: Path) -> None:
    """The base, stretched or as it is, untrained."""
    make_reproducible(config.seed)
    model = load_model(BASE, read_config(BASE, chosen.rope, config.context))
    save_model(dict(model.named_parameters()), model.config, BASE, folder, config.saved_as)
    write_log(folder, [])


def _take(source: Path, folder: Path, name: str) -> None:
    """Copy a trained model, without its record."""
    if not (source / RECORD).is_file():
        known = ", ".join(sorted(path.name for path in source.parent.glob("*"))) or "none"
        raise UserError(f"checkpoint.models.{name}.at: no {source}. Its model has these snapshots: {known}. "
                        "Name one, or add it to the model's `snapshots`.")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))


if __name__ == "__main__":
    command(run, "model")
