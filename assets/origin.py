"""Which code and packages did the work that is kept half done, and whether they have changed since.

Half-done work (snapshots of a training, answers of a report) is found again by its settings and
data. Code decides its result too, but a reworded comment changes a file's hash, and that must not
cost a training of ten days. So code and packages are not part of its name. They are written down
beside it, and a run that continues it reports what changed. The cost: after a change of what the
code computes, the user must read that line and remove the kept work to start from the beginning.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from core.sealed import write_json
from core.versions import package_versions

OURS = ("assets", "training", "evaluation")
SHOWN = 6
"""Modules named in a message."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The code and packages that did the work from `after` on."""

    after: int
    """Steps, or answers, that were already done."""
    code: Mapping[str, str]
    """Module name -> SHA-256, of the project's modules that were imported."""
    packages: Mapping[str, str]
    """Package -> version, of those that decide the bytes."""


def note(path: Path, stage: str, after: int) -> str:
    """Write down in `path` which code and packages do the work from now on.

    Returns what changed since the work before, as a phrase; "" if nothing did.
    after: steps, or answers, that are already done; 0 starts from the beginning.
    stage: the stage whose packages count.
    """
    now = Origin(after=after, code=code_at_work(), packages=package_versions(stage))
    known = origins(path)
    before = [part for part in known if part.after < after]
    changed = _difference(before[-1], now) if before else ""
    wanted = [*before, now] if changed or not before else before
    if wanted != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, [asdict(part) for part in wanted])
    return changed


def origins(path: Path) -> list[Origin]:
    """Every origin so far, in order; empty if there is no file that can be read."""
    try:
        return [Origin(**part) for part in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def done_by_others(path: Path) -> int:
    """Steps, or answers, that were done by code or packages other than the last ones."""
    return max((part.after for part in origins(path)[1:]), default=0)


def code_at_work() -> dict[str, str]:
    """Module name -> SHA-256, of the project's modules that this process has imported."""
    files = {
        (module.__spec__.name if name == "__main__" and module.__spec__ else name): module.__file__
        for name, module in list(sys.modules.items())
        if getattr(module, "__file__", None)
    }
    return {
        name: sha256(Path(file).read_bytes()).hexdigest()
        for name, file in sorted(files.items())
        if file and name.split(".")[0] in OURS
    }


def _difference(before: Origin, now: Origin) -> str:
    """What changed, as a phrase; "" if nothing did."""
    parts = []
    # Modules that only one of them imported do not count: another command imports others.
    both = sorted(before.code.keys() & now.code.keys())
    modules = [name for name in both if before.code[name] != now.code[name]]
    if modules:
        more = " and more" if len(modules) > SHOWN else ""
        parts.append(f"other code ({', '.join(modules[:SHOWN])}{more})")
    for name in sorted(before.packages.keys() | now.packages.keys()):
        then, current = (origin.packages.get(name, "none") for origin in (before, now))
        if then != current:
            parts.append(f"{name} {then} (now {current})")
    return ", ".join(parts)
