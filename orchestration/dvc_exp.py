"""`python -m orchestration.dvc_exp ARGUMENTS`: `dvc exp run`, with minimal edits of params.yaml.

DVC rewrites the whole file for one changed key: it folds long lines, moves comments and drops
nulls. The experiment's commit then hides the one line that matters. This module reads DVC's new
file and puts each changed value into the old text, in its place. The cost: one function of DVC is
replaced. DVC's own file stays if the edited text would have another meaning, for example if a key
is added or removed.
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
    """Run `dvc exp run` with these arguments. Returns DVC's exit code."""
    # Without it, outputs with `persist: true` would not be restored.
    run_cache.enable()
    dvc.utils.hydra.apply_overrides = sparing(dvc.utils.hydra.apply_overrides)
    return int(dvc_main(["--wait-for-lock", "exp", "run", *arguments]))


def sparing(apply: Callable[..., None]) -> Callable[..., None]:
    """DVC's `apply_overrides`, without changes of other lines."""

    def applied(path: Any, overrides: list[str]) -> None:
        file = Path(path)
        before = file.read_text()
        apply(path, overrides)
        # DVC also edits .json, .toml and .py files. `merged` reads YAML only.
        if file.suffix in (".yaml", ".yml"):
            file.write_text(merged(before, file.read_text()))

    return applied


def merged(before: str, after: str) -> str:
    """The text `before` with the values of `after`; `after` itself if that is impossible."""
    old = yaml.compose(before, yaml.SafeLoader)
    new = yaml.safe_load(after)
    text = before
    # From the end of the text, so that the positions of the earlier changes stay valid.
    for start, end, value in sorted(_changes(old, new), key=lambda change: -change[0]):
        text = f"{text[:start]}{_flow(value)}{text[end:]}"

    # Keys that were added or removed are not among the changes.
    try:
        return text if yaml.safe_load(text) == new else after
    except yaml.YAMLError:
        return after


def _changes(node: Any, new: Any) -> Iterator[tuple[int, int, Any]]:
    """Each changed value: where the old one starts and ends in the text, and the new value."""
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
    """A value as YAML on one line, valid in a block and within brackets."""
    # PyYAML ends a plain scalar with the document marker "...".
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
