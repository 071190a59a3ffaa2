"""The scratch folder of one training: its snapshots, and then the finished model.

DVC does not version this folder. Its name is a hash of all that decides the result: parameters,
base and rows. So a killed run resumes from its newest valid snapshot, and a run with changed
parameters never does.

Code and packages are not part of the name. Otherwise a reworded comment would orphan ten days of
training. A run that resumes under other code reports it (assets/origin.py). The list `snapshots`
is not part of it either, because a model kept on the way does not change the result.
"""

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.missing import missing
from core.params import read_params
from core.sealed import DATA, RECORD, read_json
from training.batches import PackedRows
from training.checkpoint_config import BASE, CheckpointConfig, ModelConfig
from training.snapshots import snapshots, step_of

SCRATCH = Path(".training/checkpoint")
FORM = 1  # version of a scratch folder's content; raise it when old content can't be used any more
DECIDES = "decides.json"  # in a scratch folder: the values that its name is a hash of
ORIGIN = "origin.json"  # in a scratch folder: the code and packages that trained so far


def model_params(name: str) -> tuple[CheckpointConfig, ModelConfig]:
    """The section `checkpoint` of params.yaml, and the entry of the model `name` in it.

    Raises UserError if one of them is missing or not valid.
    """
    config = read_params("checkpoint", CheckpointConfig)
    return config, read_params(f"checkpoint.models.{name}", ModelConfig)


def step_tokens(config: CheckpointConfig, rows: PackedRows) -> int:
    """Tokens of one optimizer step: whole rows, at least one."""
    return max(config.optimizer.batch_tokens // rows.length, 1) * rows.length


def steps_of(config: CheckpointConfig, rows: PackedRows) -> int:
    """Optimizer steps of a whole training: at least one."""
    return max(config.tokens // step_tokens(config, rows), 1)


def scratch_folder(name: str, config: CheckpointConfig, chosen: ModelConfig) -> Path:
    """The folder that holds the state of this training; it need not exist.

    Two trainings share it exactly if they have the same result.
    """
    decided = json.dumps(decides(name, config, chosen), sort_keys=True)
    # 16 hex digits are 64 bits: enough for the few trainings of one model.
    return SCRATCH / name / sha256(decided.encode()).hexdigest()[:16]


def decides(name: str, config: CheckpointConfig, chosen: ModelConfig) -> dict[str, Any]:
    """Everything that decides the result except code and packages; and FORM.

    Raises UserError if the base or the rows are not there.
    """
    base, rows = BASE / RECORD, chosen.source / RECORD
    for record in (base, rows):
        if record.is_file():
            continue
        if record.parts[0] == DATA.name:
            raise missing(record.parent)
        raise UserError(
            f"checkpoint.models.{name}.source = {chosen.source}: no config.json and no packed "
            "rows there. Name a model's folder, or data/packed_shards/RECIPE."
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
    """Remove the scratch folders of earlier parameters, except the one that was trained furthest.

    The user may still want its snapshots. A training that starts from step 0 reports them.
    now: `decides` of this training, to report what has changed since.
    """
    others = [path for path in scratch.parent.glob("*") if path != scratch]
    others.sort(key=lambda path: (_furthest(path), path.stat().st_mtime))

    for old in others[:-1]:
        print(
            f"{old}, a training up to step {_furthest(old)} with earlier parameters, is removed",
            file=sys.stderr,
        )
        shutil.rmtree(old)

    if not others or scratch.exists():
        return
    furthest, step = others[-1], _furthest(others[-1])
    if step:
        print(
            f"{furthest} holds a training up to step {step} {_other_decision(furthest, now)}. "
            f"This one starts from step 0 in {scratch}; "
            "that folder stays until this training has ended",
            file=sys.stderr,
        )


def _furthest(scratch: Path) -> int:
    """The step of the newest snapshot in a scratch folder; 0 without one."""
    return max(map(step_of, snapshots(scratch)), default=0)


def _other_decision(old: Path, now: dict[str, Any]) -> str:
    """What differed in the training of the scratch folder `old`, as a phrase."""
    try:
        before = dict(read_json(old / DECIDES))
    except (OSError, ValueError, TypeError):
        return (
            "of an older Needlework, whose name depends on code too. If its parameters, base and "
            "rows are the same as now, move it to the place of this one to continue it"
        )

    changed = []
    for part in ("checkpoint", "model", "base", "rows"):
        was, is_now = before.get(part, {}), now.get(part, {})
        for key in sorted(was.keys() | is_now.keys()):
            if was.get(key) != is_now.get(key):
                is_parameter = part in ("checkpoint", "model")
                changed.append(f"{part}.{key}" if is_parameter else f"data of the {part}")

    # Many files of the base may differ; they are named once.
    other = ", ".join(dict.fromkeys(changed)) or "another form of what is kept"
    return f"of other parameters or data ({other})"
