"""Randomness: every draw is a function of its key, never of earlier draws.

A generator is keyed by names (seed, domain, document id, purpose). So a document gets the same
draws for any number of workers, in any order of the work, and after any interruption.

The cost is a 128-bit hash and a Philox state for each key, about 10 microseconds. So give keys to
documents, not to tokens.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np


def digest(*names: str | int) -> int:
    """A 128-bit integer that depends only on the names, their types and their order."""
    return int.from_bytes(blake2b(_text(*names), digest_size=16).digest(), "little")


def generator(*names: str | int) -> np.random.Generator:
    """A generator for one purpose, for example `generator(seed, "arxiv", doc_id)`."""
    return np.random.Generator(np.random.Philox(key=digest(*names)))


def fractions(keys: Iterable[str], *names: str | int) -> Iterator[float]:
    """A uniform draw in [0, 1) for each key, decided by `names` and the key.

    Half a microsecond each, because the names are hashed only once.
    """
    shared = blake2b(_text(*names, ""), digest_size=16)
    for key in keys:
        hasher = shared.copy()
        hasher.update(key.encode())
        # A float has 53 bits of precision: use that many of the 128.
        yield (int.from_bytes(hasher.digest(), "little") >> 75) / (1 << 53)


def _text(*names: str | int) -> bytes:
    """The names as bytes, with their types: 1 and "1" are different names."""
    return "\x1f".join(f"{type(name).__name__}:{name}" for name in names).encode()
