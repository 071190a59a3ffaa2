"""What an artefact was made from, as dvc.lock has it: each direct input, and every raw source
however far back.

Dagster's own lineage leads from asset to asset; these tables say in one look which bytes stand
behind a picture, and go on saying so when the sources have long changed, for they are kept with the
materialisation. The cost is some kilobytes of Dagster's database for each, hence the limits.

dvc.lock has what each item was *last* made from. If something upstream was itself out of date, what
was read of it may have been made of other sources than its entry names; the table then says so.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from orchestration import units
from orchestration.graph import Graph, Locked, overlap
from orchestration.translation import asset_key

ROWS = 60
VALUE_LETTERS = 120
CODE = (".py", ".sh")


def came_out(locked: Locked) -> str:
    """Every output with its size and its hash."""
    return table(
        ["output", "size", "hash"],
        (
            [_code(path), units.size(locked.sizes.get(path, 0)), _code(value)]
            for path, value in locked.outputs.items()
        ),
    )


def made_from(graph: Graph, address: str, locked: Locked) -> str:
    """Every direct input with its hash (of a parameter: its value), and what it is."""
    return table(
        ["input", "hash or value", "is"], [*_files(graph, address, locked), *_params(locked)]
    )


def sources(
    graph: Graph, address: str, lock: Mapping[str, Locked], stale: AbstractSet[str] = frozenset()
) -> str:
    """Every raw source behind an item with its hash, and the assets that read it.

    stale: items that are out of date or read such a one.
    """
    readers: dict[tuple[str, str], list[str]] = {}
    chain = [*graph.upstream(address), address]
    for reader in chain:
        dependencies = lock[reader].dependencies if reader in lock else {}
        for path, value in dependencies.items():
            if not graph.made(path) and not path.endswith(CODE):
                readers.setdefault((path, value), []).append(reader)
    shown = table(
        ["source", "hash", "read by"],
        (
            [_code(path), _code(value), _links(graph, found)]
            for (path, value), found in sorted(readers.items())
        ),
    )
    doubtful = [reader for reader in chain if reader in stale]
    return shown + (
        f"\n\nNot certain: {', '.join(doubtful)} was out of date then." if doubtful else ""
    )


def revision(root: Path) -> str:
    """The commit that is checked out, and the tracked files that differ from it; "" where git has
    none.

    dvc.lock is left out: every run changes it.
    """
    commit = git(root, "rev-parse", "HEAD")
    if not commit:
        return ""
    tracked = ["--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"]
    changed = [line[3:] for line in git(root, "status", *tracked).splitlines()]
    more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
    return commit + (f", with changes in {', '.join(changed[:10])}{more}" if changed else "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], most: int = ROWS) -> str:
    """A Markdown table of at most so many rows, which says how many it leaves out."""
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body[:most]]
    left_out = f"\n\n({len(body) - most} more rows)" if len(body) > most else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + left_out


def _files(graph: Graph, address: str, locked: Locked) -> Iterator[list[str]]:
    """Assets first, then sources, then code."""

    def kind(path: str) -> int:
        return 0 if graph.made(path) else 2 if path.endswith(CODE) else 1

    for path in sorted(locked.dependencies, key=kind):
        makers = [
            other
            for other in graph.upstream(address)
            if any(overlap(path, out) for out in graph.items[other].outputs)
        ]
        what = _links(graph, makers) if makers else "code" if path.endswith(CODE) else "source"
        yield [_code(path), _code(locked.dependencies[path]), what]


def _params(locked: Locked) -> Iterator[list[str]]:
    for path, values in locked.params.items():
        for key, value in values.items():
            text = json.dumps(value, default=str, ensure_ascii=False)
            short = text if len(text) <= VALUE_LETTERS else f"{text[:VALUE_LETTERS]} ..."
            yield [_code(key), _code(short), f"parameter in {path}"]


def _links(graph: Graph, addresses: Sequence[str], most: int = 8) -> str:
    names = [asset_key(graph.items[address]).to_user_string() for address in addresses]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"[{name}](/assets/{name})" for name in names[:most]) + more


def _code(text: str) -> str:
    return f"`{text}`"


def git(root: Path, *arguments: str, stdin: bytes = b"") -> str:
    """The output of git; "" where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, input=stdin, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.decode(errors="replace").rstrip()
