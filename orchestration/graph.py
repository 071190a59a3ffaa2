"""The graph as DVC resolves it: its items, their dependencies, and what is out of date.

dvc.yaml owns the graph, and this module repeats nothing of it. Stages, items and edges come from
DVC's own resolved index, current hashes from its cache of file hashes, staleness from `status`. The
cost: DVC does not promise a stable API. So no other module reads the graph from DVC, the minor
version is pinned, and tests/orchestration/test_step.py names what changed. For the sample, reading
the graph takes 0.7 s and its status 0.3 s.

dvc.lock is a YAML file with a published form, so it is read as YAML.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import dvc.dependency.param
import yaml
from dvc.dependency import ParamsDependency
from dvc.dvcfile import LOCK_FILE, PROJECT_FILE, load_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import modify_yaml
from dvc.utils.strictyaml import YAMLValidationError

from orchestration import run_cache
from orchestration.hashable import why_not_hashable
from orchestration.locks import (
    drop_dead_locks,
    lock_is_broken,
    repair,
    repair_lock_file,
    repository_held,
    write_whole,
)

PARAMS_FILE = "params.yaml"
MISSING = "missing"
NAME = re.compile(r"[A-Za-z0-9_-]+")
"""The valid names of stages and items. A name is a folder, a word of a command, a key that DVC
splits at dots, and a Dagster asset. No other character is safe in all four.
"""
IN_PARAMS = re.compile(r"\$\{\s*([\w.-]+)\s*\}")
"""A foreach over a map in params.yaml."""
FIX = "Fix it; `dvc status` there shows whether it is valid."
FIX_GIT = "Run git init there, or let DVC work without git: dvc config core.no_scm true"

CODE_REASON = re.compile(r"changed deps: (?P<path>.+\.py) (?:modified|new)")
"""The reason that `read_status` gives for an item whose code changed."""
IN_ORDER = "in_order"
"""The check that every asset has (checks.py). A stage cannot declare another one of that name."""
Moved = Mapping[str, tuple[str, str]]
"""Path of a code file -> its hash in dvc.lock ("missing" if it has none) and its hash now."""


class GraphError(Exception):
    """The graph can't be read: dvc.yaml, params.yaml or dvc.lock is broken."""


class GraphBusy(Exception):
    """Another DVC process holds a lock or a path. A later attempt may succeed."""


class Refused(Exception):
    """A code change can't be accepted. The message is for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredCheck:
    """A check that dvc.yaml declares for a stage (`meta: {checks: {NAME: {blocking: true}}}`)."""

    description: str = ""
    blocking: bool = False
    """Whether a failure blocks everything downstream of the artefact."""
    metric: str = ""
    """The metric to compare with the last accepted run. "": the stage writes the result into
    checks.json.
    """
    fall: float = 0.0
    """How far the metric may be below that run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One resolved stage of dvc.yaml, which `dvc repro --single-item ADDRESS` makes."""

    address: str
    """DVC's name of the item, e.g. "packed_shards@per_source"."""
    stage: str
    name: str | None
    """The item's name within its stage; None if the stage has no items."""
    command: str
    description: str
    upstream: frozenset[str]
    """Addresses of the items whose outputs it reads."""
    inputs: Mapping[str, str]
    """Path -> current content hash of the files that no item makes: code and sources."""
    params: Mapping[str, Any]
    """Parameter file -> {key: current value}."""
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    """The outputs that are metrics files."""
    pool: str = ""
    """The pool in which it takes a place while it is made (`meta: {pool: gpu}` in dvc.yaml); "" for
    none.
    """
    retries: int = 0
    """How often a run makes it again after a failure (`meta: {retries: 2}`)."""
    group: str = ""
    """Its heading in the UI (`meta: {group: report}`); "" for the package of its command."""
    owners: tuple[str, ...] = ()
    """Email addresses, or `team:NAME` (`meta: {owners: [team:data]}`)."""
    plotted: tuple[str, ...] | None = None
    """Patterns of the metrics to plot over runs (`meta: {plotted: [loss_*]}`); None if the stage
    names none.
    """
    checks: Mapping[str, DeclaredCheck] = field(default_factory=dict)
    """By name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """The entry of one item in dvc.lock: its inputs and outputs when it was last made."""

    command: str
    dependencies: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, str]
    """Path -> content hash."""
    sizes: Mapping[str, int]
    """Path -> bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Every item by address, upstream first, in the order of a plain `dvc repro`."""

    root: Path
    items: Mapping[str, Item]
    watched: frozenset[str] = frozenset()
    """Full paths of the local files and folders that decide the graph and its status."""
    watched_folders: frozenset[str] = frozenset()
    """Folders of DVC's cache. Only the names of their files count."""

    def downstream(self, addresses: Iterable[str]) -> set[str]:
        """`addresses` and everything that depends on them, directly or not."""
        reached = set(addresses)
        # One round suffices, because upstream items come first.
        for item in self.items.values():
            if item.upstream & reached:
                reached.add(item.address)
        return reached

    def upstream(self, address: str) -> list[str]:
        """Everything that `address` depends on, directly or not, in the graph's order."""
        reached = set[str]()
        waiting = [address]
        while waiting:
            new = self.items[waiting.pop()].upstream - reached
            reached |= new
            waiting += new
        return [other for other in self.items if other in reached]

    def made(self, path: str) -> bool:
        """Whether `path` is, holds or lies in an output of some item."""
        return any(overlap(path, output) for item in self.items.values() for output in item.outputs)

    def code_version(self, address: str) -> str:
        """Version of the current command, code, sources and parameters."""
        item = self.items[address]
        return code_version(item.command, item.inputs, item.params)

    def locked_code_version(self, locked: Locked) -> str:
        """The same version for the state when the item was last made."""
        inputs = {path: value for path, value in locked.dependencies.items() if not self.made(path)}
        return code_version(locked.command, inputs, locked.params)

    def data_version(self, address: str, locked: Locked) -> str:
        """Version of the outputs. Metrics count only if the item has no other output."""
        # Metrics may hold timings, which differ from run to run.
        metrics = self.items[address].metrics
        data = {path: value for path, value in locked.outputs.items() if path not in metrics}
        return _digest(data or locked.outputs)

    def digest(self) -> str:
        """Version of all inputs that the graph does not make itself."""
        return _digest({address: self.code_version(address) for address in self.items})


