"""The tokenizer of the whole graph: the base model's own, or a byte-level BPE trained on the corpus.

`source` says which: a folder with a tokenizer.json is taken as it is; the raw corpus is what to train on. Training is
deterministic (the trainer breaks ties by token) and uses the training split alone.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from assets.document_store import FILE, read_documents, texts_of
from assets.stage import Config, UserError, command, output, read_params, write_json

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
BOS, EOS = "<s>", "</s>"


class TokenizerConfig(Config):
    """Where the tokenizer comes from; `vocab_size` counts only when it is trained here."""

    source: Path
    """A folder with tokenizer.json, or `data/raw_corpus` to train on it."""
    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Tokens in all: 2 special ones, 256 bytes, the rest merges."""


def run() -> None:
    """Make data/tokenizer."""
    config = read_params("tokenizer", TokenizerConfig)
    with output("tokenizer") as out:
        if (config.source / "tokenizer.json").is_file():
            _copy(config.source, out.folder)
        else:
            _train(config, out.folder)
        size = load_tokenizer(out.folder).get_vocab_size()
        out.facts = out.metrics = {"vocab_size": size}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`. Raises UserError if its tokenizer.json cannot be read."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: not a tokenizer.json that `tokenizers` can read: {error}") from None


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: any text encodes, and decodes to itself but for one leading space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[BOS, EOS], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return tokenizer


def _copy(source: Path, folder: Path) -> None:
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{source}: tokenizer.json without tokenizer_config.json. Copy both from the base model.")


def _train(config: TokenizerConfig, folder: Path) -> None:
    folders = sorted(path.parent for path in config.source.glob(f"*/{FILE}"))
    if not folders:
        raise UserError(f"tokenizer.source = {config.source}: neither a tokenizer.json nor raw documents there. "
                        "Name the base model's folder, or data/raw_corpus.")
    tokenizer = train_bpe(_train_texts(folders), config.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast",
                                                  "bos_token": BOS, "eos_token": EOS, "add_prefix_space": True})


def _train_texts(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        for batch in read_documents(folder):
            yield from texts_of(batch, heldout=False)


def bos_eos_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Ids of the tokens that tokenizer_config.json names as begin and end of a text; None where it names none."""
    config = json.loads((folder / "tokenizer_config.json").read_text())

    def token_id(key: str) -> int | None:
        token = config.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        return None if text is None else tokenizer.token_to_id(text)

    return token_id("bos_token"), token_id("eos_token")


if __name__ == "__main__":
    command(run)
