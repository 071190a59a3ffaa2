"""Tokenizer: the base model's own, or a byte-level BPE trained on the corpus.

`source` decides: a folder with a tokenizer.json is copied, and data/raw_corpus means training on
it. Training is deterministic (the trainer breaks ties by token). It uses the training split of the
domains in params.yaml, so a folder of another profile changes nothing.

This stage also checks that the tokenizer has the special tokens that tokenized_corpus will ask for:
it needs no corpus, so the error comes early. The cost: a change of `tokenized_corpus` runs this
stage again, with the same bytes as a result.

Every tokenizer of the project is opened here. A tokenizer.json may store settings of its last use:
truncation, padding, BPE dropout. They would silently cut a document to its first 128 tokens, or pad
it. So they are switched off whenever a tokenizer is opened, with one line on stderr for each file,
and no artefact has them. The cost: a tokenizer.json is parsed twice.
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
"""The special tokens of a tokenizer that is trained here."""
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
"""Lines that were printed already. Each is printed once."""


class TokenizerConfig(Config):
    """Where the tokenizer comes from. `vocab_size` has an effect only if it is trained here."""

    source: Path
    """A folder with tokenizer.json, or `data/raw_corpus` to train on it."""
    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Tokens in all: 2 special ones, 256 bytes, and merges."""


class Special(Config):
    """The part of tokenized_corpus that is read here: which special tokens a document gets."""

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
    """The tokenizer in `folder`, without truncation, padding and dropout.

    Raises UserError if its tokenizer.json cannot be read.
    """
    path = folder / "tokenizer.json"
    described, switched_off = without_use(path)
    try:
        tokenizer = Tokenizer.from_str(orjson.dumps(described).decode())
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{path}: not a tokenizer.json that `tokenizers` can read: {error}"
        ) from None

    note = (
        f"{path}: saved with {', '.join(switched_off)}; "
        "switched off here, so that every text keeps all its tokens"
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

    # A copy with changes: the caller writes it only if something was found.
    changes: dict[str, Any] = {"truncation": None, "padding": None}
    if dropout:
        changes["model"] = model | {"dropout": None}
    return described | changes, found


def clear_use(folder: Path) -> None:
    """Remove truncation, padding and dropout from the tokenizer files in `folder`.

    A file that is not a tokenizer stays as it is: opening it raises the error.
    """
    path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
    # A file without such settings is not written again, so it keeps its bytes.
    with suppress(UserError):
        described, found = without_use(path)
        if found:
            write_json(path, described)

    with suppress(UserError):
        config = config_of(config_path)
        if config.keys() & OF_USE:
            write_json(config_path, {key: config[key] for key in config if key not in OF_USE})


def allow_length(folder: Path, tokens: int) -> None:
    """Raise `model_max_length` in a folder's tokenizer_config.json to `tokens` if it is lower."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    config = config_of(path)
    limit = config.get("model_max_length")
    if isinstance(limit, int | float) and limit < tokens:
        write_json(path, config | {"model_max_length": tokens})


def _short(value: Any) -> str:
    """A JSON value without its braces and quotes."""
    text = orjson.dumps(value).decode().translate(str.maketrans("", "", '"{}'))
    return text.replace(":", " ").replace(",", ", ")


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE. Any text encodes, and decodes to itself after one leading space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        show_progress=False,
        # Sorted: alphabet() has another order in every process, and the order decides the ids.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def _copy(source: Path, folder: Path) -> None:
    """Copy the base model's tokenizer into `folder`, without settings of its last use."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    clear_use(folder)


def _train(config: TokenizerConfig, folder: Path) -> None:
    """Train a tokenizer on the raw corpus and write it into `folder`."""
    if config.source != RAW_CORPUS:
        raise UserError(
            f"tokenizer.source = {config.source}: no tokenizer.json there. "
            f"Name the base model's folder, or {RAW_CORPUS} to train one."
        )
    folders = [RAW_CORPUS / name for name in sorted(names_of("domain"))]
    tokenizer = train_bpe(_train_texts(folders), config.vocab_size)

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
    """The texts of the training split of these domains."""
    for folder in folders:
        for batch in read_documents(folder):
            yield from texts_of(batch, heldout=False)


def bos_eos_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Ids of the tokens that tokenizer_config.json names as begin and end of a text.

    None if it names none, or one that is not in tokenizer.json.
    Raises UserError if it cannot be read.
    """
    bos, eos = _special_texts(folder)
    return (
        None if bos is None else tokenizer.token_to_id(bos),
        None if eos is None else tokenizer.token_to_id(eos),
    )


def special_ids(
    folder: Path, tokenizer: Tokenizer, wanted: Special
) -> tuple[int | None, int | None]:
    """Ids of the tokens that begin and end a document. None for one that is not wanted.

    folder: the tokenizer's. Raises UserError if the tokenizer lacks a wanted token.
    """
    bos, eos = bos_eos_ids(folder, tokenizer)
    bos_text, eos_text = _special_texts(folder)
    if wanted.bos and bos is None:
        raise _no_special(folder, "bos", bos_text)
    if wanted.eos and eos is None:
        raise _no_special(folder, "eos", eos_text)
    return bos if wanted.bos else None, eos if wanted.eos else None


def _no_special(folder: Path, name: str, text: str | None) -> UserError:
    """The message for a wanted special token that is not there. name: bos or eos."""
    why = f"names no {name}_token"
    if text is not None:
        why = f"names {text!r} as {name}_token, which is not a token of tokenizer.json beside it"
    return UserError(
        f"tokenized_corpus.{name} = true, but {folder}/tokenizer_config.json {why}. "
        f"Set tokenized_corpus.{name} to false, or name a token of tokenizer.json there."
    )


def _special_texts(folder: Path) -> tuple[str | None, str | None]:
    """The begin and the end token that tokenizer_config.json names, as text."""
    path = folder / "tokenizer_config.json"
    config = config_of(path)
    try:
        # A token is stored as text, or as an object with its flags.
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
            f"{path.parent}: tokenizer.json without tokenizer_config.json. "
            "Copy both from the base model."
        ) from None
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a tokenizer_config.json: {error}. Copy it from the base model again."
        ) from None


if __name__ == "__main__":
    command(run)
