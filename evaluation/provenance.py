"""Which versions made a number: what dvc.lock says of the artefacts behind it, and the revision of
the code.

dvc.lock is read as the plain YAML it is. It is complete when the comparison runs, for all that the
page shows lies upstream of it. The versions of packages come from the metrics file that dvc.lock
names beside each artefact.
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
    """One artefact as it is: its stage and item, DVC's hash, and what went into it."""

    address: str
    path: str
    md5: str
    params: dict[str, Any]
    inputs: tuple[str, ...]
    """Paths of what it was made from, code left out."""
    made_with: str = ""
    """Versions of the packages that decide its bytes."""


def versions(items: Mapping[str, Sequence[str]], lock: Path = LOCK) -> dict[str, Version]:
    """Every artefact of the graph that dvc.lock knows, by address (checkpoint@per_source). Empty
    without a lock.

    items: the names that a stage has now, for dvc.lock remembers those that were taken out of
    params.yaml too.
    """
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    return {
        address: _version(address, body, lock.parent)
        for address, body in stages.items()
        for stage, _, item in [address.partition("@")]
        if not item or item in items.get(stage, [item])
    }


def _version(address: str, body: dict[str, Any], root: Path) -> Version:
    out = next(out for out in body["outs"] if out["path"].startswith("data/"))
    return Version(
        address=address,
        path=out["path"],
        md5=out["md5"],
        params={
            key: value for file in body.get("params", {}).values() for key, value in file.items()
        },
        inputs=tuple(
            dep["path"] for dep in body.get("deps", []) if not dep["path"].endswith(".py")
        ),
        made_with=next(
            (
                _made_with(root / out["path"])
                for out in body["outs"]
                if out["path"].startswith("metrics/")
            ),
            "",
        ),
    )


def _made_with(metrics: Path) -> str:
    """What a metrics file says of packages; "" where it is not there or says nothing."""
    try:
        return str(json.loads(metrics.read_text()).get("made_with", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def behind(address: str, known: dict[str, Version]) -> Iterator[Version]:
    """The artefact and all it came from, nearest first, each once."""
    waiting, seen = [address], set()
    while waiting:
        current = waiting.pop(0)
        if current in seen or current not in known:
            continue
        seen.add(current)
        yield known[current]
        waiting += [
            other.address
            for other in known.values()
            for path in known[current].inputs
            if other.path == path or other.path.startswith(f"{path}/")
        ]


def table(known: dict[str, Version]) -> pd.DataFrame:
    """A row an artefact."""
    return pd.DataFrame(
        [
            {
                "artefact": version.address,
                "DVC hash": version.md5,
                "made from": ", ".join(
                    sorted(
                        other.address
                        for other in behind(version.address, known)
                        if other.address != version.address and other.path in version.inputs
                    )
                )
                or ", ".join(version.inputs),
                "made with": version.made_with,
                "parameters": _short(version.params),
            }
            for version in known.values()
        ],
        columns=["artefact", "DVC hash", "made from", "made with", "parameters"],
    )


def revision() -> str:
    """The commit that is checked out, "+" if tracked files differ from it, or "none"."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{commit}+" if changed else commit


def _short(params: dict[str, Any]) -> str:
    text = yaml.safe_dump(params, default_flow_style=True, sort_keys=True, width=10_000).strip()
    return text if len(text) < 400 else f"{text[:400]} ..."
