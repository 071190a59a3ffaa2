"""The base model: a folder that is there, or a small Llama pretrained here at short context.

`source` says which: a transformers folder is taken as it is; data/tokenized_corpus, the domains of
it that params.yaml names, is what to pretrain on. What comes out is a whole model folder, with the
graph's tokenizer where the base brings none. A base that could not be trained later is refused
here, and so is one whose own tokenizer gives other ids than the graph's: rows of one tokenizer mean
nothing to a model of another. Both checks are cheap compared with what follows. The sample ships a
base that this stage pretrained (models/sample-base, its log beside it), because extension carries a
skill the base already has, and having it costs minutes that the demo does not spend.

The curriculum is short rows first, part of them random spans repeated verbatim, then rows of the
full base context with fewer of those. Without the first act the model stays on a plateau where it
recalls nothing (docs/log.md).
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from assets.agreement import disagreement
from assets.stage import Config, UserError, command, names_of, output, read_params
from assets.tokenizer import FILES, bos_eos_ids, clear_use, load_tokenizer
from training import attention
from training.batches import RowsInMemory, document_rows, with_repeats
from training.curves import write_log
from training.loop import Task, train
from training.loss import TokenLoss
from training.model import (
    MODEL_SUFFIXES,
    built_tokenizer,
    load_model,
    make_reproducible,
    read_config,
    rope_base,
    save_model,
)
from training.optimizer import OptimizerConfig, make_optimizer
from training.parallel import alone
from training.snapshots import StepLog

TOKENIZER = Path("data/tokenizer")
CORPUS = Path("data/tokenized_corpus")
COPIED = MODEL_SUFFIXES | {".csv"}
OLDER_FORMS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files that may hold the tokenizer of a folder without tokenizer.json."""


class Architecture(Config):
    """Shape of a small Llama; the vocabulary is the tokenizer's."""

    hidden_size: Annotated[int, Field(ge=8)] = 128
    layers: Annotated[int, Field(ge=1)] = 2
    heads: Annotated[int, Field(ge=1)] = 4
    feed_forward: Annotated[int, Field(ge=8)] = 384
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0
    context: Annotated[int, Field(ge=16)] = 256
    """Tokens the base can read: C."""


class Act(Config):
    """One act of the curriculum."""

    row_length: Annotated[int, Field(ge=16)]
    """Tokens in a row."""
    tokens: Annotated[int, Field(ge=1)]
    """Tokens trained in this act."""
    repeated_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of rows that are a random span repeated verbatim."""
    optimizer: OptimizerConfig


class BaseCheckpointConfig(Config):
    """Where the base comes from; `architecture` and `acts` count only when it is pretrained here."""

    source: Path
    """A transformers folder, or `data/tokenized_corpus` to pretrain on it."""
    seed: int = 0
    architecture: Architecture = Architecture()
    acts: tuple[Act, ...] = ()


def run() -> None:
    """Make data/base_checkpoint."""
    config = read_params("base_checkpoint", BaseCheckpointConfig)
    with output("base_checkpoint") as out:
        if not any(act.optimizer.kind == "adamw_8bit" for act in config.acts):
            out.unused.add("torchao")
        model = (
            _pretrain(config, out.folder)
            if config.source == CORPUS
            else _copy_base(config.source, out.folder)
        )
        out.facts = {
            "base_context": int(model.config.max_position_embeddings),
            "rope_base": rope_base(model.config),
            "tokens_trained": 0,
        }
        out.metrics = {
            "parameters": model.num_parameters(),
            "vocabulary": int(model.config.vocab_size),
            **out.facts,
        }


def _copy_base(source: Path, folder: Path) -> PreTrainedModel:
    """Copy a model folder, refusing one that cannot be loaded or whose tokenizer is not the
    graph's.
    """
    if not (source / "config.json").is_file():
        why = "no config.json there" if source.is_dir() else "no such folder"
        raise UserError(
            f"base_checkpoint.source = {source}: {why}. Name a transformers folder (config.json, "
            f"*.safetensors), or {CORPUS} to pretrain a base on it."
        )
    try:
        check_vocabulary(source)
        model = load_model(source)
    except UserError as error:
        raise UserError(f"base_checkpoint.source = {source}: {error}") from None
    # part of a tokenizer would not fit the graph's
    left_out = () if (source / "tokenizer.json").is_file() else FILES
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in COPIED and path.name not in left_out:
            shutil.copyfile(path, folder / path.name)
    for name in FILES:
        if (TOKENIZER / name).is_file() and not (folder / name).exists():
            shutil.copyfile(TOKENIZER / name, folder / name)
    clear_use(folder)
    return model


def check_vocabulary(source: Path, tokenizer: Path = TOKENIZER) -> None:
    """Raises UserError unless ids of the graph's tokenizer mean to this model what they mean to the
    tokenizer.

    tokenizer: the folder of the graph's tokenizer, or the one it will be copied from.
    """
    ours = load_tokenizer(tokenizer)
    rows = int(read_config(source).get_text_config().vocab_size)
    vocabulary = ours.get_vocab(with_added_tokens=True)
    theirs, file = _own_tokenizer(source)
    why = None
    if theirs is not None:
        why = disagreement(theirs, ours) or _other_ends(source, theirs, tokenizer, ours)
    if why:
        advice = (
            f"Set tokenizer.source to {source}."
            if file.endswith("tokenizer.json")
            else (
                f"Put its tokenizer.json there, or remove {file} if you know that the ids are "
                "equal."
            )
        )
        raise UserError(
            f"{file} is not the tokenizer that made {CORPUS} ({tokenizer}): {why}. {advice}"
        )
    if theirs is None:
        print(
            f"base_checkpoint.source = {source}: {file}, so its ids cannot be compared with those "
            f"of {tokenizer}, which has {len(vocabulary):,} of its {rows:,} tokens",
            file=sys.stderr,
        )
    highest = max(vocabulary.values())
    if highest >= rows:
        raise UserError(
            f"its config.json says vocab_size = {rows}, but the tokenizer of tokenizer.source "
            "gives ids up "
            f"to {highest}. Set tokenizer.source to this model's tokenizer, or name the model it "
            "is of."
        )


def _own_tokenizer(source: Path) -> tuple[Tokenizer | None, str]:
    """The model's own tokenizer and the file it is in; or None, and why there is none."""
    if (source / "tokenizer.json").is_file():
        return load_tokenizer(source), str(source / "tokenizer.json")
    older = next((name for name in OLDER_FORMS if (source / name).is_file()), None)
    if older is None:
        return None, "it brings no tokenizer"
    built = built_tokenizer(source)
    return built, f"{source / older}" if built else f"its tokenizer ({older}) cannot be opened here"


