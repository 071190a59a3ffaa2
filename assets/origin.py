"""By which code and packages a piece of work was begun that is kept half done, and whether they are
others now.

What is kept is found again by what decides it: settings and data. Code decides it too, but a
reworded comment changes a file's hash, and a training of ten days must not be lost to one. So code
and packages are no part of a name. They are written down beside what is kept, and who goes on with
it is told which of them changed. The cost is that whoever has changed what the code computes must
read that line, and remove what is kept to begin anew.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from assets.stage import package_versions, write_json

OURS = ("assets", "training", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What did the work from `after` on."""

    after: int
    """Steps, or answers, that were there when it began."""
    code: Mapping[str, str]
    """SHA-256 of each module of ours that was imported, by its name."""
    packages: Mapping[str, str]
    """Version of each package that decides bytes."""


def note(path: Path, stage: str, after: int) -> str:
    """Write into `path` what is at work from here on; returns what differs from what did the work
    before, in words.

    after: steps, or answers, that are there already; 0 begins anew. stage: whose packages decide
    the bytes.
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
    """All that has worked on it, in turn; empty where nothing is written down, or nothing that can
    be read."""
    try:
        return [Origin(**part) for part in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def done_by_others(path: Path) -> int:
    """Steps, or answers, that other code or packages than the last made."""
    return max((part.after for part in origins(path)[1:]), default=0)


def code_at_work() -> dict[str, str]:
    """SHA-256 of each module of ours that this process has imported, by its name."""
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
    """In words; modules that only one of them imported are left out, for another command may be at
    work."""
    modules = [
        name
        for name in sorted(before.code.keys() & now.code.keys())
        if before.code[name] != now.code[name]
    ]
    parts = (
        [f"other code ({', '.join(modules[:6])}{' and more' if len(modules) > 6 else ''})"]
        if modules
        else []
    )
    parts += [
        f"{name} {before.packages.get(name, 'none')} (now {now.packages.get(name, 'none')})"
        for name in sorted(before.packages.keys() | now.packages.keys())
        if before.packages.get(name) != now.packages.get(name)
    ]
    return ", ".join(parts)
