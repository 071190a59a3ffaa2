"""Load and save models as plain `transformers` folders, so that any loader gives the same logits.

Weights stay fp32, because the optimizer needs them; matmuls run in bf16. On a CPU a process uses
one thread. Then sums have a fixed order, and the same inputs give the same bytes on machines with
the same instruction set. The cost: one training can't use two cores, so the graph runs two
trainings at the same time.
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
from core.errors import UserError, one_line
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
MODEL_SUFFIXES = frozenset((".json", ".safetensors", ".model", ".jinja"))  # a model's files
NO_LIMIT = 10**30  # transformers' own `model_max_length` of a tokenizer without a limit


def make_reproducible(seed: int) -> None:
    """Seed torch; without a GPU, also use one thread and deterministic kernels."""
    # Only the initial weights are drawn from this generator. All other draws are keyed
    # (assets/randomness.py).
    torch.manual_seed(seed)
    # With a GPU, offloaded weights need the host's threads, and fast attention has no fixed order
    # of sums anyway.
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)


def read_config(
    folder: Path, rope: RopeConfig | None = None, context: int | None = None
) -> PretrainedConfig:
    """The config in `folder`; with `rope`, changed for a context of `context` tokens.

    Raises UserError if it can't be read. Runs no code from the folder and never asks the Hub.
    """
    config_file(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}/config.json: transformers cannot read it: {error}") from None
    except StrictDataclassError as error:
        # A value of a wrong type. The message has two lines; a user's mistake gets one.
        raise UserError(
            f"{folder}/config.json: transformers cannot read it: {one_line(error)}"
        ) from None

    if rope is not None and context is not None:
        config.rope_parameters = stretched(config, rope, context)
        config.max_position_embeddings = context
    return config


def load_model(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The causal language model in `folder`, in fp32 on the CPU, under `config` or its own one.

    Raises UserError if the folder holds no such model, or weights that do not fit its config.json.
    Runs no code from the folder and never asks the Hub.
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
            # transformers would draw such weights at random. They are reported below, by name.
            ignore_mismatched_sizes=True,
        )
    except SafetensorError as error:
        raise UserError(
            f"{folder}: a .safetensors file there is broken or cut short ({error}). "
            "Copy or download it again."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: transformers cannot load it: {str(error).rstrip('.')}. "
            "A base model is a transformers folder: config.json, *.safetensors, tokenizer.json."
        ) from None

    model, found = loaded
    problems = []
    for name, there, wanted in sorted(found["mismatched_keys"]):
        problems.append(f"{name} is {list(there)} there and {list(wanted)} by config.json")
    problems += [f"{name} is not there" for name in sorted(found["missing_keys"])]
    if problems:
        shown = "; ".join(problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{folder}: config.json and the weights there are not of one model: {shown}{more}. "
            "Take both from one model."
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
            ignore_mismatched_sizes=True,  # so that they are reported by name
        )
    except Exception as error:  # whatever it raises, the model does not load
        return f"{type(error).__name__}: {one_line(error)}"
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
    """The model of `config` in fp32, with uninitialised weights.

    The system provides memory only for what is written, so an unused shell costs almost none.
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
    if not isinstance(parameters, dict):
        return 0.0
    return float(parameters.get("rope_theta", 0))


def save_model(
    weights: Mapping[str, torch.Tensor],
    config: PretrainedConfig,
    tokenizer_folder: Path,
    folder: Path,
    kind: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Write config, weights and the tokenizer's files into `folder`.

    weights: parameter name -> tensor, saved as safetensors of dtype `kind`. The tokenizer's
    `model_max_length` is raised to the model's context.
    """
    # An empty model takes the weights as they are, so they are in memory once.
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    converted = {name: part.to(getattr(torch, kind)) for name, part in weights.items()}
    # Not strict: a tied head has no weights of its own.
    shell.load_state_dict(converted, assign=True, strict=False)
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
    """The tokenizer in `folder` as a transformers object, for lm-eval and chat templates.

    It has no limit of length, and adds one begin token at most. Raises UserError if it cannot be
    read.
    """
    # By itself transformers builds some classes from the vocabulary alone and ignores the rest of
    # tokenizer.json. With `tokenizer_object` its ids are those of `load_tokenizer`.
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
            f"{folder}: transformers cannot open the tokenizer there: {error}. "
            "Copy tokenizer.json and tokenizer_config.json from the model again."
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)


def built_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer that transformers builds from an older form; None if it can't.

    Older forms are tokenizer.model, and vocab.json with merges.txt.
    """
    try:
        built: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return Tokenizer.from_str(built.backend_tokenizer.to_str())
    except Exception:
        # Each form raises errors of its own. The caller reports that ids can't be compared.
        return None


def _begin_once(folder: Path, tokenizer: Tokenizer) -> None:
    """If the tokenizer's template adds two begin tokens, make it add one."""
    bos, _ = bos_eos_ids(folder, tokenizer)
    if bos is None or tokenizer.encode("", add_special_tokens=True).ids[:2] != [bos, bos]:
        return
    text = tokenizer.id_to_token(bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", special_tokens=[(text, bos)]
    )
    print(
        f"{folder}/tokenizer.json: its template begins a text with {text} twice; "
        "here it does so once",
        file=sys.stderr,
    )
