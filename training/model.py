"""Models as plain `transformers` folders: loaded and saved so that anyone's loader gives the same
logits.

Weights stay fp32 (the optimizer needs them), matrix products run in bf16. On a CPU one process uses
one thread: then the sums have one order and the same inputs give the same bytes on machines with
the same instruction set. The cost is that one training cannot use two cores; the graph runs two
trainings side by side instead.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from assets.tokenizer import allow_length, bos_eos_ids, clear_use, load_tokenizer
from core.errors import UserError
from training.config_json import config_file
from training.rope import RopeConfig, stretched

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
MODEL_SUFFIXES = frozenset((".json", ".safetensors", ".model", ".jinja"))
"""Of the files that make a model's folder."""
NO_LIMIT = 10**30
"""transformers' own `model_max_length` of a tokenizer without a limit."""


def make_reproducible(seed: int) -> None:
    """A seeded global generator (used only to initialise weights); without a GPU, one thread,
    deterministic kernels.

    With a GPU the host's threads are needed for offloaded weights, and fast attention has no fixed
    order of sums.
    """
    torch.manual_seed(seed)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)


def read_config(
    folder: Path, rope: RopeConfig | None = None, context: int | None = None
) -> PretrainedConfig:
    """The config in `folder`; with `rope`, its rotary embedding stretched to `context` and the
    context written in.

    Raises UserError where there is none. Never runs code from the folder and never asks the Hub.
    """
    config_file(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}/config.json: transformers cannot read it: {error}") from None
    except StrictDataclassError as error:  # a value of a wrong type, told in two lines
        said = " ".join(str(error).split())
        raise UserError(f"{folder}/config.json: transformers cannot read it: {said}") from None
    if rope is not None and context is not None:
        config.rope_parameters = stretched(config, rope, context)
        config.max_position_embeddings = context
    return config


def load_model(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The causal language model in `folder` in fp32 on the CPU, under `config` or its own.

    Raises UserError where the folder is no such model, or config.json asks for other weights than
    are in it, which transformers would draw at random. Never runs code from the folder and never
    asks the Hub.
    """
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config or read_config(folder),
            dtype=torch.float32,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # told of below, by name
    except SafetensorError as error:
        raise UserError(
            f"{folder}: a .safetensors file there is broken or cut short ({error}). Copy or "
            "download it "
            "again."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: transformers cannot load it: {str(error).rstrip('.')}. A base model is a "
            "transformers folder: config.json, *.safetensors, tokenizer.json."
        ) from None
    model, found = loaded
    problems = [
        f"{name} is {list(there)} there and {list(wanted)} by config.json"
        for name, there, wanted in sorted(found["mismatched_keys"])
    ]
    problems += [f"{name} is not there" for name in sorted(found["missing_keys"])]
    if problems:
        raise UserError(
            f"{folder}: config.json and the weights there are not of one model: "
            f"{'; '.join(problems[:3])}"
            f"{f'; and {len(problems) - 3} more' if len(problems) > 3 else ''}. Take both from one "
            "model."
        )
    return model


def loading_problem(folder: Path) -> str:
    """Why plain transformers does not load the model in `folder` whole; "" if it does.

    It loads onto the meta device: names and shapes are compared with config.json, no weight is
    read or kept. So it costs 0.2 s and no memory for a model of any size.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it draws a table of what is missing
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are told by name
        )
    except Exception as error:  # whatever it raises, the model does not load
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        transformers_logging.set_verbosity(verbosity)
    _, found = loaded
    problems = [
        f"{kind.replace('_', ' ')}: {', '.join(sorted(map(_name, names))[:3])}"
        for kind, names in found.items()
        if names
    ]
    return "; ".join(problems)


def _name(found: Any) -> str:
    """A weight that transformers names alone, or with its two shapes."""
    return str(found[0] if isinstance(found, tuple) else found)


def shell_of(config: PretrainedConfig) -> PreTrainedModel:
    """The model of `config` in fp32 with weights that nobody set: memory is taken only where
    something is written.
    """
    with no_init_weights():
        shell = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    shell.tie_weights()
    return shell


def rope_base(config: PretrainedConfig) -> float:
    """The RoPE base (theta) in a config; 0 for a model without one base for all its layers."""
    parameters = getattr(config, "rope_parameters", None)
    return float(parameters.get("rope_theta", 0)) if isinstance(parameters, dict) else 0.0


def save_model(
    weights: Mapping[str, torch.Tensor],
    config: PretrainedConfig,
    tokenizer_folder: Path,
    folder: Path,
    kind: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Write config, weights as safetensors of that type, and the tokenizer's files into `folder`.

    The tokenizer's `model_max_length` is raised to the context of the model.
    """
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shell.load_state_dict(
        {name: part.to(getattr(torch, kind)) for name, part in weights.items()},
        assign=True,
        strict=False,
    )
    shell.tie_weights()
    bare = [name for name, part in shell.named_parameters() if part.is_meta]
    if bare:
        raise RuntimeError(f"no weights for {', '.join(bare)}: the model would not load")
    shell.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file() and not (folder / name).exists():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    clear_use(folder)
    allow_length(folder, int(config.get_text_config().max_position_embeddings))


def transformers_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder` as a transformers object, for lm-eval and templates, without limit.

    Its ids are those of `load_tokenizer`. By itself transformers builds some classes from the
    vocabulary alone and ignores the rest of tokenizer.json. Raises UserError if it cannot be read.
    """
    plain = load_tokenizer(folder)
    _begin_once(folder, plain)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it warns if the folder names another class
    try:
        return PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, tokenizer_object=plain, model_max_length=NO_LIMIT
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: transformers cannot open the tokenizer there: {error}. Copy "
            "tokenizer.json and tokenizer_config.json from the model again."
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)


def built_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder without tokenizer.json, as transformers builds it from an older
    form (tokenizer.model, vocab.json with merges.txt); None where it cannot."""
    try:
        built: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return Tokenizer.from_str(built.backend_tokenizer.to_str())
    except (
        Exception
    ):  # each form raises its own kinds; the caller reports that ids cannot be compared
        return None


def _begin_once(folder: Path, tokenizer: Tokenizer) -> None:
    """Change a template that adds two begin tokens so that it adds one."""
    bos, _ = bos_eos_ids(folder, tokenizer)
    if bos is None or tokenizer.encode("", add_special_tokens=True).ids[:2] != [bos, bos]:
        return
    text = tokenizer.id_to_token(bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", special_tokens=[(text, bos)]
    )
    print(
        f"{folder}/tokenizer.json: its template begins a text with {text} twice; here it does so "
        "once",
        file=sys.stderr,
    )
