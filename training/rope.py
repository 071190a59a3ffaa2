"""Which RoPE base reaches how far. The base is written into the saved config, so any loader sees what training saw.

Raising the base slows every rotation but the fastest; a position no training row ever reached then turns by angles
that shorter rows have shown already. Source: Fu et al. 2024, section 3, and the authors' answer in thread 10 of their
repository: the base is raised before training, and any whose longest wavelength passes the target will do.
"""

from math import pi


def ntk_base(base: float, factor: float, length: int, trained_length: int, head_dim: int) -> float:
    """The base that dynamic NTK scaling with `factor` reaches at `length` tokens, as the released loader computes it.

    ntk_base(10_000, 10, 81_920, 4_096, 128) = 2.08 million. Raises ValueError if `length` was already trained.
    """
    if length <= trained_length:
        raise ValueError(f"length {length} is within the trained {trained_length} tokens: no scaling is needed")
    stretch = factor * length / trained_length - (factor - 1)
    return float(base * stretch ** (head_dim / (head_dim - 2)))


def longest_wavelength(base: float, head_dim: int) -> float:
    """Tokens in one full turn of the slowest rotating pair of dimensions."""
    return float(2 * pi * base ** ((head_dim - 2) / head_dim))


def base_covering(length: int, head_dim: int) -> float:
    """The smallest base whose longest wavelength is `length` tokens: the inverse of `longest_wavelength`."""
    return float((length / (2 * pi)) ** (head_dim / (head_dim - 2)))
