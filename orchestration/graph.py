"""The graph as DVC sees it: what there is, what each item depends on, what is out of date. The only
importer of DVC.

dvc.yaml owns the graph, so nothing of it is written down here: stages, items and edges are read
from DVC's own resolved index, current hashes through its cache of file hashes, staleness through
`status`. The cost: DVC promises nothing about this API. Hence one module, a pinned minor version,
and tests/orchestration/test_step.py, which says by name what changed. Reading the sample's graph
takes 0.7 s, asking its status 0.3 s.

`dvc.lock` is a plain YAML file with a published form and is read as such.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

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
"""What a stage or an item may be called. Its name is a folder, a word of a command, a key that DVC
looks up by dots and an asset of Dagster's, and no other character means itself in all four.
"""
IN_PARAMS = re.compile(r"\$\{\s*([\w.-]+)\s*\}")
"""A foreach whose items stand in params.yaml."""
MEND = "Mend it; `dvc status` there says whether it is right."
MEND_GIT = "Make it one: git init. Or have DVC do without: dvc config core.no_scm true"


CODE_REASON = re.compile(r"changed deps: (?P<path>.+\.py) (?:modified|new)")
"""What `read_status` says of an item whose code changed."""
Moved = Mapping[str, tuple[str, str]]
"""Path of a file of code -> its hash in dvc.lock ("missing": none) and its hash now."""


class GraphError(Exception):
    """The graph can't be read: dvc.yaml, params.yaml or dvc.lock is broken. One message, for the
    user to mend.
    """


class GraphBusy(Exception):
    """Another DVC process holds what is needed; ask again later."""


class Refused(Exception):
    """A change of code that can't be accepted. One message, for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredCheck:
    """A check that dvc.yaml declares for a stage (`meta: {checks: {NAME: {blocking: true}}}`)."""

    description: str = ""
    blocking: bool = False
    """Whether nothing is made from an artefact that failed it."""
    metric: str = ""
    """Compared with the last accepted run; "": the stage makes the check, in checks.json."""
    fall: float = 0.0
    """How far the metric may be below that run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One resolved stage of dvc.yaml: what `dvc repro --single-item ADDRESS` makes."""

    address: str
    """DVC's name for it, e.g. "packed_shards@per_source"."""
    stage: str
    name: str | None
    """The item's name inside its stage, None where the stage has no items."""
    command: str
    description: str
    upstream: frozenset[str]
    """Addresses of the items whose outputs it reads."""
    inputs: Mapping[str, str]
    """Path -> content hash now, of the files no item makes: code and sources."""
    params: Mapping[str, Any]
    """Parameter file -> {key: value now}."""
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    """Those of the outputs that are metrics files."""
    pool: str = ""
    """What it takes a place of while it is made (`meta: {pool: gpu}` in dvc.yaml); "": nothing
    scarce.
    """
    retries: int = 0
    """How often a run makes it again after it failed (`meta: {retries: 2}`)."""
    group: str = ""
    """Under which heading it is shown (`meta: {group: report}`); "": by its command's package."""
    owners: tuple[str, ...] = ()
    """Who answers for it: addresses, or `team:NAME` (`meta: {owners: [team:data]}`)."""
    plotted: tuple[str, ...] | None = None
    """Patterns of the metrics that one compares from run to run (`meta: {plotted: [loss_*]}`).
    None: the stage does not say.
    """
    checks: Mapping[str, DeclaredCheck] = field(default_factory=dict)
    """By name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """What dvc.lock says of one item: what it was last made from, and what came out."""

    command: str
    dependencies: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, str]
    """Path -> content hash."""
    sizes: Mapping[str, int]
    """Path -> bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Every item by address, upstream first: the order in which a plain `dvc repro` goes."""

    root: Path
    items: Mapping[str, Item]
    watched: frozenset[str] = frozenset()
    """Local files and folders, as full paths, that decide the graph and its status."""
    watched_folders: frozenset[str] = frozenset()
    """Folders of DVC's cache. Of these only which files they hold counts."""

    def downstream(self, addresses: Iterable[str]) -> set[str]:
        """`addresses` and everything that depends on them, however far."""
        reached = set(addresses)
        for item in self.items.values():
            if item.upstream & reached:
                reached.add(item.address)
        return reached

    def upstream(self, address: str) -> list[str]:
        """Everything that `address` depends on, however far, in the graph's order."""
        reached, waiting = set[str](), [address]
        while waiting:
            new = self.items[waiting.pop()].upstream - reached
            reached |= new
            waiting += new
        return [other for other in self.items if other in reached]

    def made(self, path: str) -> bool:
        """Whether `path` is, holds or lies in an output of some item."""
        return any(overlap(path, output) for item in self.items.values() for output in item.outputs)

    def code_version(self, address: str) -> str:
        """Version of command, code, sources and parameters as they are now."""
        item = self.items[address]
        return code_version(item.command, item.inputs, item.params)

    def locked_code_version(self, locked: Locked) -> str:
        """The same function of what stood there when the item was last made."""
        inputs = {path: value for path, value in locked.dependencies.items() if not self.made(path)}
        return code_version(locked.command, inputs, locked.params)

    def data_version(self, address: str, locked: Locked) -> str:
        """Version of what came out. Metrics count only where there is nothing else: they may hold
        timings.
        """
        metrics = self.items[address].metrics
        data = {path: value for path, value in locked.outputs.items() if path not in metrics}
        return _digest(data or locked.outputs)

    def digest(self) -> str:
        """Version of everything the graph is made from and does not make itself."""
        return _digest({address: self.code_version(address) for address in self.items})


