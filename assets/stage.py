"""The frame every stage runs in: parameters in, one folder and one metrics file out, the record
last.

A stage named `packed_shards` is the module `assets.packed_shards`, reads the section
`packed_shards` of params.yaml, and for the item `per_source` writes
`data/packed_shards/per_source/` and `metrics/packed_shards/per_source.json` (without items:
`data/tokenizer/`, `metrics/tokenizer.json`).

It writes into a folder beside the real one, hashes and fsyncs every file, writes `record.json`
there last, and renames. So a folder with a record is whole, a kill leaves the old output or none,
and the next run starts clean. The record holds no clock and no host, for the same inputs must give
the same bytes. The cost is one more read of every output for its SHA-256.

A stage checks its own artefact and writes the results to `checks.json` in the same folder, so a
folder that is copied keeps them. Dagster shows them, and makes nothing from an artefact that failed
a blocking check. Under plain DVC a failed check is a line on stderr. The cost: the words of a check
are bytes of the artefact, so a reworded check of the packed rows trains again.

The versions of the packages that decide its bytes are in its metrics file, under `made_with`, and
the record names that file. DVC keeps both files under one entry of dvc.lock. They are not in the
artefact's folder, because later stages depend on that folder: an upgrade that gives the same bytes
would change its hash, and a training of ten days would run again for a patch of NumPy. The cost: a
folder that is copied alone loses its versions.

What a stage needs and is not there ends it in one line: the command that makes it, or the key of
params.yaml that names it. That is told from the path in the error, so a file that neither makes nor
names stays a traceback.
"""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from assets import elsewhere

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
DATA = Path("data")
METRICS = Path("metrics")
RECORD = "record.json"
CHECKS = "checks.json"
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
MADE_WITH = "made_with"
"""In a metrics file: the versions an artefact was made with. In a record: the path of that file."""
ASKED_WITH = ("numpy", "pandas", "pyarrow", "tokenizers", "torch", "transformers")
DECIDED_BY = {
    "token_demand": ("numpy",),
    "raw_corpus": ("numpy", "pyarrow", "python"),  # Python's own tables of Unicode
    "tokenizer": ("tokenizers",),
    "tokenized_corpus": ("gigatoken", "numpy", "pyarrow", "tokenizers"),
    "length_histograms": ("matplotlib", "numpy", "pandas", "pyarrow"),
    "mixed_dataset": ("numpy", "pandas", "pyarrow"),
    "packed_shards": ("numpy", "pyarrow"),
    "data_report": ("matplotlib", "numpy", "pandas"),
    "base_checkpoint": ("numpy", "pyarrow", "tokenizers", "torch", "torchao", "transformers"),
    "checkpoint": ("numpy", "pyarrow", "torch", "torchao", "transformers"),
    "needle_report": ("matplotlib", "python", *ASKED_WITH),
    "loss_report": ASKED_WITH,
    "book_qa_report": ("python", *ASKED_WITH),
    "short_context_report": ("lm_eval", *ASKED_WITH),
    "comparison": ("matplotlib", "numpy", "pandas", "python"),
}
"""The packages that decide the bytes of each stage's artefacts; tests/test_architecture.py compares
them with imports."""


class UserError(Exception):
    """Something the user can mend: the message says what, where, why and what to do. Shown without
    a traceback.
    """


class Config(BaseModel):
    """A section of params.yaml: frozen, unknown keys refused, validated at birth.

    NaN and infinity are refused: no limit holds NaN back, for every comparison with it is false.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a stage found when it checked its own artefact: one entry of checks.json.

    dvc.yaml declares it under `meta: checks`; tests/test_architecture.py compares the two.
    """

    name: str
    passed: bool | None
    """None: there was nothing to check, and `found` says why."""
    expected: str
    found: str
    advice: str = ""
    """What to do if it failed."""
    blocking: bool = True
    """Whether Dagster makes nothing from an artefact that failed it."""

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}. {self.advice}".rstrip()


@dataclass(kw_only=True)
class Output:
    """Where a running stage writes. `folder` becomes the artefact; `metrics` its numbers; `facts`
    join the record.
    """

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    """What the stage found about the artefact."""
    unused: set[str] = field(default_factory=set)
    """Packages of the stage that were not used this time."""


def read_params(section: str, model: type[AnyConfig], path: Path | None = None) -> AnyConfig:
    """The validated `section` (dots go deeper: "mixed_dataset.recipes.global") of params.yaml.

    Raises UserError naming the key, the value and what is allowed.
    """
    path = path or PARAMS
    return validated(model, _section(section, path), f"{path}: {section}")


def names_of(what: str) -> list[str]:
    """The items that params.yaml declares, in its order; what: "domain", "recipe" or "model".
    Raises UserError.
    """
    items = _section(ITEMS[what], PARAMS) or {}
    if not isinstance(items, dict):
        raise UserError(
            f"{PARAMS}: {ITEMS[what]} = {items!r}: not a map from names. profiles/sample.yaml "
            "shows one."
        )
    return list(items)


