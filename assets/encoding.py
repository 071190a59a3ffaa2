"""Text to token ids: the fastest tokenizer whose ids are those of Hugging Face's `tokenizers`,
which is the reference.

gigatoken is several times faster and gave the same ids wherever it was tried, but that is a claim
about every text. So in each block (about a megabyte) the document of the lowest id, as good as
drawn, is encoded by both, and one difference sends the whole domain back to the reference. Which of
the two worked never shows in the ids; the log says it.

A special token's text inside a document is text: a page about HTML may contain "</s>". The
reference has a setting for this. gigatoken has none, so it gets the tokenizer without its special
tokens. Before the first document both must give the same ids for the text of every added token and
for a text in each of many scripts and styles.
"""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from assets.agreement import PROBES, around
from assets.tokenizer import without_use

try:
    import gigatoken
except ImportError:  # the extra `fast` is not installed
    gigatoken = None

FAST_IS_HERE = gigatoken is not None
ONE_THREAD = os.environ.get("RAYON_NUM_THREADS") == "1" or os.cpu_count() == 1

COMPARED_BYTES = 2000
FRESH_AFTER = 256 << 20
"""Bytes after which gigatoken starts with an empty cache: in 0.10 it grows without bound (its issue
36).
"""

Ids = NDArray[np.uint32]


class IdsDiffer(Exception):
    """The fast tokenizer gave other ids than the reference."""


class Reference:
    """Hugging Face's `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """The tokenizer is from now on one that takes the text of special tokens for text."""
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True

    @property
    def added(self) -> list[str]:
        """The texts of the added tokens, special ones among them."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """Ids of each text (UTF-8), none of them a special token's."""
        decoded = [text.decode() for text in texts]
        return [
            np.array(encoding.ids, np.uint32)
            for encoding in self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        ]


class Fast:
    """gigatoken, started anew now and then."""

    def __init__(self, folder: Path) -> None:
        """Raises any error of gigatoken's own where it cannot read this tokenizer."""
        self._described = without_specials(folder / "tokenizer.json")
        self._tokenizer: Any = gigatoken.Tokenizer.from_json(self._described)
        self._bytes = 0

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """Ids of each text (UTF-8), none of them a special token's."""
        if self._bytes > FRESH_AFTER:
            self._tokenizer, self._bytes = gigatoken.Tokenizer.from_json(self._described), 0
        self._bytes += sum(map(len, texts))
        if ONE_THREAD:  # the batch interface brings a slow import and gains nothing
            return [self._tokenizer.encode(text) for text in texts]
        layout = self._tokenizer.encode_batch(list(texts)).layout
        offsets, ids = np.asarray(layout.offsets.data), np.asarray(layout.content.data, np.uint32)
        return [ids[start:stop] for start, stop in pairwise(offsets.tolist())]


def without_specials(path: Path) -> bytes:
    """A tokenizer.json without special tokens, template, truncation, padding and dropout."""
    tokenizer, _ = without_use(path)
    added = [token for token in tokenizer.get("added_tokens") or [] if not token.get("special")]
    return orjson.dumps(tokenizer | {"added_tokens": added, "post_processor": None})


def check_specials(fast: Fast, reference: Reference) -> None:
    """Compare the ids of both for every added token, alone and among words, and for PROBES.

    Raises IdsDiffer where they differ.
    """
    of_added = [text for token in reference.added for text in around(token)]
    texts = [text.encode() for text in (*of_added, *PROBES)]
    for text, ours, theirs in zip(texts, fast.encode(texts), reference.encode(texts), strict=True):
        if not np.array_equal(ours, theirs):
            raise IdsDiffer(f"the text {text.decode()!r}")


def check_sample(
    fast: Fast, reference: Reference, texts: Sequence[bytes], identities: NDArray[np.uint64]
) -> None:
    """Encode the beginning of one of the texts by both. Raises IdsDiffer, naming the document,
    where they differ.
    """
    chosen = int(np.argmin(identities))
    # no character cut in two
    beginning = texts[chosen][:COMPARED_BYTES].decode("utf-8", "ignore").encode()
    if not np.array_equal(fast.encode([beginning])[0], reference.encode([beginning])[0]):
        raise IdsDiffer(f"document {int(identities[chosen]):016x}")