def code_version(command: str, inputs: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """One version of an item's inputs, without those that other items make."""
    # Remote sources have no hash until DVC downloads them.
    local = {path: value for path, value in inputs.items() if "://" not in path}
    named = {path: keys for path, keys in params.items() if keys}
    return _digest({"command": command, "inputs": local, "params": named})


def read_graph(root: Path) -> Graph:
    """The graph of the project in `root`. Raises GraphError if its files are broken."""
    with _opened(root) as repo:
        definitions = load_file(repo, str(root / PROJECT_FILE)).resolver.definitions
        # First, because DVC leaves out or trips over items with other names.
        _check_names(root, definitions)

        stages = _stages(repo)
        items_of = dict(_addresses(definitions))
        outputs = [out.def_path for stage in stages for out in stage.outs]
        items = {stage.name: _item(repo, stage, items_of, outputs) for stage in stages}
        return Graph(
            root=root,
            items=items,
            watched=_watched(root, stages),
            watched_folders=_cache_folders(repo),
        )


def _watched(root: Path, stages: Iterable[PipelineStage]) -> frozenset[str]:
    """The project's own files, and the inputs and outputs of its stages, as full paths."""
    own = [PROJECT_FILE, PARAMS_FILE, LOCK_FILE, ".dvcignore", ".dvc/config", ".dvc/config.local"]
    files = (
        file.fs_path
        for stage in stages
        for file in (*stage.deps, *stage.outs)
        if file.protocol == "local"
    )
    return frozenset([*(str(root.absolute() / name) for name in own), *files])


def _cache_folders(repo: Repo) -> frozenset[str]:
    """The folders of DVC's cache: today's, and that of DVC 2."""
    return frozenset([repo.cache.local.path, repo.cache.legacy.path])


def read_status(root: Path, busy: set[str] | None = None) -> dict[str, list[str]]:
    """Address -> reasons, for each item that is itself out of date, not for those downstream of it.

    busy: a set that receives the items that another DVC process makes, and those that read them.
    Without it, such an item raises GraphBusy. Raises GraphBusy while another DVC process writes,
    and GraphError if the project is broken.
    """
    drop_dead_locks(root)
    found = dict[str, list[str]]()
    with _opened(root) as repo, lock_repo(repo):
        for stage in _stages(repo):
            # DVC locks the paths of an item even to read its status.
            try:
                status = stage.status(check_updates=False)
            except LockError:
                if busy is None:
                    raise
                busy.add(stage.name)
                continue
            if changes := [change for part in status.values() for change in part]:
                found[stage.name] = list(_reasons(changes))
    return found


def read_lock(root: Path) -> dict[str, Locked]:
    """Address -> entry of dvc.lock; empty if there is no such file.

    Raises GraphError for a broken file. Waits while a DVC process holds the repository's lock.
    """
    # A plain DVC rewrites the file in place, so without the lock this could read half of it.
    with _readable(), repository_held(root):
        repair_lock_file(root)
        return _parse_lock(root / LOCK_FILE)


def _parse_lock(path: Path) -> dict[str, Locked]:
    try:
        content = _yaml(path) or {}
        return {address: _locked(entry) for address, entry in (content.get("stages") or {}).items()}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise GraphError(
            f"{path}: not a lock file that DVC wrote: {error}. Restore it from git, or delete it "
            "and run again: DVC restores what its cache holds."
        ) from None


def _yaml(path: Path) -> Any:
    """The content of a YAML file."""
    # The C loader takes a tenth of the time. PyYAML may be installed without it.
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def order_lock(graph: Graph) -> None:
    """Put the entries of dvc.lock in the graph's order, whichever item finished first.

    Leaves the file unchanged if it is in order, or while another DVC process writes.
    """
    path = graph.root / LOCK_FILE
    # Busy: the order matters only for git's diff, and the next run puts it right.
    try:
        with _opened(graph.root) as repo, lock_repo(repo):
            present = _parse_lock(path)
            known = [address for address in graph.items if address in present]
            if known == [address for address in present if address in graph.items]:
                return
            _write_in_order(path, known)
    except GraphBusy:
        return


def _write_in_order(path: Path, addresses: Iterable[str]) -> None:
    """Write dvc.lock with the entries of `addresses` in this order, after all others."""

    def change(stages: Any) -> None:
        for address in addresses:
            # A key that is added again goes to the end.
            stages[address] = stages.pop(address)

    _rewrite(path, change)


def _rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Change the entries of dvc.lock in DVC's own form, in one step."""
    # modify_yaml keeps DVC's form, but writes in place. A kill must leave the old file.
    aside = path.with_name(f".{path.name}.order.partial")
    aside.write_bytes(path.read_bytes())
    with modify_yaml(str(aside)) as content:
        change(content["stages"])
    write_whole(path, aside.read_bytes())
    aside.unlink()


def accept(
    root: Path, addresses: Collection[str], note: Callable[[Mapping[str, Moved]], None]
) -> None:
    """Record the hashes of the current code in dvc.lock, without running anything.

    note: called once dvc.lock is written, with the code files that changed, for each item that is
    out of date. If it fails, dvc.lock is as before. `root` must be the current folder. Raises
    Refused, for all items, if anything but the code of one has changed; GraphBusy and GraphError as
    `read_status` does.
    """
    drop_dead_locks(root)
    with _opened(root) as repo, lock_repo(repo):
        stages = {stage.name: stage for stage in _stages(repo) if stage.name in addresses}
        outputs = [out.def_path for stage in _stages(repo) for out in stage.outs]
        found = {address: _moved(stage, outputs) for address, stage in stages.items()}
        moved = {address: files for address, files in found.items() if files}
        if not moved:
            return

        path = root / LOCK_FILE
        before = path.read_bytes()
        _rewrite(path, lambda entries: _move(entries, stages, moved))
        # A note of what was not done would be false, so the note comes last.
        try:
            note(moved)
        except BaseException:
            write_whole(path, before)
            raise
        # Otherwise a change of profile and back would train again.
        for address in moved:
            repo.stage_cache.save(stages[address])
        # The file is whole, so this only copies it. A later repair must not lose the acceptance.
        repair_lock_file(root)


def _move(entries: Any, stages: Mapping[str, PipelineStage], moved: Iterable[str]) -> None:
    """Put the new hashes of these stages into the entries of dvc.lock."""
    for address in moved:
        entries[address] = to_single_stage_lockfile(stages[address])


def _moved(stage: PipelineStage, outputs: Iterable[str]) -> Moved:
    """The code that changed since the item was made. Raises Refused if anything else has changed.

    Stores the current hashes of that code in `stage`.
    """
    changes = stage.status(check_updates=False).values()
    reasons = [reason for found in changes for reason in _reasons(found)]
    if any(not out.hash_info for out in stage.outs):
        raise Refused(
            f"{stage.name}: never made, so there is nothing to keep. Nothing is accepted."
        )

    matches = {reason: CODE_REASON.fullmatch(reason) for reason in reasons}
    paths = {match["path"] for match in matches.values() if match}
    others = [reason for reason, match in matches.items() if not match]
    # A .py file that an item makes is data, for example a corpus of programs.
    others += [path for path in sorted(paths) for out in outputs if overlap(path, out)]
    if others:
        raise Refused(
            f"{stage.name}: more than its code changed ({'; '.join(others)}), so it must be made "
            f"again: python -m orchestration.repro {stage.name}. Nothing is accepted."
        )

    files = dict[str, tuple[str, str]]()
    for dep in stage.deps:
        if dep.def_path in paths:
            before = dep.hash_info.value if dep.hash_info else MISSING
            dep.save()
            files[dep.def_path] = (before, dep.hash_info.value)
    return files


def restorable(root: Path, addresses: Collection[str]) -> set[str]:
    """The items that DVC would restore from its cache for their current inputs, without a run.

    Ask only about items whose upstream is up to date, because the inputs are hashed as they are
    now.
    """
    with _opened(root) as repo, lock_repo(repo):
        return {
            stage.name for stage in _stages(repo) if stage.name in addresses and _held(repo, stage)
        }


def _held(repo: Repo, stage: PipelineStage) -> bool:
    """Whether `StageCache.restore` would find the outputs. Changes `stage`, so do not save it."""
    if not all(dep.exists for dep in stage.deps) or not run_cache.can_hash(stage):
        return False
    known = all(out.hash_info for out in stage.outs)
    if known and not stage.changed_stage() and not stage.changed_deps():
        return bool(stage.outs_cached())

    stage.save_deps()
    entry = repo.stage_cache._load(stage)
    if not entry:
        return False

    # Not `StageCache._create_stage`: it takes the current folder for the project's.
    StageLoader.fill_from_lock(stage, entry)
    return bool(stage.outs_cached())


def held_by_cache(root: Path) -> dict[str, bool]:
    """Path of each existing output -> whether it is as in dvc.lock and wholly in DVC's cache."""
    with _opened(root) as repo, lock_repo(repo):
        outs = [out for stage in _stages(repo) for out in stage.outs if out.exists]
        return {out.def_path: not out.status() and not out.changed_cache() for out in outs}


@contextmanager
def _readable() -> Iterator[None]:
    """Turn an OSError into a GraphError: the user must fix a file that can't be read."""
    try:
        yield
    except OSError as error:
        raise GraphError(
            f"{error.filename or 'A file'}: {error.strerror or error}. Fix or remove it."
        ) from None


@contextmanager
def _opened(root: Path) -> Iterator[Repo]:
    """The opened DVC repository. DVC's errors become GraphBusy and GraphError."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    run_cache.enable()
    dvc.dependency.param.load_path = _load_once
    loaded = _loaded.set({})
    try:
        with _readable():
            if not (root / PROJECT_FILE).is_file():
                raise GraphError(f"{root}: no {PROJECT_FILE} here. Run from the project's root.")
            # DVC refuses every command over a broken dvc.lock.
            if lock_is_broken(root):
                repair(root)
            with Repo(str(root)) as repo:
                yield repo
    except LockError as error:
        raise GraphBusy(f"DVC is busy: {_message(error)}") from None
    except DvcException as error:
        advice = FIX_GIT if isinstance(error, SCMError) else FIX
        raise GraphError(f"{root}: {_message(error)}. {advice}") from None
    finally:
        _loaded.reset(loaded)


_load = dvc.dependency.param.load_path
_loaded: ContextVar[dict[str, Any] | None] = ContextVar("loaded", default=None)
"""Parameter file -> its content, while a repository is open."""


def _load_once(path: str, fs: Any, **options: Any) -> Any:
    """DVC's `load_path`, which reads a parameter file: once for each opening of the repository.

    DVC parses params.yaml for each item, in Python: on the sample half of the time of `read_graph`.
    """
    files = _loaded.get()
    if files is None:
        return _load(path, fs, **options)
    if path not in files:
        files[path] = _load(path, fs, **options)
    return files[path]


def _message(error: BaseException) -> str:
    """The text that DVC's command line would print, as one paragraph."""
    causes = [str(error).strip()]
    cause = error.__cause__
    while cause is not None:
        parts = getattr(cause, "errors", None) or [cause]
        causes.append("; ".join(map(str, parts)).strip())
        # Causes below a wrong dvc.yaml are internal errors of the YAML validator.
        cause = None if isinstance(error, YAMLValidationError) else cause.__cause__

    # A cause often repeats its effect.
    return ": ".join(dict.fromkeys(text for text in causes if text)).rstrip(".")


def _stages(repo: Repo) -> list[PipelineStage]:
    """The stages of the root's dvc.yaml, upstream first."""
    # Other stages of the plan are data tracked with `dvc add`, which counts as a source.
    plan = plan_repro(get_active_graph(repo.index.graph), list(repo.index.stages))
    stages = [
        stage
        for stage in plan
        if isinstance(stage, PipelineStage) and stage.path_in_repo == PROJECT_FILE
    ]

    _check_files(repo, stages)
    return stages


def _check_files(repo: Repo, stages: Iterable[PipelineStage]) -> None:
    """Raise GraphError for a source that DVC cannot hash whole, before DVC hashes it."""
    deps = [dep for stage in stages for dep in stage.deps if dep.protocol == "local"]
    # By path, because many items read the same source.
    sources = {dep.fs_path: dep.fs for dep in deps}
    for path, fs in sources.items():
        problem = why_not_hashable(Path(path), partial(repo.dvcignore.is_ignored, fs))
        if problem:
            raise GraphError(problem)


def _check_names(root: Path, definitions: Mapping[str, Any]) -> None:
    """Raise GraphError for names that mean different things to DVC, Dagster, stages or the disk.

    DVC leaves out an item whose key is no text, splits a key at dots to find its parameters, and
    fails over other characters. Dagster then refuses the whole graph.
    """
    params = read_params(root / PARAMS_FILE)
    for stage, definition in definitions.items():
        _check_keys(f"{PROJECT_FILE}: stages", [stage], [stage])
        known = getattr(definition, "normalized_iterable", None)
        if known is not None:
            where, written = _written(params, stage, getattr(definition, "foreach_data", None))
            _check_keys(where, known if written is None else written, known)

    # Dagster makes such a word of an address, so two addresses may get the same one.
    taken = dict[str, str]()
    for address, _ in _addresses(definitions):
        word = address.replace("@", "__").replace("-", "_")
        if taken.setdefault(word, address) != address:
            raise GraphError(
                f"{taken[word]} and {address} are one name to Dagster, to which - and _ are the "
                "same. Rename one of them in params.yaml."
            )


def read_params(path: Path) -> Any:
    """The parameters as the stages read them; None if there is no such file. Raises GraphError."""
    # DVC's parser follows YAML 1.2, for example for a bare `yes`, so it can't be asked.
    try:
        return _yaml(path) if path.exists() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GraphError(f"{path}: not valid YAML: {error}. Fix the line it names.") from None


def _written(params: Any, stage: str, data: Any) -> tuple[str, Iterable[Any] | None]:
    """The place of a stage's items, and their keys as YAML reads them; None if they are no map."""
    where = f"{PROJECT_FILE}: stages.{stage}"
    place = IN_PARAMS.fullmatch(data) if isinstance(data, str) else None
    if place:
        where = f"{PARAMS_FILE}: {place[1]}"
        data = params
        for key in place[1].split("."):
            data = data.get(key) if isinstance(data, Mapping) else None

    return where, data if isinstance(data, Mapping) else None


def _check_keys(where: str, written: Iterable[Any], known: Iterable[str]) -> None:
    """Raise GraphError for an invalid key. known: the keys that DVC makes items of."""
    for key in written:
        # As the user wrote it: true, not True.
        shown = key if isinstance(key, str) else dumps(key, default=str).strip('"')
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", shown).strip("_")
        advice = f'Write "{better}", with the quotes.' if better else "Choose another."

        if not NAME.fullmatch(shown):
            raise GraphError(
                f"{where}: {shown!r} can't be a name: only a to z, A to Z, digits, _ and - are "
                f"allowed. {advice}"
            )
        if not isinstance(key, str) or key not in known:
            raise GraphError(
                f"{where}: without quotes, {shown} is no text to YAML but a number, a date, true, "
                f"false or null, and DVC leaves such an item out. {advice}"
            )


def _addresses(definitions: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """(address, (stage, item)) for each item of the definitions."""
    # From the definitions, so that no address needs to be split into its parts.
    for stage, definition in definitions.items():
        keys = getattr(definition, "normalized_iterable", None)
        if keys is None:
            yield stage, (stage, None)
        else:
            for key in keys:
                yield f"{stage}@{key}", (stage, key)


def _item(
    repo: Repo,
    stage: PipelineStage,
    items_of: dict[str, tuple[str, str | None]],
    outputs: list[str],
) -> Item:
    group, name = items_of[stage.name]
    meta = stage.meta or {}
    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]

    # What another item makes is no source, even if the dependency is a file in its folder.
    sources = []
    for dep in stage.deps:
        is_file = dep.protocol == "local" and not isinstance(dep, ParamsDependency)
        if is_file and not any(overlap(dep.def_path, output) for output in outputs):
            sources.append(dep)

    # DVC's edges lead from an item to what it depends on.
    upstream = [
        other.name
        for other in repo.index.graph.successors(stage)
        if isinstance(other, PipelineStage) and other.name in items_of
    ]

    return Item(
        address=stage.name,
        stage=group,
        name=name,
        command=_command(stage.cmd),
        description=stage.desc or "",
        upstream=frozenset(upstream),
        inputs={dep.def_path: dep.get_hash().value if dep.exists else MISSING for dep in sources},
        params={dep.def_path: dep.read_params() for dep in params},
        outputs=tuple(out.def_path for out in stage.outs),
        metrics=tuple(out.def_path for out in stage.outs if out.metric),
        pool=str(meta.get("pool", "")),
        retries=int(meta.get("retries", 0)),
        group=str(meta.get("group", "")),
        owners=tuple(map(str, _list(meta.get("owners")) or ())),
        plotted=_list(meta.get("plotted")),
        checks=_checks(group, meta.get("checks") or {}),
    )


def _command(written: str | list[str]) -> str:
    """A stage's command, which dvc.yaml may give as a list of lines."""
    return written if isinstance(written, str) else "\n".join(written)


def _checks(stage: str, declared: Any) -> dict[str, DeclaredCheck]:
    """`meta.checks` of a stage. Raises GraphError for an unknown key, and for our own check."""
    if isinstance(declared, Mapping) and IN_ORDER in declared:
        raise GraphError(
            f"{PROJECT_FILE}: {stage}: meta.checks: every asset has a check {IN_ORDER} already. "
            "Choose another name."
        )
    try:
        return {str(name): DeclaredCheck(**(words or {})) for name, words in declared.items()}
    except (AttributeError, TypeError) as error:
        raise GraphError(
            f"{PROJECT_FILE}: {stage}: meta.checks = {declared!r}: {error}. "
            "Write NAME: {blocking: true, description: ...}."
        ) from None


def _list(value: Any) -> tuple[Any, ...] | None:
    """A list in dvc.yaml, which may also be a single word; None if the key is absent."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _locked(entry: Mapping[str, Any]) -> Locked:
    """One entry of dvc.lock."""
    outs = entry.get("outs", [])
    return Locked(
        command=_command(entry["cmd"]),
        dependencies={dep["path"]: _hash_in(dep) for dep in entry.get("deps", [])},
        params=entry.get("params", {}),
        outputs={out["path"]: _hash_in(out) for out in outs},
        sizes={out["path"]: out.get("size", 0) for out in outs},
    )


def _hash_in(entry: Mapping[str, Any]) -> str:
    """The content hash in an entry for a file."""
    # DVC 2 wrote no key "hash".
    return str(entry.get(entry.get("hash", "md5"), MISSING))


def _reasons(changes: list[Any]) -> Iterator[str]:
    """The lines of DVC's nested status, such as "changed deps: data/x modified"."""
    for change in changes:
        # A changed command is a text of its own.
        if isinstance(change, str):
            yield change
            continue

        for kind, entries in change.items():
            for path, how in entries.items():
                if isinstance(how, str):
                    yield f"{kind}: {path} {how}"
                else:
                    # A parameter file: key -> its state.
                    for key, state in how.items():
                        yield f"{kind}: {path}: {key} {state}"


def overlap(one: str, other: str) -> bool:
    """Whether the paths are equal, or one of them lies in the other."""
    # With a slash at the end, data/raw2 does not lie in data/raw.
    one = f"{one.rstrip('/')}/"
    other = f"{other.rstrip('/')}/"
    return one.startswith(other) or other.startswith(one)


def _digest(value: Any) -> str:
    return sha256(dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
