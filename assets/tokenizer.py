"""The tokenizer of the whole graph: the base model's own, or a byte-level BPE trained on the
corpus.

`source` says which: a folder with a tokenizer.json is taken as it is; the raw corpus is what to
train on. Training is deterministic (the trainer breaks ties by token) and uses the training split
alone, of the domains that params.yaml names: a folder that another profile left behind changes
nothing.

The special tokens that tokenized_corpus will ask for are looked up here, for this stage needs no
corpus. The cost is that a change of `tokenized_corpus` runs this stage again, to the same bytes.

Every tokenizer of the project is opened here. A tokenizer.json may store settings of its last use:
truncation, padding, BPE dropout. Left on, they would silently cut a document to its first 128
tokens, or pad it. They are switched off whenever a tokenizer is opened, with a line on stderr once
for each file, and no artefact carries them. The cost: a tokenizer.json is parsed twice.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from assets.document_store import read_documents, texts_of
from core.command import command
from core.errors import UserError
from core.missing import missing
from core.params import Config, names_of, read_params
from core.sealed import output, write_json

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
BOS, EOS = "<s>", "</s>"
RAW_CORPUS = Path("data/raw_corpus")
OF_USE = {
    "max_length",
    "stride",
    "truncation_strategy",
    "pad_to_multiple_of",
    "truncation",
    "padding",
}
"""Keys of tokenizer_config.json in which transformers stores the settings of the last use."""
_printed: set[str] = set()
"""Lines that were printed already: each is printed once."""


class TokenizerConfig(Config):
    """Where the tokenizer comes from; `vocab_size` counts only when it is trained here."""

    source: Path
    """A folder with tokenizer.json, or `data/raw_corpus` to train on it."""
    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Tokens in all: 2 special ones, 256 bytes, the rest merges."""


class Special(Config):
    """The part of tokenized_corpus that matters here: which special tokens a document will carry."""

    model_config = {**Config.model_config, "extra": "ignore"}
    bos: bool = True
    """Begin every document with the tokenizer's begin token."""
    eos: bool = False
    """End every document with its end token."""


