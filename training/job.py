"""One planned training: a model's shape, its rows and steps, and the hardware it runs on.

All of it is read from a profile and the base model's config.json, or, before the base is
downloaded, from the dimensions in models/NAME.json. A plain Llama is read as JSON, because
transformers takes seconds to import. Other models are left to transformers.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from assets.recipes import MixedDatasetConfig
from core.errors import UserError
from training.base_checkpoint_config import BaseCheckpointConfig
from training.checkpoint_config import CheckpointConfig
from training.config_json import Dimensions, plain_llama, read_dimensions
from training.flops import PEAK_BF16, Shape, shape_of
from training.hardware import Hardware

PROFILES = Path("profiles")
FIGURES = Path("models")  # NAME.json: the dimensions of a model that is not downloaded
PRETRAINED = Path("data/tokenized_corpus")  # the base's source if it is pretrained here


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training on some hardware."""

    shape: Shape
    rows: int
    """Packed rows of each recipe."""
    length: int
    """Tokens in a row."""
    per_step: int
    """Rows in an optimizer step."""
    config: CheckpointConfig
    hardware: Hardware
    gpu: str
    """A key of flops.PEAK_BF16."""
    gpus: int
    """Devices in all."""
    copied: bool = True
    """Whether the base is copied, and not pretrained here."""

    @property
    def tokens(self) -> int:
        """Tokens trained on: whole steps, at least one."""
        step = self.per_step * self.length
        return max(self.config.tokens // step, 1) * step

    @property
    def micro_batch(self) -> int:
        """Tokens that a group of devices holds at once: one micro-batch of whole rows."""
        return max(self.config.optimizer.micro_batch_tokens // self.length, 1) * self.length

    @property
    def micro_batches(self) -> int:
        """Micro-batches that each group of devices runs in a step."""
        groups = self.gpus // self.hardware.sp
        rows_at_once = self.micro_batch // self.length * groups
        return -(-self.per_step // rows_at_once)

    def seconds(self, mfu: float) -> float:
        """Wall time of the training at this share of the peak."""
        flops = self.tokens * self.shape.training_flops(self.length)
        return flops / (self.gpus * PEAK_BF16[self.gpu] * mfu)


def read_job(profile: str, gpu: str, hardware: Hardware, gpus: int) -> Job:
    """The training of a profile.

    profile: the name of a file in profiles/. gpu: a key of flops.PEAK_BF16. gpus: how many.
    Raises UserError for a missing or invalid profile or model.
    """
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*")))
        raise UserError(f"{path}: no such profile. There are: {known}.")
    return job_of(path, gpu, hardware, gpus)


def job_of(path: Path, gpu: str, hardware: Hardware, gpus: int) -> Job:
    """The training that a file of parameters describes.

    Arguments as for `read_job`. Raises UserError if the file or its model is not valid.
    """
    try:
        values = yaml.safe_load(path.read_text())
        config = CheckpointConfig.model_validate(values["checkpoint"])
        source = BaseCheckpointConfig.model_validate(values["base_checkpoint"]).source
        length = int(values["packed_shards"]["chunk_length"])
        rows = MixedDatasetConfig.model_validate(values["mixed_dataset"]).token_budget // length
    except (ValidationError, KeyError, TypeError, OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from None

    return Job(
        shape=shape_at(source),
        rows=rows,
        length=length,
        config=config,
        hardware=hardware,
        gpu=gpu,
        gpus=gpus,
        copied=source != PRETRAINED,
        per_step=max(config.optimizer.batch_tokens // length, 1),
    )


def shape_at(source: Path) -> Shape:
    """The shape of the model in `source`; of models/NAME.json until the folder is there.

    Raises UserError if there is neither.
    """
    figures = FIGURES / f"{source.name}.json"
    if (source / "config.json").is_file() or not figures.is_file():
        return shape_in(source)
    known = read_dimensions(figures, Dimensions)
    if known is not None:
        return shape_of(known)
    from transformers import LlamaConfig

    return shape_of(LlamaConfig.from_json_file(figures))


def shape_in(folder: Path) -> Shape:
    """The shape of the model in `folder`. Raises UserError if there is none."""
    plain = plain_llama(folder)
    if plain is not None:
        return shape_of(plain)
    from training.model import read_config

    return shape_of(read_config(folder))