def code_version(command: str, inputs: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """One version of all that decides an item besides what other items made."""
    local = {path: value for path, value in inputs.items() if "://" not in path}
    named = {path: keys for path, keys in params.items() if keys}
    return _digest({"command": command, "inputs": local, "params": named})


def read_graph(root: Path) -> Graph:
    """The graph of the project in `root`. Raises GraphError when dvc.yaml or params.yaml is broken."""
    with _opened(root) as repo:
        definitions = load_file(repo, str(root / PROJECT_FILE)).resolver.definitions
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
    own = [PROJECT_FILE, PARAMS_FILE, LOCK_FILE, ".dvcignore", ".dvc/config", ".dvc/config.local"]
    files = (
        file.fs_path
        for stage in stages
        for file in (*stage.deps, *stage.outs)
        if file.protocol == "local"
    )
    return frozenset([*(str(root.absolute() / name) for name in own), *files])


def _cache_folders(repo: Repo) -> frozenset[str]:
    """Of whole files and of DVC 2's; each holds folders of files."""
    return frozenset([repo.cache.local.path, repo.cache.legacy.path])


def read_status(root: Path, busy: set[str] | None = None) -> dict[str, list[str]]:
    """Address -> reasons, for each item that is itself out of date (not for what depends on it).

    busy: gets the items that another DVC process makes, and those that read them; without it, one
    such item is GraphBusy. Raises GraphBusy while another DVC process writes, GraphError when the
    project is broken.
    """
    drop_dead_locks(root)
    found = dict[str, list[str]]()
    with _opened(root) as repo, lock_repo(repo):
        for stage in _stages(repo):
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
    """What dvc.lock says, by address; empty where there is none. Raises GraphError when it can't be
    read.

    DVC rewrites the file in place, so this waits while a DVC process holds the repository's lock.
    """
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
            f"{path}: not a lock file DVC wrote: {error}. Take it from git, or delete it and run "
            "again: "
            "what is in DVC's cache comes back without being made again."
        ) from None


def _yaml(path: Path) -> Any:
    """The whole file; in C where that is installed, which takes a tenth of the time."""
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def order_lock(graph: Graph) -> None:
    """Put the entries of dvc.lock in the graph's order, so that the file is the same whatever
    finished first.

    Leaves the file alone where it is in order, or while another DVC process writes (that one's
    order stands then).
    """
    path = graph.root / LOCK_FILE
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
    """Those entries last and in this order."""

    def change(stages: Any) -> None:
        for address in addresses:
            stages[address] = stages.pop(address)

    _rewrite(path, change)


