"""The versions behind a number: artefacts by dvc.lock, packages, and the revision of the code.

dvc.lock is read as plain YAML. It is complete when the comparison runs, because everything that the
page shows is upstream of it. The versions of packages are in the metrics file that dvc.lock names
with each artefact.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

LOCK = Path("dvc.lock")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One artefact in its present version."""

    address: str
    """checkpoint@per_source."""
    path: str
    """data/checkpoint/per_source."""
    md5: str
    """DVC's hash."""
    params: dict[str, Any]
    """The values of params.yaml that it was made with, by dotted key."""
    inputs: tuple[str, ...]
    """Paths of the data that it was made from."""
    made_with: str = ""
    """Versions of the packages that decide its bytes."""


def versions(items: Mapping[str, Sequence[str]], lock: Path = LOCK) -> dict[str, Version]:
    """Address -> version, of every artefact of data/ in dvc.lock. Empty without a lock.

    items: stage -> the names that it has now. dvc.lock still has those that were removed from
    params.yaml.
    """
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    found = {}
    for address, body in stages.items():
        stage, _, item = address.partition("@")
        # A stage that a user added may have no output in data/.
        data = next((out for out in body.get("outs", []) if out["path"].startswith("data/")), None)
        if data is not None and (not item or item in items.get(stage, [item])):
            found[address] = _version(address, data, body, lock.parent)
    return found


def _version(address: str, data: dict[str, Any], body: dict[str, Any], root: Path) -> Version:
    """The version of one artefact.

    data: its output in data/. body: its entry in dvc.lock. root: the project's folder.
    """
    params: dict[str, Any] = {}
    for file in body.get("params", {}).values():
        params |= file
    inputs = [dep["path"] for dep in body.get("deps", []) if not dep["path"].endswith(".py")]
    metrics = [out["path"] for out in body["outs"] if out["path"].startswith("metrics/")]
    return Version(
        address=address,
        path=data["path"],
        md5=data["md5"],
        params=params,
        inputs=tuple(inputs),
        made_with=_made_with(root / metrics[0]) if metrics else "",
    )


def _made_with(metrics: Path) -> str:
    """The versions of packages in a metrics file; "" without the file or its entry."""
    try:
        return str(json.loads(metrics.read_text()).get("made_with", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def behind(address: str, known: dict[str, Version]) -> Iterator[Version]:
    """The artefact and everything that it was made from, nearest first, each once."""
    waiting, seen = [address], set()
    while waiting:
        current = waiting.pop(0)
        if current in seen or current not in known:
            continue
        seen.add(current)
        yield known[current]
        for other in known.values():
            for path in known[current].inputs:
                # An input may be the folder of all items of a stage.
                if other.path == path or other.path.startswith(f"{path}/"):
                    waiting.append(other.address)


def table(known: dict[str, Version]) -> pd.DataFrame:
    """One row per artefact: hash, inputs, versions of packages and parameters.

    known: address -> version, of the artefacts to show.
    """
    rows = []
    for version in known.values():
        sources = []
        for other in behind(version.address, known):
            if other.address != version.address and other.path in version.inputs:
                sources.append(other.address)
        rows.append(
            {
                "artefact": version.address,
                "DVC hash": version.md5,
                # An artefact made from files of the user's only has their paths.
                "made from": ", ".join(sorted(sources)) or ", ".join(version.inputs),
                "made with": version.made_with,
                "parameters": _short(version.params),
            }
        )
    columns = ["artefact", "DVC hash", "made from", "made with", "parameters"]
    return pd.DataFrame(rows, columns=columns)


def revision() -> str:
    """The commit that is checked out, with "+" if tracked files differ from it; or "none"."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    """The output of a git command. Raises CalledProcessError if it fails."""
    done = subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _short(params: dict[str, Any]) -> str:
    """The parameters as YAML on one line, cut to what a table cell can show."""
    text = yaml.safe_dump(
        params,
        default_flow_style=True,
        sort_keys=True,
        width=10_000,
    ).strip()
    return text if len(text) < 400 else f"{text[:400]} ..."
