"""Continual pretraining at long context: stretch the rotary embedding in the config, then train on
packed rows.

A model is a name, the rows it trains on and how its rotary embedding is stretched. What stands
beside it is a model too, so every report treats all alike: the base untouched, the base stretched
and not trained, a snapshot of another model (the curve over tokens is one training), and models
that others made. All parameters move, with full attention, as in the paper. The result is a plain
`transformers` folder.

NEEDLEWORK_ACCELERATE names a file of training/accelerate/ that says which devices train; without it
one CPU process does. The stage itself never divides: it has the model trained in a scratch folder
and takes it from there.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from assets.origin import done_by_others
from assets.tokenizer import clear_use
from core.checks import CHECKS, Check
from core.command import command
from core.environment import ACCELERATE, SECONDS_TO_STOP, number_of, text_of
from core.errors import UserError
from core.missing import missing
from core.sealed import RECORD, is_whole, output, read_json
from training.baselines import ENDPOINT, bring
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.curves import LOG, write_log
from training.extension import (
    ORIGIN,
    SCRATCH,
    STOPPED,
    clear_others,
    decides,
    extend,
    scratch_folder,
    settings,
)
from training.loop import Stopped
from training.model import (
    MODEL_SUFFIXES,
    load_model,
    loading_problem,
    make_reproducible,
    read_config,
    rope_base,
    save_model,
)
from training.parallel import alone
from training.rope import trained_context

TORCH_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""What torch's launcher reads; without it, it kills 30 s after SIGTERM."""


def run(name: str) -> None:
    """Make data/checkpoint/NAME."""
    config, chosen = settings(name)
    with output("checkpoint", name) as out:
        facts, others = {"tokens": 0}, 0
        if config.optimizer.kind != "adamw_8bit":
            out.unused.add("torchao")
        if chosen.source.suffix in (".yaml", ".yml"):
            context = bring(chosen.source, out.folder)
        elif chosen.at is not None:
            facts, context = _take(chosen.source / "at" / str(chosen.at), out.folder), 0
        elif (chosen.source / "config.json").is_file():
            _as_it_is(config, chosen, out.folder)
            context = trained_context(read_config(chosen.source)) if chosen.source != BASE else 0
        else:
            made = train_in_scratch(name, scratch_folder(name, config, chosen))
            facts, context = _take(made, out.folder), 0
            others = done_by_others(made.parent / ORIGIN)
            for snapshot in chosen.snapshots:
                shutil.copytree(
                    made.parent / "at" / str(snapshot), out.folder / "at" / str(snapshot)
                )
        served = (out.folder / ENDPOINT).is_file()
        own = None if served else read_config(out.folder)
        if own is not None and chosen.source.suffix:
            context = trained_context(own)
        if not (out.folder / LOG).is_file():
            write_log(out.folder, [])
        out.checks = [loads_in_transformers(out.folder, served)]
        out.facts = {
            "base_context": context or read_json(BASE / RECORD)["base_context"],
            "rope_base": rope_base(own) if own else 0.0,
            "tokens_trained": facts["tokens"],
        }
        out.metrics = {
            **out.facts,
            **({"loss": facts["loss"]} if "loss" in facts else {}),
            **({"steps_by_other_code": others} if others else {}),
        }
    shutil.rmtree(SCRATCH / name, ignore_errors=True)


def loads_in_transformers(folder: Path, served: bool) -> Check:
    """Whether plain transformers loads the model, with no weight missing or left over; served:
    it is behind an endpoint."""
    problem = "" if served else loading_problem(folder)
    return Check(
        name="loads_in_transformers",
        passed=None if served else not problem,
        expected="every weight in its place",
        found="a model behind an endpoint: nothing to load" if served else problem or "whole",
        advice="Its config and its weights do not belong together. Make it again.",
    )


def train_in_scratch(name: str, scratch: Path) -> Path:
    """Have the model trained, here or by the processes that NEEDLEWORK_ACCELERATE says; returns its
    folder.
    """
    clear_others(scratch, decides(name, *settings(name)))
    file = text_of(ACCELERATE)
    if not file:
        try:
            return extend(name, alone())
        except Stopped:
            sys.exit(STOPPED)
    if not Path(file).is_file():
        raise UserError(
            f"{ACCELERATE} = {file}: no such file. training/accelerate/ has some; `accelerate "
            "config` "
            "writes others."
        )
    _launch(file, name)
    if not is_whole(scratch / "final"):
        raise UserError(
            f"{name}: trained, but not into {scratch}: parameters, base or rows "
            "changed while it ran. Run it again."
        )
    return scratch / "final"


def _launch(file: str, name: str) -> None:
    """`accelerate launch` of training.extension; its own errors are on the screen already."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    be_patient()
    try:
        launch_command(
            launch_command_parser().parse_args(
                ["--config_file", file, "--module", "training.extension", name]
            )
        )
    except SignalException:
        sys.exit(STOPPED)
    except ChildFailedError as error:
        codes = sorted({failure.exitcode for failure in error.failures.values()})
        if STOPPED in codes:
            sys.exit(STOPPED)
        raise UserError(
            f"training under {file} ended with exit status {', '.join(map(str, codes))}; the "
            "reason is "
            "above."
        ) from None


def be_patient() -> None:
    """Have the launcher wait NEEDLEWORK_SECONDS_TO_STOP after SIGTERM, unless it was told
    otherwise: the pass at work ends first (minutes, for a 7B at 80K), and then the snapshot is
    written (84 GB for a 7B).
    """
    os.environ.setdefault(TORCH_PATIENCE, str(int(number_of(SECONDS_TO_STOP))))


def _as_it_is(config: CheckpointConfig, chosen: ModelConfig, folder: Path) -> None:
    """A model's folder, untrained; with its rotary embedding stretched if asked."""
    if chosen.rope is None:
        for path in sorted(chosen.source.iterdir()):
            if path.suffix in MODEL_SUFFIXES and path.name not in (RECORD, CHECKS):
                shutil.copyfile(path, folder / path.name)
        clear_use(folder)
        return
    make_reproducible(config.seed)
    model = load_model(chosen.source, read_config(chosen.source, chosen.rope, config.context))
    save_model(dict(model.named_parameters()), model.config, chosen.source, folder, config.saved_as)


def _take(source: Path, folder: Path) -> dict[str, Any]:
    """Copy a trained model, without its record; returns what that says."""
    if not (source / RECORD).is_file():
        if not source.parent.is_dir():
            raise missing(source.parent.parent)
        known = ", ".join(sorted(path.name for path in source.parent.glob("*"))) or "none"
        raise UserError(
            f"checkpoint.models: no {source}. Its model has these snapshots: {known}. Name one in "
            "`at`, or "
            "add it to that model's `snapshots`."
        )
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
    return dict(read_json(source / RECORD))


if __name__ == "__main__":
    command(run, "model")
