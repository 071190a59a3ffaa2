"""Nested maps as one list of values, each with its dotted name: params.yaml, and metrics files."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested maps, with its name: ("recipes.cut", 7). name: of `value` itself."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}" if name else str(key))