def read_all_params(path: Path) -> dict[str, Any]:
    """The whole of params.yaml, as it stands. Raises UserError where it isn't YAML, or an item's
    name can't be one.
    """
    try:
        # Parsed in C where it can be: a stage asks several times while it starts, at 17 ms each in
        # Python.
        sections = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise UserError(
            f"{path.resolve()}: no such file. Run from the project's root, or put a profile in "
            "place: "
            "make profile NAME=sample"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}. Mend the line it names.") from None
    if not isinstance(sections, dict):
        raise UserError(
            f"{path}: not a map from stages to their settings. profiles/sample.yaml shows one."
        )
    for where in ITEMS.values():
        section, key = where.split(".")
        items = (
            (sections.get(section) or {}).get(key)
            if isinstance(sections.get(section) or {}, dict)
            else None
        )
        for name in items if isinstance(items, dict) else ():
            _check_name(name, f"{path}: {where}")
            if why := TAKEN.get(where, {}).get(name):
                raise UserError(
                    f"{path}: {where}: {name!r} cannot be a domain's name: it {why}. Take another."
                )
    return sections


def _check_name(name: Any, where: str) -> None:
    """A name is a folder, a word of a command and a part of a dotted key, so it must be plain in
    all three.
    """
    if not isinstance(name, str):
        raise UserError(
            f"{where}: YAML reads a name there as {name!r}, not as text. Write it in quotes, as in "
            '"2024": or "no":.'
        )
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where}: {name!r} cannot be a name: it is a folder and a word of a command. Use "
            "letters, "
            "digits, _ and -."
        )


def _section(section: str, path: Path) -> Any:
    node: Any = read_all_params(path)
    for depth, key in enumerate(section.split(".")):
        if not isinstance(node, dict) or key not in node:
            known = ", ".join(map(str, node)) if isinstance(node, dict) else "nothing"
            where = ".".join(section.split(".")[:depth]) or "the file"
            raise UserError(
                f"{path}: no section {section!r}: {where} holds {known}. Add {key!r}, or use one "
                "of those."
            )
        node = node[key]
    return node


