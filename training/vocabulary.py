"""Whether a base model and the graph's tokenizer go together: rows of one tokenizer mean nothing to
a model of another.

make check asks it before anything runs, the stage before it copies. So it opens tokenizers and
config.json only. transformers, which takes seconds to import, is asked about models whose
config.json is not a plain Llama's, and about older forms of a tokenizer.
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
OLDER_FORMS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files that may hold the tokenizer of a folder without tokenizer.json."""


def check_vocabulary(source: Path, tokenizer: Path = TOKENIZER) -> None:
    """Raises UserError unless ids of the graph's tokenizer mean to this model what they mean to the
    tokenizer.

    tokenizer: the folder of the graph's tokenizer, or the one it will be copied from.
    """
    ours = load_tokenizer(tokenizer)
    rows = _rows(source)
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


def _rows(source: Path) -> int:
    """Ids that the model has an embedding for. Raises UserError without a config.json."""
    plain = plain_llama(source)
    if plain is not None:
        return plain.vocab_size
    from training.model import read_config

    return int(read_config(source).get_text_config().vocab_size)


def _own_tokenizer(source: Path) -> tuple[Tokenizer | None, str]:
    """The model's own tokenizer and the file it is in; or None, and why there is none."""
    if (source / "tokenizer.json").is_file():
        return load_tokenizer(source), str(source / "tokenizer.json")
    older = next((name for name in OLDER_FORMS if (source / name).is_file()), None)
    if older is None:
        return None, "it brings no tokenizer"
    from training.model import built_tokenizer

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
