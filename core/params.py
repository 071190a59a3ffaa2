"""params.yaml: read by one function, validated before any work, items named once.

A stage named `packed_shards` reads the section `packed_shards`. Each section has a pydantic model
that refuses unknown keys, so a typing error stops the stage instead of being ignored. Names of
items (domains, recipes, models) are the keys of maps in params.yaml, and `names_of` is the only
reader of them. The cost: the whole file is parsed again for each section, 1 ms in C.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UserError

PARAMS = Path("params.yaml")
ITEMS = {
    "domain": "raw_corpus.domains",
    "recipe": "mixed_dataset.recipes",
    "model": "checkpoint.models",
}
"""Where params.yaml names the items of stages, by what their commands call one."""
NAME = re.compile(r"[A-Za-z0-9_-]+")
TAKEN = {
    "raw_corpus.domains": {
        "all": "is the row of all domains together in every table of shares",
        "record": "is the file record.json of data/token_demand",
    }
}
"""Names that an item cannot have, and why."""


class Config(BaseModel):
    """A section of params.yaml: frozen, unknown keys refused, validated at birth.

    NaN and infinity are refused, because no limit holds NaN back: every comparison with it is
    false.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def read_params(section: str, model: type[AnyConfig], path: Path | None = None) -> AnyConfig:
    """The validated `section` of params.yaml. Dots go deeper: "mixed_dataset.recipes.global".

    Raises UserError with the key, the value and what is allowed.
    """
    path = path or PARAMS
    return validated(model, _section(section, path), f"{path}: {section}")


def names_of(what: str) -> list[str]:
    """The items that params.yaml declares, in its order. what: "domain", "recipe" or "model".

    Raises UserError.
    """
    items = _section(ITEMS[what], PARAMS) or {}
    if not isinstance(items, dict):
        raise UserError(
            f"{PARAMS}: {ITEMS[what]} = {items!r}: not a map from names. "
            "profiles/sample.yaml shows one."
        )
    return list(items)


def check_item(what: str, name: str) -> None:
    """Raises UserError unless params.yaml has that item. what: "domain", "recipe" or "model"."""
    known = names_of(what)
    if name not in known:
        raise UserError(
            f"{PARAMS}: {ITEMS[what]} has no {name!r}, only {', '.join(known) or 'nothing'}. "
            "Add it, or use one of those."
        )


def read_all_params(path: Path) -> dict[str, Any]:
    """The whole of params.yaml as plain values.

    Raises UserError if it is not YAML, or if a name of an item cannot be one.
    """
    try:
        sections = parse_yaml(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path.resolve()}: no such file. "
            "Run from the project's root, or put a profile in place: make profile NAME=sample"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}. Fix the line it names.") from None
    if not isinstance(sections, dict):
        raise UserError(
            f"{path}: not a map from stages to their settings. profiles/sample.yaml shows one."
        )
    for where in ITEMS.values():
        _check_names(sections, where, path)
    return sections


def parse_yaml(text: str) -> Any:
    """YAML 1.1 as plain values."""
    # The C loader if PyYAML has it: 1 ms for params.yaml, where the one in Python takes 17.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _check_names(sections: Mapping[str, Any], where: str, path: Path) -> None:
    """Raises UserError if a name of the map at `where` cannot be an item's name."""
    section, key = where.split(".")
    declared = sections.get(section)
    items = declared.get(key) if isinstance(declared, dict) else None
    for name in items if isinstance(items, dict) else ():
        _check_name(name, f"{path}: {where}")
        if why := TAKEN.get(where, {}).get(name):
            raise UserError(
                f"{path}: {where}: {name!r} cannot be a domain's name: it {why}. Take another."
            )


def _check_name(name: Any, where: str) -> None:
    """A name is a folder, a word of a command and a part of a dotted key: plain in all three."""
    if not isinstance(name, str):
        raise UserError(
            f"{where}: YAML reads a name there as {name!r}, not as text. "
            'Write it in quotes, as in "2024": or "no":.'
        )
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where}: {name!r} cannot be a name: it is a folder and a word of a command. "
            "Use letters, digits, _ and -."
        )


def _section(section: str, path: Path) -> Any:
    """The value at a dotted key of the file. Raises UserError that names what is there instead."""
    node: Any = read_all_params(path)
    for depth, key in enumerate(section.split(".")):
        if not isinstance(node, dict) or key not in node:
            known = ", ".join(map(str, node)) if isinstance(node, dict) else "nothing"
            where = ".".join(section.split(".")[:depth]) or "the file"
            raise UserError(
                f"{path}: no section {section!r}: {where} holds {known}. "
                f"Add {key!r}, or use one of those."
            )
        node = node[key]
    return node


def validated(model: type[AnyConfig], values: Any, where: str) -> AnyConfig:
    """`values` as a `model`.

    Raises UserError with one line for each key that is missing, unknown or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, where, problem) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _explain(model: type[Config], where: str, problem: Any) -> str:
    """One of pydantic's problems as a line."""
    key = ".".join(str(part) for part in problem["loc"])
    name = f"{where}.{key}" if key else where
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown key. Known here: {', '.join(_known(model, problem['loc'][:-1]))}."
    if problem["type"] == "missing":
        return f"{name}: missing. Add it; profiles/sample.yaml shows every key."
    return f"{name} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}."


def _known(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The names of the fields at `path` in a model."""
    for key in path:
        # A key that leads nowhere is pydantic's name for a member of a union.
        kind = _inside(kind, key) or kind
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    # A union, or a dict or list: the fields of all its parts.
    names = list[str]()
    for part in get_args(kind):
        names += _known(part, ())
    return names


def _inside(kind: Any, key: str | int) -> Any:
    """The type of a model's field, or of the entries of a dict or list. None if there is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[str(key)].annotation if key in kind.model_fields else None
    if origin is dict:
        return parts[1]
    if origin in (list, tuple):
        return parts[0]
    return next((found for part in parts if (found := _inside(part, key))), None)
