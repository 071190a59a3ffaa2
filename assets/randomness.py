"""Counter-based randomness: every draw is a pure function of what it is for, never of what was
drawn before.

A generator is keyed by names (seed, domain, document id, purpose), so the same document gets the
same draws whatever the number of workers, the order of the work, or where it was interrupted. The
cost is one 128-bit hash and one Philox state (about 10 microseconds) per key; key documents, not
tokens.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np


def digest(*names: str | int) -> int:
    """128-bit integer that depends on the names, their types and their order, and on nothing else."""
    return int.from_bytes(blake2b(_text(*names), digest_size=16).digest(), "little")


def generator(*names: str | int) -> np.random.Generator:
    """A private random generator for the thing that `names` name, e.g. `generator(seed, "arxiv",
    doc_id)`.
    """
    return np.random.Generator(np.random.Philox(key=digest(*names)))


def fractions(keys: Iterable[str], *names: str | int) -> Iterator[float]:
    """A uniform draw in [0, 1) for each key, the thing that `names` and the key name: half a
    microsecond each, for what they share is hashed once.
    """
    shared = blake2b(_text(*names, ""), digest_size=16)
    for key in keys:
        hasher = shared.copy()
        hasher.update(key.encode())
        yield (int.from_bytes(hasher.digest(), "little") >> 75) / (1 << 53)


def _text(*names: str | int) -> bytes:
    return "\x1f".join(f"{type(name).__name__}:{name}" for name in names).encode()