def run() -> None:
    """Make data/tokenizer."""
    config = read_params("tokenizer", TokenizerConfig)
    special = read_params("tokenized_corpus", Special)
    with output("tokenizer") as out:
        if (config.source / "tokenizer.json").is_file():
            special_ids(config.source, load_tokenizer(config.source), special)
            _copy(config.source, out.folder)
        else:
            _train(config, out.folder)
        size = load_tokenizer(out.folder).get_vocab_size()
        out.facts = out.metrics = {"vocab_size": size}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`, without truncation, padding and dropout. Raises UserError if its
    tokenizer.json cannot be read."""
    path = folder / "tokenizer.json"
    described, switched_off = without_use(path)
    try:
        tokenizer = Tokenizer.from_str(orjson.dumps(described).decode())
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{path}: not a tokenizer.json that `tokenizers` can read: {error}"
        ) from None
    note = (
        f"{path}: saved with {', '.join(switched_off)}; switched off here, so that every text "
        "keeps all its tokens"
    )
    if switched_off and note not in _printed:
        _printed.add(note)
        print(note, file=sys.stderr)
    return tokenizer


def without_use(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A tokenizer.json without truncation, padding and dropout, and a phrase for each that it had.

    Raises UserError if it is missing or not JSON.
    """
    if not path.is_file():
        raise missing(path)
    try:
        described = orjson.loads(path.read_bytes())
        model, truncation = described["model"], described.get("truncation")
        padding, dropout = described.get("padding"), model.get("dropout")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a tokenizer.json that `tokenizers` can read: {error!r}"
        ) from None
    found = []
    if truncation is not None:
        found.append(f"truncation ({_short(truncation)})")
    if padding is not None:
        found.append(f"padding ({_short(padding)})")
    if dropout:
        found.append(f"BPE dropout ({dropout})")
    changes: dict[str, Any] = {"truncation": None, "padding": None}
    if dropout:
        changes["model"] = model | {"dropout": None}
    return described | changes, found


def clear_use(folder: Path) -> None:
    """Remove truncation, padding and dropout from the tokenizer files in `folder`.

    A file that is not a tokenizer stays as it is: opening it will refuse it.
    """
    path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    with suppress(UserError):
        described, found = without_use(path)
        if found:
            write_json(path, described)
    with suppress(UserError):
        config = config_of(config_path)
        if config.keys() & OF_USE:
            write_json(config_path, {key: config[key] for key in config if key not in OF_USE})


def allow_length(folder: Path, tokens: int) -> None:
    """Raise `model_max_length` in `folder`'s tokenizer_config.json to `tokens`, if it has a lower
    one."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    config = config_of(path)
    if isinstance(limit := config.get("model_max_length"), int | float) and limit < tokens:
        write_json(path, config | {"model_max_length": tokens})


def _short(value: Any) -> str:
    """A JSON value in a few words."""
    text = orjson.dumps(value).decode().translate(str.maketrans("", "", '"{}'))
    return text.replace(":", " ").replace(",", ", ")


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: any text encodes, and decodes to itself but for one leading space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def _copy(source: Path, folder: Path) -> None:
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    clear_use(folder)


def _train(config: TokenizerConfig, folder: Path) -> None:
    if config.source != RAW_CORPUS:
        raise UserError(
            f"tokenizer.source = {config.source}: no tokenizer.json there. Name the base model's "
            "folder, "
            f"or {RAW_CORPUS} to train one."
        )
    tokenizer = train_bpe(
        _train_texts([RAW_CORPUS / name for name in sorted(names_of("domain"))]), config.vocab_size
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "add_prefix_space": True,
        },
    )


def _train_texts(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        for batch in read_documents(folder):
            yield from texts_of(batch, heldout=False)


def bos_eos_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Ids of the tokens that tokenizer_config.json names as begin and end of a text; None where it
    names none, or one that tokenizer.json does not hold. Raises UserError where it can't be read.
    """
    ids = [None if text is None else tokenizer.token_to_id(text) for text in _special_texts(folder)]
    return ids[0], ids[1]


def special_ids(
    folder: Path, tokenizer: Tokenizer, wanted: Special
) -> tuple[int | None, int | None]:
    """Ids of the tokens that begin and end a document, None for one that it does not carry. Raises
    UserError where the tokenizer, whose folder that is, lacks one that it should.
    """
    ids = bos_eos_ids(folder, tokenizer)
    for place, (name, on) in enumerate((("bos", wanted.bos), ("eos", wanted.eos))):
        if on and ids[place] is None:
            text = _special_texts(folder)[place]
            why = (
                f"names no {name}_token"
                if text is None
                else (
                    f"names {text!r} as {name}_token, which is no token of tokenizer.json beside it"
                )
            )
            raise UserError(
                f"tokenized_corpus.{name} = true, but {folder}/tokenizer_config.json {why}. Set "
                f"tokenized_corpus.{name} to false, or name a token of tokenizer.json there."
            )
    return ids[0] if wanted.bos else None, ids[1] if wanted.eos else None


def _special_texts(folder: Path) -> tuple[str | None, str | None]:
    """What tokenizer_config.json names as the token that begins a text, and the one that ends it."""
    path = folder / "tokenizer_config.json"
    config = config_of(path)
    try:
        named = [config.get(key) for key in ("bos_token", "eos_token")]
        texts = [token["content"] if isinstance(token, dict) else token for token in named]
    except KeyError as error:
        raise UserError(
            f"{path}: not a tokenizer_config.json: {error}. Copy it from the base model again."
        ) from None
    return texts[0], texts[1]


def config_of(path: Path) -> dict[str, Any]:
    """A tokenizer_config.json. Raises UserError if it is missing or not a JSON object."""
    try:
        config = json.loads(path.read_text())
        return dict(config.items())
    except FileNotFoundError:
        raise UserError(
            f"{path.parent}: tokenizer.json without tokenizer_config.json. Copy both "
            "from the base model."
        ) from None
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a tokenizer_config.json: {error}. Copy it from the base model again."
        ) from None


if __name__ == "__main__":
    command(run)
