"""`python -m orchestration.dvc_exp ARGUMENTS`: `dvc exp run`, which changes in params.yaml what it
must and no other line.

DVC rewrites the whole file for one changed key: it folds long lines, moves comments and drops
nulls, so that the experiment's commit hides the one line that matters. Here DVC's file is read, and
each value that differs is put into the old text at its own place. The cost: one function of DVC's
is replaced. If that gives another meaning than DVC's file has, as where a key is new or taken away,
DVC's file stays.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dvc.utils.hydra
import yaml
from dvc.cli import main as dvc_main

from orchestration import run_cache


def main(arguments: Sequence[str]) -> int:
    """DVC's exit code."""
    run_cache.enable()
    dvc.utils.hydra.apply_overrides = sparing(dvc.utils.hydra.apply_overrides)
    return int(dvc_main(["--wait-for-lock", "exp", "run", *arguments]))


def sparing(apply: Callable[..., None]) -> Callable[..., None]:
    """`apply_overrides`, which leaves alone what need not change."""

    def applied(path: Any, overrides: list[str]) -> None:
        file = Path(path)
        before = file.read_text()
        apply(path, overrides)
        if file.suffix in (".yaml", ".yml"):
            file.write_text(merged(before, file.read_text()))

    return applied


def merged(before: str, after: str) -> str:
    """The text `before` with the meaning of `after`; `after` itself where that can't be had."""
    old, new = yaml.compose(before, yaml.SafeLoader), yaml.safe_load(after)
    text = before
    for start, end, value in sorted(_changes(old, new), key=lambda change: -change[0]):
        text = f"{text[:start]}{_flow(value)}{text[end:]}"
    try:
        return text if yaml.safe_load(text) == new else after
    except yaml.YAMLError:
        return after


def _changes(node: Any, new: Any) -> Iterator[tuple[int, int, Any]]:
    """Where a value begins and ends in the text, and what it is now; of those that differ."""
    if isinstance(node, yaml.MappingNode) and isinstance(new, dict):
        for key, value in node.value:
            name = _meaning(key)
            if name in new:
                yield from _changes(value, new[name])
    elif (
        isinstance(node, yaml.SequenceNode)
        and isinstance(new, list)
        and len(new) == len(node.value)
    ):
        for inner, value in zip(node.value, new, strict=True):
            yield from _changes(inner, value)
    elif _meaning(node) != new:
        yield node.start_mark.index, node.end_mark.index, new


def _meaning(node: Any) -> Any:
    return yaml.safe_load(yaml.serialize(node)) if node is not None else None


def _flow(value: Any) -> str:
    """On one line, as it may stand in a block and within brackets."""
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
