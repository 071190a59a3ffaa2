"""The frame every stage runs in: parameters in, one folder and one metrics file out, the record last.

A stage named `packed_shards` is the module `assets.packed_shards`, reads the section `packed_shards` of
params.yaml, and for the item `per_source` writes `data/packed_shards/per_source/` and
`metrics/packed_shards/per_source.json` (without items: `data/tokenizer/`, `metrics/tokenizer.json`).

It writes into a folder beside the real one, hashes and fsyncs every file, writes `record.json` there last, and
renames. So a folder with a record is whole, a kill leaves the old output or none, and the next run starts clean.
The record holds no clock and no host, for the same inputs must give the same bytes. The cost is one more read of
every output for its SHA-256.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

PARAMS = Path("params.yaml")
DATA = Path("data")
METRICS = Path("metrics")
RECORD = "record.json"


class UserError(Exception):
    """Something the user can mend: the message says what, where, why and what to do. Shown without a traceback."""


class Config(BaseModel):
    """A section of params.yaml: frozen, unknown keys refused, validated at birth."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(kw_only=True)
class Output:
    """Where a running stage writes. `folder` becomes the artefact; `metrics` its numbers; `facts` join the record."""

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def read_params(section: str, model: type[AnyConfig], path: Path | None = None) -> AnyConfig:
    """The validated `section` (dots go deeper: "mixed_dataset.recipes.global") of params.yaml.

    Raises UserError naming the key, the value and what is allowed.
    """
    path = path or PARAMS
    try:
        node: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.resolve()}: no such file. Run from the project's root, or put a profile in place: "
                        "make profile NAME=sample") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}. Mend the line it names.") from None
    for depth, key in enumerate(section.split(".")):
        if not isinstance(node, dict) or key not in node:
            known = ", ".join(map(str, node)) if isinstance(node, dict) else "nothing"
            where = ".".join(section.split(".")[:depth]) or "the file"
            raise UserError(f"{path}: no section {section!r}: {where} holds {known}. Add {key!r}, or use one of those.")
        node = node[key]
    return validated(model, node, f"{path}: {section}")


def validated(model: type[AnyConfig], values: Any, where: str) -> AnyConfig:
    """`values` as a `model`. Raises UserError with one line for each key that is missing, unknown or out of range."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(model, where, problem) for problem in error.errors())) from None


def _explain(model: type[Config], where: str, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    name = f"{where}.{key}" if key else where
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown key. Known here: {', '.join(_known(model, problem['loc'][:-1]))}."
    if problem["type"] == "missing":
        return f"{name}: missing. Add it; profiles/sample.yaml shows every key."
    return f"{name} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}."


def _known(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The fields there are at `path` in a model."""
    for key in path:
        kind = _inside(kind, key) or kind  # what leads nowhere names the member of a union
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [name for part in get_args(kind) for name in _known(part, ())]


def _inside(kind: Any, key: str | int) -> Any:
    """The type of a model's field, or of an item of a dict or list; None where there is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[str(key)].annotation if key in kind.model_fields else None
    if origin is dict:
        return parts[1]
    if origin in (list, tuple):
        return parts[0]
    return next((found for part in parts if (found := _inside(part, key))), None)


@contextmanager
def output(stage: str, item: str | None = None) -> Iterator[Output]:
    """The frame of one run: yields where to write, and puts it in place only if the body ends without an error."""
    target = DATA / stage / item if item else DATA / stage
    metrics_file = METRICS / stage / f"{item}.json" if item else METRICS / f"{stage}.json"
    facts: dict[str, Any] = {"stage": stage, "item": item}
    with sealed(target, facts) as folder:
        out = Output(folder=folder)
        yield out
        facts |= out.facts
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(metrics_file, out.metrics)


@contextmanager
def sealed(target: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """Yields a folder to write into; it becomes `target`, with `facts` and every file's hash in its record, only if the
    body ends without an error. `facts` is read at the end."""
    aside = beside(target)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    write_json(aside / RECORD, {**facts, "files": _hashes(aside)})
    _fsync_folder(aside)
    _replace_folder(aside, target)


def beside(target: Path) -> Path:
    """The folder in which `sealed` gathers what becomes `target`."""
    return target.with_name(f".{target.name}.partial")


def is_whole(folder: Path) -> bool:
    """Whether every file of a sealed folder is there and has the hash its record gives. Reads all of it."""
    try:
        return bool(read_json(folder / RECORD)["files"] == {
            name: found for name, found in _hashes(folder).items() if name != RECORD})
    except (OSError, ValueError, KeyError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all; never in place, for the old file may be a read-only link."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text())


def number_of_environment(variable: str, default: float) -> float:
    """The number in an environment variable, 0 or more. Raises UserError for anything else."""
    text = os.environ.get(variable, "")
    try:
        number = float(text or default)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"{variable} = {text}: not a plain number, 0 or more, without a unit. Set one, or unset it.")
    return number


def command(run: Callable[..., None], *argument_names: str) -> None:
    """The act of a stage module: `command(run, "domain")` parses one argument, runs, and shows a UserError plainly."""
    arguments = sys.argv[1:]
    module = Path(sys.argv[0]).stem
    if len(arguments) != len(argument_names):
        wanted = " ".join(name.upper() for name in argument_names)
        sys.exit(f"usage: python -m PACKAGE.{module} {wanted}".rstrip())
    try:
        run(*arguments)
    except UserError as error:
        sys.exit(f"{module}: {error}")


def _hashes(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _hash_and_fsync(path) for path in files}


def _hash_and_fsync(path: Path) -> dict[str, Any]:
    hasher, size = sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
            size += len(block)
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": hasher.hexdigest()}


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_folder(aside: Path, target: Path) -> None:
    """Two renames: between them there is no output, which the next run (and DVC) sees as missing, never as half."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    _fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
