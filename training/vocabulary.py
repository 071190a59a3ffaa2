"""Check that a base model and the graph's tokenizer use the same ids.

Rows of one tokenizer mean nothing to a model of another. make check runs this before anything else,
and the stage before it copies. So it opens tokenizers and config.json only. transformers takes
seconds to import. It is used only for a config.json that is not a plain Llama's, and for older
forms of a tokenizer.
"""

import sys
from pathlib import Path

from tokenizers import Tokenizer

from assets.agreement import disagreement
from assets.tokenizer import bos_eos_ids, load_tokenizer
from core.errors import UserError
from training.config_json import plain_llama

TOKENIZER = Path("data/tokenizer")
CORPUS = Path("data/tokenized_corpus")
# Files that may hold the tokenizer of a folder without tokenizer.json.
OLDER_FORMS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def check_vocabulary(source: Path, tokenizer: Path = TOKENIZER) -> None:
    """Raise UserError unless the model in `source` uses the ids of the graph's tokenizer.

    tokenizer: the folder of the graph's tokenizer, or the one it will be copied from.
    """
    ours = load_tokenizer(tokenizer)
    rows = _embedding_rows(source)
    vocabulary = ours.get_vocab(with_added_tokens=True)
    theirs, file = _own_tokenizer(source)
    why = None
    if theirs is not None:
        why = disagreement(theirs, ours) or _other_ends(source, theirs, tokenizer, ours)

    if why:
        if file.endswith("tokenizer.json"):
            advice = f"Set tokenizer.source to {source}."
        else:
            advice = (
                "Put its tokenizer.json there, "
                f"or remove {file} if you know that the ids are equal."
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
            f"gives ids up to {highest}. "
            "Set tokenizer.source to this model's tokenizer, or name the model it is of."
        )


def _embedding_rows(source: Path) -> int:
    """The number of ids that the model embeds. Raises UserError without a config.json."""
    plain = plain_llama(source)
    if plain is not None:
        return plain.vocab_size
    from training.model import read_config

    return int(read_config(source).get_text_config().vocab_size)


def _own_tokenizer(source: Path) -> tuple[Tokenizer | None, str]:
    """The model's own tokenizer and its file; or None, and the reason as a phrase."""
    if (source / "tokenizer.json").is_file():
        return load_tokenizer(source), str(source / "tokenizer.json")
    older = next((name for name in OLDER_FORMS if (source / name).is_file()), None)
    if older is None:
        return None, "it brings no tokenizer"
    from training.model import built_tokenizer

    built = built_tokenizer(source)
    if built is None:
        return None, f"its tokenizer ({older}) cannot be opened here"
    return built, f"{source / older}"


def _other_ends(source: Path, theirs: Tokenizer, folder: Path, ours: Tokenizer) -> str | None:
    """What differs, if the model's files name other begin or end tokens than those in `folder`."""
    if not (source / "tokenizer_config.json").is_file():
        return None  # the graph's file is copied
    there, here = bos_eos_ids(source, theirs), bos_eos_ids(folder, ours)
    for place, name in enumerate(("bos_token", "eos_token")):
        if there[place] != here[place]:
            return (
                f"tokenizer_config.json there names the id {there[place]} as {name}, "
                f"and here {here[place]}"
            )
    return None
