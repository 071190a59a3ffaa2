"""Models as plain `transformers` folders: loaded and saved so that anyone's loader gives the same logits.

Weights stay fp32 (the optimizer needs them), matrix products run in bf16 under autocast. On a CPU one process uses
one thread: then the sums have one order and the same inputs give the same bytes on machines with the same instruction
set. The cost is that one training cannot use two cores; the graph runs two trainings side by side instead.
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from assets.stage import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def make_reproducible(seed: int) -> None:
    """One thread, deterministic kernels, a seeded global generator (used only to initialise weights)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    transformers_logging.disable_progress_bar()


def load_model(folder: Path, rope_base: float | None = None) -> PreTrainedModel:
    """The causal language model in `folder` in fp32, with its RoPE base replaced where one is given.

    Raises UserError where the folder is no such model. Never runs code from the folder and never asks the Hub.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json there. A base model is a transformers folder: config.json, "
                        "*.safetensors, tokenizer.json. Set base_checkpoint.source to one.")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False,
            use_safetensors=True, local_files_only=True)
        if rope_base is None:
            return model
        model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": rope_base}
        raised = AutoModelForCausalLM.from_config(model.config, attn_implementation="sdpa", dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: transformers cannot load it: {error}") from None
    # Rotary tables are made when a model is built, so the weights move into one built with the new base.
    raised.load_state_dict(model.state_dict())
    return raised


def rope_base(model: PreTrainedModel) -> float:
    """The RoPE base (theta) in the model's config."""
    return float(model.config.rope_parameters["rope_theta"])


def save_model(model: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write config, safetensors and the tokenizer's files into `folder`."""
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file() and not (folder / name).exists():
            shutil.copyfile(tokenizer_folder / name, folder / name)
