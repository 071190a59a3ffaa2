"""A folder is written whole or not at all, and its record is written last.

The frame of a stage, `output`, writes into a folder beside the real one, hashes and fsyncs every
file, writes `record.json` there, and renames. So a folder with a record is complete. A kill leaves
the old output or none, and the next run starts clean. The record holds no clock and no host,
because the same inputs must give the same bytes. The cost is one more read of every output, for its
SHA-256.

The stage `packed_shards` writes `data/packed_shards/per_source/` for the item `per_source`, and its
numbers to `metrics/packed_shards/per_source.json`. Without items it would be `data/packed_shards/`
and `metrics/packed_shards.json`.

A stage checks its own artefact and writes the results to `checks.json` in the same folder, so a
folder that is copied keeps them. The cost: the words of a check are bytes of the artefact, so a
reworded check of the packed rows trains again.

The versions of the packages that decided its bytes are in the metrics file, under `made_with`, and
the record names that file. They are not in the artefact's folder, because later stages depend on
that folder: an upgrade that gives the same bytes would change its hash, and a training of ten days
would run again for a patch of NumPy. The cost: a folder that is copied alone loses its versions.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.checks import CHECKS, Check, report
from core.versions import MADE_WITH, package_versions

DATA = Path("data")
METRICS = Path("metrics")
RECORD = "record.json"
BLOCK = 1 << 20
"""Bytes that are hashed at a time."""


@dataclass(kw_only=True)
class Output:
    """Where a running stage writes. `folder` becomes the artefact, `metrics` its numbers, and
    `facts` join the record.
    """

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    """What the stage found about the artefact."""
    unused: set[str] = field(default_factory=set)
    """Packages of the stage that were not used this time."""


@contextmanager
def output(stage: str, item: str | None = None) -> Iterator[Output]:
    """Yields where to write. It is put in place only if the body ends without an error."""
    target = DATA / stage / item if item else DATA / stage
    metrics_file = METRICS / stage / f"{item}.json" if item else METRICS / f"{stage}.json"

    facts: dict[str, Any] = {"stage": stage, "item": item}
    with sealed(target, facts) as folder:
        out = Output(folder=folder)
        yield out

        if out.checks:
            write_json(folder / CHECKS, [asdict(check) for check in out.checks])
            report(out.checks, f"{stage} {item}" if item else stage)

        facts |= out.facts
        versions = package_versions(stage)
        used = {name: versions[name] for name in versions if name not in out.unused}
        if used:
            facts[MADE_WITH] = metrics_file.as_posix()
            out.metrics = {**out.metrics, MADE_WITH: _in_one_line(used)}

        # Before the folder is put in place, whose record names this file.
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(metrics_file, out.metrics)


def _in_one_line(versions: dict[str, str]) -> str:
    """One text: that is one column in `dvc metrics show`, where a map would be one a package."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


@contextmanager
def sealed(target: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """Yields a folder to write into. It becomes `target` only if the body ends without an error.

    Its record holds `facts`, which are read at the end, and the hash of every file.
    """
    aside = beside(target)
    # A kill may have left one.
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:  # Ctrl-C too
        shutil.rmtree(aside, ignore_errors=True)
        raise

    write_json(aside / RECORD, {**facts, "files": _hashes(aside)})
    # On disk before the rename: after a power cut, a folder in place must not be empty.
    _fsync_folder(aside)
    _replace_folder(aside, target)


def beside(target: Path) -> Path:
    """The folder in which `sealed` gathers what becomes `target`."""
    return target.with_name(f".{target.name}.partial")


def is_whole(folder: Path) -> bool:
    """Whether every file of a sealed folder is there and has the hash in its record. Reads all."""
    try:
        recorded = read_json(folder / RECORD)["files"]
        found = _hashes(folder)
    except (OSError, ValueError, KeyError):
        return False
    # The record cannot hold its own hash.
    found.pop(RECORD)
    return bool(recorded == found)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all.

    Never in place, because the old file may be a read-only link into DVC's cache.
    """
    # In the same folder, because a rename is atomic within one file system only.
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


def _hashes(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _hash_and_fsync(path) for path in files}


def _hash_and_fsync(path: Path) -> dict[str, Any]:
    hasher, size = sha256(), 0

    with path.open("rb") as file:
        while block := file.read(BLOCK):
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
    """Two renames. Between them there is no output; the next run sees it as missing, never half."""
    # rename() replaces no folder that holds files, so the old one steps aside first.
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    _fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
