"""Encoding: text to token ids, by gigatoken if it gives the same ids as the reference.

The reference is Hugging Face's `tokenizers`. gigatoken is several times faster and gave the same
ids wherever we tried, but nobody has proved it for every text. So both encode a sample: one
document of each block (about a megabyte), the one with the lowest id, which is random because ids
are hashes. After one difference the whole domain is encoded again by the reference. So the ids
never depend on which of the two was used; the log says which it was.

A special token's text inside a document is text: a page about HTML may contain "</s>". The
reference has a setting for this. gigatoken has none, so it gets the tokenizer without its special
tokens. Before the first document, both must give the same ids for the text of every added token and
for texts in many scripts and styles.

The cost: a difference that shows in no sample goes unnoticed.
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
"""Whether gigatoken is installed."""
ONE_THREAD = os.environ.get("RAYON_NUM_THREADS") == "1" or os.cpu_count() == 1

COMPARED_BYTES = 2000
"""Bytes of the sample from each block: few, as the reference is slow."""
FRESH_AFTER = 256 << 20
"""Bytes after which gigatoken starts with an empty cache. Its cache grows without bound in version
0.10 (its issue 36)."""

Ids = NDArray[np.uint32]


class IdsDiffer(Exception):
    """The fast tokenizer and the reference gave different ids."""


class Reference:
    """Hugging Face's `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """From now on the tokenizer treats the text of special tokens as text."""
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True

    @property
    def added(self) -> list[str]:
        """The texts of the added tokens, including special ones."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """Ids of each text (UTF-8), none of them a special token's."""
        decoded = [text.decode() for text in texts]
        encodings = self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]


class Fast:
    """gigatoken, with its cache emptied from time to time."""

    def __init__(self, folder: Path) -> None:
        """Raises gigatoken's own errors, of any type, if it cannot read this tokenizer."""
        self._described = without_specials(folder / "tokenizer.json")
        self._tokenizer: Any = gigatoken.Tokenizer.from_json(self._described)
        self._bytes = 0

    def encode(self, texts: Sequence[bytes]) -> list[Ids]:
        """Ids of each text (UTF-8), none of them a special token's."""
        if self._bytes > FRESH_AFTER:
            self._tokenizer, self._bytes = gigatoken.Tokenizer.from_json(self._described), 0
        self._bytes += sum(map(len, texts))

        # With one thread the batch interface has a slow import and no advantage.
        if ONE_THREAD:
            return [self._tokenizer.encode(text) for text in texts]
        layout = self._tokenizer.encode_batch(list(texts)).layout
        offsets = np.asarray(layout.offsets.data)
        ids = np.asarray(layout.content.data, np.uint32)
        return [ids[start:stop] for start, stop in pairwise(offsets.tolist())]


def without_specials(path: Path) -> bytes:
    """A tokenizer.json without special tokens, template, truncation, padding and dropout."""
    tokenizer, _ = without_use(path)
    added = [token for token in tokenizer.get("added_tokens") or [] if not token.get("special")]
    return orjson.dumps(tokenizer | {"added_tokens": added, "post_processor": None})


def check_specials(fast: Fast, reference: Reference) -> None:
    """Compare the ids of both for every added token, alone and among words, and for PROBES.

    Raises IdsDiffer if they differ.
    """
    texts = [text.encode() for text in PROBES]
    for token in reference.added:
        texts += [text.encode() for text in around(token)]

    for text, ours, theirs in zip(texts, fast.encode(texts), reference.encode(texts), strict=True):
        if not np.array_equal(ours, theirs):
            raise IdsDiffer(f"the text {text.decode()!r}")


def check_sample(
    fast: Fast, reference: Reference, texts: Sequence[bytes], identities: NDArray[np.uint64]
) -> None:
    """Encode the beginning of one of the texts by both. Raises IdsDiffer if the ids differ.

    identities: the document ids of the texts, uint64[texts].
    """
    chosen = int(np.argmin(identities))
    # "ignore" drops a character that is cut in two.
    beginning = texts[chosen][:COMPARED_BYTES].decode("utf-8", "ignore").encode()
    if not np.array_equal(fast.encode([beginning])[0], reference.encode([beginning])[0]):
        raise IdsDiffer(f"document {int(identities[chosen]):016x}")
