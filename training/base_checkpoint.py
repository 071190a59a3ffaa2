"""The base model: an existing folder, or a small Llama pretrained here at short context.

`source` decides. A transformers folder is copied. With data/tokenized_corpus, a model is pretrained
on its domains. The result is a complete model folder, with the graph's tokenizer if the base has
none. Two kinds of base are refused: one that can't be trained here later, and one whose tokenizer
gives other ids than the graph's. Both checks are cheap compared with a training.

Extension carries over a skill that the base already has, and learning that skill takes minutes. So
the sample ships a base that this stage pretrained (models/sample-base, with its log), and the demo
copies it.

The curriculum has two phases: short rows, some of which repeat a random span verbatim; then rows of
the full base context with fewer repeats. Without the first phase the model stays on a plateau where
it recalls nothing (docs/log.md).
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
from training.base_checkpoint_config import Architecture, BaseCheckpointConfig, Phase
from training.batches import RowsInMemory, document_rows, with_repeats
from training.curves import write_log
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
from training.trainer import Task, train
from training.vocabulary import CORPUS, TOKENIZER, check_vocabulary

COPIED = MODEL_SUFFIXES | {".csv"}  # with the training curve that a base brings


def run() -> None:
    """Make data/base_checkpoint."""
    config = read_params("base_checkpoint", BaseCheckpointConfig)
    with output("base_checkpoint") as out:
        if not any(phase.optimizer.kind == "adamw_8bit" for phase in config.acts):
            out.unused.add("torchao")
        make = _pretrain if config.source == CORPUS else _copy_base
        model = make(config, out.folder)

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


def _copy_base(config: BaseCheckpointConfig, folder: Path) -> PreTrainedModel:
    """Copy a model folder. Raises UserError if it can't be loaded, or has another tokenizer."""
    source = config.source
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

    # Without tokenizer.json the graph's tokenizer is used. The other files of the base's own one
    # would not fit it.
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
    """Pretrain a small Llama, one phase of the curriculum after the other."""
    if not config.acts:
        raise UserError(
            f"base_checkpoint.source = {config.source}: a base is pretrained on it, but "
            "base_checkpoint.acts is empty. "
            "Give acts (profiles/sample-base.yaml), or name a model folder."
        )

    tokenizer = load_tokenizer(TOKENIZER)
    bos, _ = bos_eos_ids(TOKENIZER, tokenizer)
    make_reproducible(config.seed)
    # The embedding needs a row for the highest id, even if ids below it are unused.
    rows = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    model = LlamaForCausalLM(_llama_config(config.architecture, rows, bos))
    attention.register(alone().device, None)
    model.set_attn_implementation(attention.NAME)

    log: list[StepLog] = []
    for number, phase in enumerate(config.acts):
        log += _train_phase(model, phase, config, number)
    write_log(folder, log)
    save_model(dict(model.named_parameters()), model.config, TOKENIZER, folder)
    return model


def _llama_config(shape: Architecture, vocabulary: int, bos: int | None) -> LlamaConfig:
    """The config of a Llama with tied embeddings.

    vocabulary: rows of the embedding. bos: id of the begin token, if the tokenizer has one.
    """
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


def _train_phase(
    model: PreTrainedModel, phase: Phase, config: BaseCheckpointConfig, number: int
) -> list[StepLog]:
    """Train one phase of the curriculum; `number` counts from 0. Returns a line for each step."""
    plain = document_rows(config.source, names_of("domain"), phase.row_length, config.seed)
    # Repeated spans are made of tokens that occur in the corpus; others would never be read again.
    seen = np.flatnonzero(np.bincount(plain.ravel(), minlength=1)).astype(np.int64)
    rows = RowsInMemory(ids=with_repeats(plain, phase.repeated_share, seen, config.seed))

    loss = TokenLoss(model)
    task = Task(
        what=f"pretrain, phase {number + 1} of {len(config.acts)}",
        rows=rows,
        optimizer=phase.optimizer,
        steps=max(phase.tokens // phase.optimizer.batch_tokens, 1),
        seed=config.seed + number,
    )
    return list(train(loss, make_optimizer(loss, phase.optimizer), task, alone()))


if __name__ == "__main__":
    command(run)
