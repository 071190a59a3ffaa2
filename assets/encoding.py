"""Text to token ids: the fastest tokenizer whose ids are those of Hugging Face's `tokenizers`, which is the reference.

gigatoken is several times faster and gave the same ids wherever it was tried, but that is a claim about every text. So
documents picked by their id, one in 64 and at least one in each block, are encoded by both, and one difference sends
the whole domain back to the reference. Which of the two worked never shows in the ids; the log says it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

try:
    import gigatoken
except ImportError:  # the extra `fast` is not installed
    gigatoken = None

FAST_IS_HERE = gigatoken is not None
ONE_THREAD = os.environ.get("RAYON_NUM_THREADS") == "1" or os.cpu_count() == 1

ONE_IN = 64
COMPARED_CHARACTERS = 2000
FRESH_AFTER = 256 << 20
"""Characters after which gigatoken starts with an empty cache: in 0.10 it grows without bound (its issue 36)."""

Encoded = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""Offsets, int64[texts + 1], and the ids that they cut."""


class IdsDiffer(Exception):
    """The fast tokenizer gave other ids than the reference."""


class Reference:
    """Hugging Face's `tokenizers`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        encoded = [encoding.ids for encoding in encodings]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        ids = np.concatenate([np.array(each, np.uint32) for each in encoded]) if encoded else np.empty(0, np.uint32)
        return offsets, ids


class Fast:
    """gigatoken, started anew now and then."""

    def __init__(self, folder: Path) -> None:
        """Raises any error of gigatoken's own where it cannot read this tokenizer."""
        self._path = folder / "tokenizer.json"
        self._tokenizer: Any = gigatoken.Tokenizer(str(self._path))
        self._characters = 0

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text, without special tokens."""
        if self._characters > FRESH_AFTER:
            self._tokenizer, self._characters = gigatoken.Tokenizer(str(self._path)), 0
        self._characters += sum(map(len, texts))
        if ONE_THREAD:  # the batch interface brings a slow import and gains nothing
            each = [self._tokenizer.encode(text) for text in texts]
            offsets = np.cumsum([0, *map(len, each)], dtype=np.int64)
            return offsets, np.concatenate(each) if each else np.empty(0, np.uint32)
        layout = self._tokenizer.encode_batch(list(texts)).layout
        return np.asarray(layout.offsets.data, np.int64), np.asarray(layout.content.data, np.uint32)


def check_sample(fast: Fast, reference: Reference, texts: Sequence[str], identities: NDArray[np.uint64]) -> None:
    """Encode some of the texts by both. Raises IdsDiffer, naming the document, where they don't agree."""
    chosen = np.flatnonzero(identities % ONE_IN == 0)
    chosen = chosen if len(chosen) else np.array([int(np.argmin(identities))])
    sample = [texts[number][:COMPARED_CHARACTERS] for number in chosen.tolist()]
    (offsets, ids), (expected_offsets, expected) = fast.encode(sample), reference.encode(sample)
    for number, start, stop, low, high in zip(chosen, offsets, offsets[1:], expected_offsets, expected_offsets[1:],
                                              strict=False):
        if not np.array_equal(ids[start:stop], expected[low:high]):
            raise IdsDiffer(f"document {int(identities[number]):016x}")