def _rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Change the entries of dvc.lock, in DVC's own form. Written in one step: a kill leaves the old
    file.
    """
    aside = path.with_name(f".{path.name}.order.partial")
    aside.write_bytes(path.read_bytes())
    with modify_yaml(str(aside)) as content:
        change(content["stages"])
    write_whole(path, aside.read_bytes())
    aside.unlink()


def accept(
    root: Path, addresses: Collection[str], note: Callable[[Mapping[str, Moved]], None]
) -> None:
    """Have dvc.lock name the code as it is now, without running anything.

    `note` is told, before anything is written, what will move; of an item that is up to date,
    nothing does. DVC's run cache learns of it too, so that an accepted artefact comes back like any
    other; for that, `root` must be the current folder. Raises Refused, for all of them, if one is
    out of date by more than its code; GraphBusy and GraphError as `read_status` does.
    """
    drop_dead_locks(root)
    with _opened(root) as repo, lock_repo(repo):
        stages = {stage.name: stage for stage in _stages(repo) if stage.name in addresses}
        outputs = [out.def_path for stage in _stages(repo) for out in stage.outs]
        found = {address: _moved(stage, outputs) for address, stage in stages.items()}
        moved = {address: files for address, files in found.items() if files}
        if not moved:
            return
        note(moved)
        _rewrite(root / LOCK_FILE, lambda entries: _move(entries, stages, moved))
        for address in moved:
            repo.stage_cache.save(stages[address])
        repair_lock_file(root)  # keeps a copy


def _move(entries: Any, stages: Mapping[str, PipelineStage], moved: Iterable[str]) -> None:
    """The entries of dvc.lock, with the code of these stages as it was just hashed."""
    for address in moved:
        entries[address] = to_single_stage_lockfile(stages[address])


def _moved(stage: PipelineStage, outputs: Iterable[str]) -> Moved:
    """The code that changed since the item was made, hashed anew in `stage`. Raises Refused if
    anything else did.
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
    others += [path for path in sorted(paths) for out in outputs if overlap(path, out)]
    if others:
        raise Refused(
            f"{stage.name}: more than its code changed ({'; '.join(others)}), so it must be made "
            f"anew: python -m orchestration.repro {stage.name}. Nothing is accepted."
        )
    files = dict[str, tuple[str, str]]()
    for dep in stage.deps:
        if dep.def_path in paths:
            before = dep.hash_info.value if dep.hash_info else MISSING
            dep.save()
            files[dep.def_path] = (before, dep.hash_info.value)
    return files


def restorable(root: Path, addresses: Collection[str]) -> set[str]:
    """Those of the items that DVC's cache holds for what they read now: making them runs nothing.

    To be asked of items whose inputs stand: nothing that they read is about to be made.
    """
    with _opened(root) as repo, lock_repo(repo):
        return {
            stage.name for stage in _stages(repo) if stage.name in addresses and _held(repo, stage)
        }


def _held(repo: Repo, stage: PipelineStage) -> bool:
    """What `StageCache.restore` looks at. It alters `stage`, which must not be saved."""
    if not all(dep.exists for dep in stage.deps) or not run_cache.can_hash(stage):
        return False
    known = all(out.hash_info for out in stage.outs)
    if known and not stage.changed_stage() and not stage.changed_deps():
        return bool(stage.outs_cached())
    stage.save_deps()
    entry = repo.stage_cache._load(stage)
    if not entry:
        return False
    StageLoader.fill_from_lock(stage, entry)
    return bool(stage.outs_cached())


def held_by_cache(root: Path) -> dict[str, bool]:
    """Output path -> whether what lies there now is what dvc.lock names, and DVC's cache holds all
    of it.
    """
    with _opened(root) as repo, lock_repo(repo):
        return {
            out.def_path: not out.status() and not out.changed_cache()
            for stage in _stages(repo)
            for out in stage.outs
            if out.exists
        }