def _other_ends(source: Path, theirs: Tokenizer, folder: Path, ours: Tokenizer) -> str | None:
    """A message if the model's own files name other begin or end tokens than the graph's, in
    `folder`; else None."""
    if not (source / "tokenizer_config.json").is_file():
        return None  # the model gets the graph's file
    there, here = bos_eos_ids(source, theirs), bos_eos_ids(folder, ours)
    for place, name in enumerate(("bos_token", "eos_token")):
        if there[place] != here[place]:
            return (
                f"tokenizer_config.json there names the id {there[place]} as {name}, and here "
                f"{here[place]}"
            )
    return None


def _pretrain(config: BaseCheckpointConfig, folder: Path) -> PreTrainedModel:
    if not config.acts:
        raise UserError(
            f"base_checkpoint.source = {config.source}: a base is to be pretrained on it, but "
            "base_checkpoint.acts is empty. Give acts (profiles/sample-base.yaml), or name a model "
            "folder."
        )
    tokenizer = load_tokenizer(TOKENIZER)
    bos, _ = bos_eos_ids(TOKENIZER, tokenizer)
    make_reproducible(config.seed)
    rows = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    model = LlamaForCausalLM(_llama_config(config.architecture, rows, bos))
    attention.register(alone().device, None)
    model.set_attn_implementation(attention.NAME)
    log: list[StepLog] = []
    for number, act in enumerate(config.acts):
        log += _perform(model, act, config, number)
    write_log(folder, log)
    save_model(dict(model.named_parameters()), model.config, TOKENIZER, folder)
    return model


def _llama_config(shape: Architecture, vocabulary: int, bos: int | None) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=None,
        pad_token_id=None,
    )


def _perform(
    model: PreTrainedModel, act: Act, config: BaseCheckpointConfig, number: int
) -> list[StepLog]:
    plain = document_rows(config.source, names_of("domain"), act.row_length, config.seed)
    seen = np.flatnonzero(np.bincount(plain.ravel(), minlength=1)).astype(np.int64)
    rows = RowsInMemory(ids=with_repeats(plain, act.repeated_share, seen, config.seed))
    loss = TokenLoss(model)
    task = Task(
        what=f"pretrain, act {number + 1} of {len(config.acts)}",
        rows=rows,
        optimizer=act.optimizer,
        steps=max(act.tokens // act.optimizer.batch_tokens, 1),
        seed=config.seed + number,
    )
    return list(train(loss, make_optimizer(loss, act.optimizer), task, alone()))


if __name__ == "__main__":
    command(run)