def validated(model: type[AnyConfig], values: Any, where: str) -> AnyConfig:
    """`values` as a `model`. Raises UserError with one line for each key that is missing, unknown
    or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(
            "\n".join(_explain(model, where, problem) for problem in error.errors())
        ) from None


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
    """The frame of one run: yields where to write, and puts it in place only if the body ends
    without an error.
    """
    target = DATA / stage / item if item else DATA / stage
    metrics_file = METRICS / stage / f"{item}.json" if item else METRICS / f"{stage}.json"
    facts: dict[str, Any] = {"stage": stage, "item": item}
    with sealed(target, facts) as folder:
        out = Output(folder=folder)
        yield out
        write_checks(out.folder, out.checks, f"{stage} {item}" if item else stage)
        facts |= out.facts
        used = {
            name: number
            for name, number in package_versions(stage).items()
            if name not in out.unused
        }
        if used:
            facts[MADE_WITH] = metrics_file.as_posix()
            out.metrics = {**out.metrics, MADE_WITH: _in_one_line(used)}
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(metrics_file, out.metrics)


def write_checks(folder: Path, checks: Sequence[Check], who: str) -> None:
    """Write checks.json into the artefact, and a line on stderr for each check that failed.

    A failed check does not end the stage: DVC would then drop the artefact, nobody could look at
    it, and the next run would spend the same hours on the same result. An artefact without checks
    gets no file.
    """
    if checks:
        write_json(folder / CHECKS, [asdict(check) for check in checks])
    for check in checks:
        if check.passed is False:
            kind = "blocking check" if check.blocking else "check"
            print(f"{who}: {kind} {check.name} failed: {check}", file=sys.stderr, flush=True)


def _in_one_line(versions: dict[str, str]) -> str:
    """One string, which is one column in `dvc metrics show` and `dvc exp show`, not one a package."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def package_versions(stage: str) -> dict[str, str]:
    """The version of each installed package that decides the bytes of a stage's artefacts."""
    found = {}
    for name in DECIDED_BY.get(stage, ()):
        try:
            found[name] = platform.python_version() if name == "python" else version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def sealed(target: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """Yields a folder to write into; it becomes `target`, with `facts` and every file's hash in its
    record, only if the body ends without an error. `facts` is read at the end.
    """
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
    """Whether every file of a sealed folder is there and has the hash its record gives. Reads all
    of it.
    """
    try:
        return bool(
            read_json(folder / RECORD)["files"]
            == {name: found for name, found in _hashes(folder).items() if name != RECORD}
        )
    except (OSError, ValueError, KeyError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all; never in place, for the old file may be
    a read-only link.
    """
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
        raise UserError(
            f"{variable} = {text}: not a plain number, 0 or more, without a unit. Set one, or "
            "unset it."
        )
    return number


def command(run: Callable[..., None], *argument_names: str) -> None:
    """The act of a stage module: `command(run, "domain")` parses one argument, an item of that
    kind, and runs.
    """
    arguments = sys.argv[1:]
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else Path(sys.argv[0]).stem
    if len(arguments) != len(argument_names):
        wanted = " ".join(name.upper() for name in argument_names)
        sys.exit(f"usage: python -m {module} {wanted}".rstrip())
    with plain_errors(module.split(".")[-1]):
        for what, name in zip(argument_names, arguments, strict=True):
            check_item(what, name)
        go_elsewhere(module, arguments)
        run(*arguments)


def go_elsewhere(module: str, arguments: Sequence[str]) -> None:
    """Become the launcher that the environment names for the stage's pool, if it names one
    (assets/elsewhere.py). Raises UserError.
    """
    prefixes = elsewhere.prefixes(os.environ)
    if not prefixes:
        return
    pools = pools_of(GRAPH)
    known = {elsewhere.variable_of(pool) for pool in pools.values()}
    for name in sorted(prefixes.keys() - known):
        raise UserError(
            f"{elsewhere.VARIABLE}{name}: no stage of {GRAPH} is in a pool {name!r}. There are "
            f"{', '.join(sorted(known)) or 'none'}. Name one of those, or unset it."
        )
    pool = pools.get(module.split(".")[-1], "")
    variable = elsewhere.variable_of(pool)
    if variable not in prefixes:
        return
    prefix = prefixes[variable]
    try:
        words = elsewhere.command(prefix, pool, module, arguments, os.environ)
    except ValueError as error:
        raise UserError(f"{elsewhere.VARIABLE}{variable} = {prefix}: {error}") from None
    sys.stdout.flush()
    os.execv(words[0], words)


def pools_of(path: Path) -> dict[str, str]:
    """By stage, the pool that its `meta` in dvc.yaml names; read as plain YAML. Raises UserError."""
    try:
        graph = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            f"{path.resolve()}: cannot be read: {error}. It says which stages run elsewhere."
        ) from None
    found = {}
    for name, stage in ((graph or {}).get("stages") or {}).items():
        body = stage.get("do", stage)
        if pool := (body.get("meta") or {}).get("pool"):
            found[str(name)] = str(pool)
    return found


def check_item(what: str, name: str) -> None:
    """Raises UserError unless params.yaml has that item; what: "domain", "recipe" or "model"."""
    known = names_of(what)
    if name not in known:
        raise UserError(
            f"{PARAMS}: {ITEMS[what]} has no {name!r}, only {', '.join(known) or 'nothing'}. Add "
            "it, or "
            "use one of those."
        )


@contextmanager
def plain_errors(who: str) -> Iterator[None]:
    """What the user can mend ends the process with one line: a UserError, or a file that should be
    there.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"{who}: {error}")
    except FileNotFoundError as error:
        problem = _explained(error)
        if problem is None:
            raise
        sys.exit(f"{who}: {problem}")


def missing(path: Path) -> UserError:
    """What to say of a file that should be there: the command that makes it, where a stage does."""
    parts = path.parts
    if path.is_absolute() or len(parts) < 2 or parts[0] not in (DATA.name, METRICS.name):
        return UserError(f"{path}: no such file or folder.")
    stage, *inside = (
        part.removesuffix(".json") if parts[0] == METRICS.name else part for part in parts[1:]
    )
    # a file of a stage without items has a dot
    item = f"@{inside[0]}" if inside and NAME.fullmatch(inside[0]) else ""
    return UserError(
        f"{path}: not there. Make it first: python -m orchestration.repro {stage}{item}"
    )


def _explained(error: FileNotFoundError) -> UserError | None:
    """The error of a missing file in words; None for one that no stage makes and params.yaml does
    not name.
    """
    text = str(error.filename or error).replace(
        f"{Path.cwd()}/", ""
    )  # Arrow gives no filename, and full paths
    made = re.search(rf"(?<![\w./-])(?:{DATA.name}|{METRICS.name})/[^'\"\s]+", text)
    if made:
        return missing(Path(made[0].rstrip(".,:;")))
    for key, value in _paths_in(read_all_params(PARAMS)) if PARAMS.is_file() else ():
        if re.search(rf"(?<![\w./-]){re.escape(value)}(?![\w.-])", text):
            return UserError(
                f"{PARAMS}: {key} = {value}: no such file or folder ({text}). Name one that is "
                "there."
            )
    return None


def _paths_in(values: Any, *keys: str) -> Iterator[tuple[str, str]]:
    """Every text in nested maps that could be a path, with its dotted key."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _paths_in(value, *keys, str(key))
    elif isinstance(values, str) and ("/" in values or "." in values) and "\n" not in values:
        yield ".".join(keys), values.rstrip("/")


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
    """Two renames: between them there is no output, which the next run (and DVC) sees as missing,
    never as half.
    """
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    _fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