@contextmanager
def _readable() -> Iterator[None]:
    """A file that can't be read, or went while it was read, is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise GraphError(
            f"{error.filename or 'A file'}: {error.strerror or error}. Mend or remove it."
        ) from None


@contextmanager
def _opened(root: Path) -> Iterator[Repo]:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    run_cache.enable()
    try:
        with _readable():
            if not (root / PROJECT_FILE).is_file():
                raise GraphError(f"{root}: no {PROJECT_FILE} here. Run from the project's root.")
            if lock_is_broken(root):
                repair(root)
            with Repo(str(root)) as repo:
                yield repo
    except LockError as error:
        raise GraphBusy(f"DVC is busy: {_message(error)}") from None
    except DvcException as error:
        advice = MEND_GIT if isinstance(error, SCMError) else MEND
        raise GraphError(f"{root}: {_message(error)}. {advice}") from None


def _message(error: BaseException) -> str:
    """What DVC's command line would print, in one paragraph."""
    causes = [str(error).strip()]
    cause = error.__cause__
    while cause is not None:
        causes.append("; ".join(map(str, getattr(cause, "errors", None) or [cause])).strip())
        cause = None if isinstance(error, YAMLValidationError) else cause.__cause__
    return ": ".join(dict.fromkeys(text for text in causes if text)).rstrip(".")


def _stages(repo: Repo) -> list[PipelineStage]:
    """The stages of the root's dvc.yaml, upstream first. Data tracked with `dvc add` counts as a
    source.
    """
    plan = plan_repro(get_active_graph(repo.index.graph), list(repo.index.stages))
    stages = [
        stage
        for stage in plan
        if isinstance(stage, PipelineStage) and stage.path_in_repo == PROJECT_FILE
    ]
    _check_files(repo, stages)
    return stages


def _check_files(repo: Repo, stages: Iterable[PipelineStage]) -> None:
    """Refuse what DVC is about to hash and cannot hash whole."""
    sources = {
        dep.fs_path: dep.fs for stage in stages for dep in stage.deps if dep.protocol == "local"
    }
    for path, fs in sources.items():
        problem = why_not_hashable(Path(path), partial(repo.dvcignore.is_ignored, fs))
        if problem:
            raise GraphError(problem)


def _check_names(root: Path, definitions: Mapping[str, Any]) -> None:
    """Refuse names that would not be one and the same thing to DVC, Dagster, the stages and the
    disk.

    DVC leaves out an item whose key is no text, splits one with a dot where it looks for its
    parameters, and stumbles over others; Dagster then refuses the whole graph.
    """
    params, taken = _params(root / PARAMS_FILE), dict[str, str]()
    for stage, definition in definitions.items():
        _check_keys(f"{PROJECT_FILE}: stages", [stage], [stage])
        known = getattr(definition, "normalized_iterable", None)
        if known is not None:
            where, written = _written(params, stage, getattr(definition, "foreach_data", None))
            _check_keys(where, known if written is None else written, known)
        for address in [stage] if known is None else [f"{stage}@{key}" for key in known]:
            word = address.replace("@", "__").replace("-", "_")  # as Dagster does
            if taken.setdefault(word, address) != address:
                raise GraphError(
                    f"{taken[word]} and {address} are one name to Dagster, to which - and _ are "
                    "the same. "
                    "Rename one of them in params.yaml."
                )


def _params(path: Path) -> Any:
    """As the stages read it, which is not quite as DVC does; None where there is no such file."""
    try:
        return _yaml(path) if path.exists() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GraphError(f"{path}: not valid YAML: {error}. Mend the line it names.") from None


def _written(params: Any, stage: str, data: Any) -> tuple[str, Iterable[Any] | None]:
    """Where the items of a stage stand, and their keys as YAML has them; None where they are not a
    plain map.
    """
    where, place = (
        f"{PROJECT_FILE}: stages.{stage}",
        IN_PARAMS.fullmatch(data) if isinstance(data, str) else None,
    )
    if place:
        where, data = f"{PARAMS_FILE}: {place[1]}", params
        for key in place[1].split("."):
            data = data.get(key) if isinstance(data, Mapping) else None
    return where, data if isinstance(data, Mapping) else None


