"""Continual pretraining at long context: raise the RoPE base in the config, then train on packed
rows.

A model of the comparison is a name, the rows it trains on and the change of its rotary embedding.
Models that are not trained here are entries too, so every report treats all alike. `source` decides
which of five cases an entry is:

| `source` | case |
|---|---|
| a YAML file | somebody else's model, from the Hub or behind an endpoint |
| a model of the comparison, with `at` | one of its snapshots: a curve over tokens is one training |
| a model's folder, without `rope` | a copy |
| a model's folder, with `rope` | a copy with another RoPE base, untrained |
| a folder of packed rows | a training |

All parameters are trained, with full attention, as in the paper. The result is a plain
`transformers` folder. The stage itself runs in one process: training/launch.py trains in a scratch
folder, and the stage copies the result from there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.origin import done_by_others
from assets.tokenizer import clear_use
from core.checks import CHECKS, Check
from core.command import command
from core.errors import UserError
from core.missing import missing
from core.sealed import RECORD, output, read_json
from training.baselines import ENDPOINT, bring
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.curves import LOG, write_log
from training.launch import train_in_scratch
from training.model import (
    MODEL_SUFFIXES,
    load_model,
    loading_problem,
    make_reproducible,
    read_config,
    rope_base,
    save_model,
)
from training.rope import trained_context
from training.scratch import ORIGIN, SCRATCH, model_params, scratch_folder


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is known of a model when its files are in place."""

    tokens: int = 0
    """Tokens trained here."""
    loss: float | None = None
    """Of the last step, in nats per token; None if no step was taken."""
    context: int = 0
    """Tokens that the model could read before; 0: as many as the base."""
    by_other_code: int = 0
    """Steps that other code or packages took, before a resume."""


def run(name: str) -> None:
    """Make data/checkpoint/NAME."""
    config, chosen = model_params(name)
    with output("checkpoint", name) as out:
        if config.optimizer.kind != "adamw_8bit":
            out.unused.add("torchao")
        made = _make(name, config, chosen, out.folder)

        # A model behind an endpoint has no config.json here.
        served = (out.folder / ENDPOINT).is_file()
        own = None if served else read_config(out.folder)
        context = made.context
        if own is not None and chosen.source.suffix:
            context = trained_context(own)
        # Every model has a curve, so that `dvc plots` finds a file for each; it may be empty.
        if not (out.folder / LOG).is_file():
            write_log(out.folder, [])
        out.checks = [loads_in_transformers(out.folder, served)]

        out.facts = {
            "base_context": context or read_json(BASE / RECORD)["base_context"],
            "rope_base": rope_base(own) if own else 0.0,
            "tokens_trained": made.tokens,
        }
        out.metrics = dict(out.facts)
        if made.loss is not None:
            out.metrics["loss"] = made.loss
        if made.by_other_code:
            out.metrics["steps_by_other_code"] = made.by_other_code
    # The scratch folder goes last: a kill before this point costs no training.
    shutil.rmtree(SCRATCH / name, ignore_errors=True)


def loads_in_transformers(folder: Path, served: bool) -> Check:
    """Whether plain transformers loads the model, with no weight missing or left over.

    served: the model is behind an endpoint, so there is nothing to load.
    """
    problem = "" if served else loading_problem(folder)
    return Check(
        name="loads_in_transformers",
        passed=None if served else not problem,
        expected="every weight in its place",
        found="a model behind an endpoint: nothing to load" if served else problem or "whole",
        advice="Its config and its weights do not belong together. Make it again.",
    )


def _make(name: str, config: CheckpointConfig, chosen: ModelConfig, folder: Path) -> Made:
    """Put the model's files into `folder`, by the case that `source` means."""
    if chosen.source.suffix in (".yaml", ".yml"):
        return Made(context=bring(chosen.source, folder))
    if chosen.at is not None:
        return _copy_trained(chosen.source / "at" / str(chosen.at), folder)
    if (chosen.source / "config.json").is_file():
        return _copy_untrained(config, chosen, folder)
    return _train(name, config, chosen, folder)


def _copy_untrained(config: CheckpointConfig, chosen: ModelConfig, folder: Path) -> Made:
    """A model's folder as it is, or with another RoPE base in its config."""
    if chosen.rope is None:
        for path in sorted(chosen.source.iterdir()):
            if path.suffix in MODEL_SUFFIXES and path.name not in (RECORD, CHECKS):
                shutil.copyfile(path, folder / path.name)
        clear_use(folder)
    else:
        make_reproducible(config.seed)
        raised = read_config(chosen.source, chosen.rope, config.context)
        model = load_model(chosen.source, raised)
        weights = dict(model.named_parameters())
        save_model(weights, model.config, chosen.source, folder, config.saved_as)

    if chosen.source == BASE:
        return Made()
    return Made(context=trained_context(read_config(chosen.source)))


def _train(name: str, config: CheckpointConfig, chosen: ModelConfig, folder: Path) -> Made:
    """Train on the rows, then copy the final model and its snapshots."""
    final = train_in_scratch(name, scratch_folder(name, config, chosen))
    made = _copy_trained(final, folder)
    for snapshot in chosen.snapshots:
        at = Path("at") / str(snapshot)
        shutil.copytree(final.parent / at, folder / at)
    return Made(
        tokens=made.tokens, loss=made.loss, by_other_code=done_by_others(final.parent / ORIGIN)
    )


def _copy_trained(source: Path, folder: Path) -> Made:
    """Copy a trained model without its record, whose facts are returned."""
    if not (source / RECORD).is_file():
        if not source.parent.is_dir():
            raise missing(source.parent.parent)
        known = ", ".join(sorted(path.name for path in source.parent.glob("*"))) or "none"
        raise UserError(
            f"checkpoint.models: no {source}. Its model has these snapshots: {known}. "
            "Name one in `at`, or add it to that model's `snapshots`."
        )
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
    facts: dict[str, Any] = read_json(source / RECORD)
    return Made(tokens=facts["tokens"], loss=facts.get("loss"))


if __name__ == "__main__":
    command(run, "model")
