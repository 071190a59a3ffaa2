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
from pathlib import Path

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from assets.tokenizer import FILES, bos_eos_ids, clear_use, load_tokenizer
from core.checks import CHECKS
from core.command import command
from core.errors import UserError
from core.params import names_of, read_params
from core.sealed import output
from training import attention
from training.base_checkpoint_config import Act, Architecture, BaseCheckpointConfig
from training.batches import RowsInMemory, document_rows, with_repeats
from training.curves import write_log
from training.loop import Task, train
from training.loss import TokenLoss
from training.model import (
    MODEL_SUFFIXES,
    load_model,
    make_reproducible,
    rope_base,
    save_model,
)
from training.optimizer import make_optimizer
from training.parallel import alone
from training.snapshots import StepLog
from training.vocabulary import CORPUS, TOKENIZER, check_vocabulary

COPIED = MODEL_SUFFIXES | {".csv"}


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
    left_out = {CHECKS} if (source / "tokenizer.json").is_file() else {CHECKS, *FILES}
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in COPIED and path.name not in left_out:
            shutil.copyfile(path, folder / path.name)
    for name in FILES:
        if (TOKENIZER / name).is_file() and not (folder / name).exists():
            shutil.copyfile(TOKENIZER / name, folder / name)
    clear_use(folder)
    return model


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
