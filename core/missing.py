"""The message for a file that should be there and is not.

The message names the command that makes the file, or the key of params.yaml that names it. Both are
guessed from the path in the error, so that no reader of files needs a check of its own. The cost: a
file that no stage makes and no parameter names keeps its traceback.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.params import NAME, PARAMS, read_all_params
from core.sealed import DATA, METRICS

MADE = re.compile(rf"(?<![\w./-])(?:{DATA.name}|{METRICS.name})/[^'\"\s]+")
"""A path inside data/ or metrics/, in a text."""


def missing(path: Path) -> UserError:
    """The error for a file that is not there. Names the command that makes it, if a stage does."""
    parts = path.parts
    # An absolute path is not of this project, and data/ alone names no stage.
    if path.is_absolute() or len(parts) < 2 or parts[0] not in (DATA.name, METRICS.name):
        return UserError(f"{path}: no such file or folder.")

    # data/STAGE/ITEM/..., or metrics/STAGE/ITEM.json.
    names = list(parts[1:])
    if parts[0] == METRICS.name:
        names = [name.removesuffix(".json") for name in names]
    stage, *inside = names
    # A stage without items has files there. Their names have a dot; no item's name has one.
    item = f"@{inside[0]}" if inside and NAME.fullmatch(inside[0]) else ""
    return UserError(
        f"{path}: not there. Make it first: python -m orchestration.repro {stage}{item}"
    )


def explained(error: FileNotFoundError) -> UserError | None:
    """A missing file in words. None for one that no stage makes and params.yaml does not name."""
    # Arrow's error has no filename, and its text has the full path.
    text = str(error.filename or error).replace(f"{Path.cwd()}/", "")
    if made := MADE.search(text):
        return missing(Path(made[0].rstrip(".,:;")))

    # Without params.yaml its reader would report that file instead.
    if not PARAMS.is_file():
        return None
    for key, path in _paths_in(read_all_params(PARAMS)):
        # The whole path only: "a/b" must not match "a/bc" or "x/a/b".
        if re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", text):
            return UserError(
                f"{PARAMS}: {key} = {path}: no such file or folder ({text}). "
                "Name one that is there."
            )
    return None


def _paths_in(values: Any, *keys: str) -> Iterator[tuple[str, str]]:
    """Every text in nested maps that could be a path, with its dotted key."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _paths_in(value, *keys, str(key))
    # A slash or a dot: other texts are names and kinds, which would match by chance.
    elif isinstance(values, str) and ("/" in values or "." in values) and "\n" not in values:
        yield ".".join(keys), values.rstrip("/")
