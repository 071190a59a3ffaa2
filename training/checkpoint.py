"""Continual pretraining at long context: raise the RoPE base in the config, then train on packed rows.

A model is a name, the rows it trains on and the RoPE base it trains with. Two controls are models too: `base` is the
base untouched and `base_rope_raised` has the new base and no training, so every report treats all alike. All
parameters move, with full attention, as in the paper. The result is a plain `transformers` folder.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from assets.stage import Config, command, output, read_json, read_params
from training.base_checkpoint import LOG, write_log
from training.batches import open_rows
from training.loop import OptimizerConfig, StepLog, train
from training.model import load_model, make_reproducible, rope_base, save_model

BASE = Path("data/base_checkpoint")


class ModelConfig(Config):
    """What one model of the comparison is made from."""

    rows: Path
    """Folder of packed rows to train on; the base checkpoint itself for a control that is not trained."""
    rope_base: Annotated[float, Field(gt=1)] | None = None
    """The RoPE base written into the config before training; None keeps the base model's."""


class CheckpointConfig(Config):
    """Continual pretraining, the same for every model."""

    seed: int = 0
    tokens: Annotated[int, Field(ge=1)]
    """Tokens to train on, rounded down to whole optimizer steps (at least one)."""
    context: Annotated[int, Field(ge=16)]
    """Context length written into the trained model's config, in tokens."""
    optimizer: OptimizerConfig
    models: dict[str, ModelConfig]


def run(name: str) -> None:
    """Make data/checkpoint/NAME."""
    config = read_params("checkpoint", CheckpointConfig)
    chosen = read_params(f"checkpoint.models.{name}", ModelConfig)
    make_reproducible(config.seed)
    with output("checkpoint", name) as out:
        model = load_model(BASE, chosen.rope_base)
        log: list[StepLog] = []
        if chosen.rows != BASE:
            rows = open_rows(chosen.rows)
            steps = max(config.tokens // config.optimizer.batch_tokens, 1)
            log = list(train(model, lambda numbers: rows[numbers].astype(np.int64), len(rows), rows.shape[1], steps,
                             config.optimizer, config.seed, name))
        if chosen.rope_base is not None:
            model.config.max_position_embeddings = config.context
        save_model(model, BASE, out.folder)
        write_log(out.folder / LOG, log)
        out.facts = {"base_context": read_json(BASE / "record.json")["base_context"], "rope_base": rope_base(model),
                     "tokens_trained": log[-1].tokens if log else 0}
        out.metrics = {**out.facts, **({"loss": log[-1].loss} if log else {})}


if __name__ == "__main__":
    command(run, "model")