def _check_keys(where: str, written: Iterable[Any], known: Iterable[str]) -> None:
    """known: those that DVC makes items of."""
    for key in written:
        shown = key if isinstance(key, str) else dumps(key, default=str).strip('"')
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", shown).strip("_")
        advice = f'Write "{better}", with the quotes.' if better else "Choose another."
        if not NAME.fullmatch(shown):
            raise GraphError(
                f"{where}: {shown!r} can't be a name: a to z, A to Z, digits, _ and - alone can "
                "stand "
                f"in one. {advice}"
            )
        if not isinstance(key, str) or key not in known:
            raise GraphError(
                f"{where}: without quotes, {shown} is no text to YAML but a number, a date, true, "
                "false "
                f"or null, and DVC leaves such an item out. {advice}"
            )


def _addresses(definitions: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Address -> (stage, item), from the definitions, so that no name needs to be split."""
    for stage, definition in definitions.items():
        keys = getattr(definition, "normalized_iterable", None)
        if keys is None:
            yield stage, (stage, None)
        else:
            yield from ((f"{stage}@{key}", (stage, key)) for key in keys)


def _item(
    repo: Repo,
    stage: PipelineStage,
    items_of: dict[str, tuple[str, str | None]],
    outputs: list[str],
) -> Item:
    group, name = items_of[stage.name]
    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    sources = [
        dep
        for dep in files
        if dep.protocol == "local" and not any(overlap(dep.def_path, output) for output in outputs)
    ]
    return Item(
        address=stage.name,
        stage=group,
        name=name,
        command=stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd),
        description=stage.desc or "",
        upstream=frozenset(
            other.name
            for other in repo.index.graph.successors(stage)
            if isinstance(other, PipelineStage) and other.name in items_of
        ),
        inputs={dep.def_path: dep.get_hash().value if dep.exists else MISSING for dep in sources},
        params={dep.def_path: dep.read_params() for dep in params},
        outputs=tuple(out.def_path for out in stage.outs),
        metrics=tuple(out.def_path for out in stage.outs if out.metric),
        pool=str((stage.meta or {}).get("pool", "")),
        retries=int((stage.meta or {}).get("retries", 0)),
        group=str((stage.meta or {}).get("group", "")),
        owners=tuple(map(str, _list((stage.meta or {}).get("owners")) or ())),
        plotted=_list((stage.meta or {}).get("plotted")),
        checks=_checks(group, (stage.meta or {}).get("checks") or {}),
    )


def _checks(stage: str, declared: Any) -> dict[str, DeclaredCheck]:
    try:
        return {str(name): DeclaredCheck(**(words or {})) for name, words in declared.items()}
    except (AttributeError, TypeError) as error:
        raise GraphError(
            f"{PROJECT_FILE}: {stage}: meta.checks = {declared!r}: {error}. Write NAME: {{blocking: "
            "true, description: ...}."
        ) from None


def _list(value: Any) -> tuple[Any, ...] | None:
    """A list of dvc.yaml, in which a single word may stand alone; None where there is none."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _locked(entry: Mapping[str, Any]) -> Locked:
    outs = entry.get("outs", [])
    command = entry["cmd"]
    return Locked(
        command=command if isinstance(command, str) else "\n".join(command),
        dependencies={dep["path"]: _hash_in(dep) for dep in entry.get("deps", [])},
        params=entry.get("params", {}),
        outputs={out["path"]: _hash_in(out) for out in outs},
        sizes={out["path"]: out.get("size", 0) for out in outs},
    )


def _hash_in(entry: Mapping[str, Any]) -> str:
    return str(entry.get(entry.get("hash", "md5"), MISSING))


def _reasons(changes: list[Any]) -> Iterator[str]:
    """DVC's nested status as plain lines: "changed deps: data/x modified"."""
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for kind, entries in change.items():
            for path, how in entries.items():
                if isinstance(how, str):
                    yield f"{kind}: {path} {how}"
                else:
                    yield from (f"{kind}: {path}: {key} {state}" for key, state in how.items())


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or lies in it."""
    one, other = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return one.startswith(other) or other.startswith(one)


def _digest(value: Any) -> str:
    return sha256(dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
