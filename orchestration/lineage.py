"""Tables of what an artefact was made from, according to dvc.lock: its direct inputs, and all raw
sources upstream.

Dagster's own lineage leads from asset to asset. These tables show on one page which bytes are
behind a picture. They are stored with the materialisation, so they stay true when the sources
change. The cost is some kilobytes of Dagster's database for each, hence the limits.

dvc.lock records what each item was *last* made from. If an upstream item was out of date, its
output may come from other sources than its entry names; the table then says "Not certain".
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from orchestration import units
from orchestration.graph import Graph, Locked, overlap
from orchestration.translation import asset_key

# A row takes 100 to 200 bytes, so a table takes about 10 kB of Dagster's database.
ROWS = 60
# A long list would fill the page; params.yaml has it in full.
VALUE_LETTERS = 120
CODE = (".py", ".sh")


def came_out(locked: Locked) -> str:
    """A table of the outputs with their sizes and hashes."""
    rows = [
        [_code(path), units.size(locked.sizes.get(path, 0)), _code(value)]
        for path, value in locked.outputs.items()
    ]
    return table(["output", "size", "hash"], rows)


def made_from(graph: Graph, address: str, locked: Locked) -> str:
    """A table of the direct inputs: path and hash, or parameter and value, and the kind of each."""
    rows = [*_files(graph, address, locked), *_params(locked)]
    return table(["input", "hash or value", "is"], rows)


def sources(
    graph: Graph, address: str, lock: Mapping[str, Locked], stale: AbstractSet[str] = frozenset()
) -> str:
    """A table of the raw sources upstream of an item: path, hash, and the assets that read it.

    stale: items that are out of date, and all downstream of them.
    """
    readers: dict[tuple[str, str], list[str]] = {}
    chain = [*graph.upstream(address), address]
    for reader in chain:
        dependencies = lock[reader].dependencies if reader in lock else {}
        for path, value in dependencies.items():
            # Two readers may have read different versions of one path: the hash is in the key.
            if not graph.made(path) and not path.endswith(CODE):
                readers.setdefault((path, value), []).append(reader)

    rows = [
        [_code(path), _code(value), _links(graph, found)]
        for (path, value), found in sorted(readers.items())
    ]
    shown = table(["source", "hash", "read by"], rows)

    doubtful = [reader for reader in chain if reader in stale]
    if doubtful:
        shown += f"\n\nNot certain: {', '.join(doubtful)} was out of date then."
    return shown


def revision(root: Path) -> str:
    """The current commit, and the tracked files that differ from it. "" if there is no commit."""
    commit = git(root, "rev-parse", "HEAD")
    if not commit:
        return ""

    # Every run changes dvc.lock, so it says nothing about the code.
    tracked = ["--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"]
    # A line begins with two letters for the state and a space.
    changed = [line[3:] for line in git(root, "status", *tracked).splitlines()]
    if not changed:
        return commit
    more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
    return f"{commit}, with changes in {', '.join(changed[:10])}{more}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], most: int = ROWS) -> str:
    """A Markdown table of at most `most` rows. A line below says how many are left out."""
    body = [_escaped(row) for row in rows]
    lines = [head, ["---"] * len(head), *body[:most]]
    left_out = f"\n\n({len(body) - most} more rows)" if len(body) > most else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + left_out


def _escaped(row: Sequence[str]) -> list[str]:
    # The bar separates columns.
    return [cell.replace("|", "\\|") for cell in row]


def _files(graph: Graph, address: str, locked: Locked) -> Iterator[list[str]]:
    """Rows for the files: assets first, then sources, then code."""

    def rank(path: str) -> int:
        if graph.made(path):
            return 0
        return 2 if path.endswith(CODE) else 1

    for path in sorted(locked.dependencies, key=rank):
        # An input may be a folder that several items write into, so there may be several makers.
        makers = [other for other in graph.upstream(address) if _writes(graph, other, path)]
        kind = _links(graph, makers)
        if not makers:
            kind = "code" if path.endswith(CODE) else "source"
        yield [_code(path), _code(locked.dependencies[path]), kind]


def _writes(graph: Graph, address: str, path: str) -> bool:
    """Whether an item's outputs are at the path, in it or around it."""
    return any(overlap(path, out) for out in graph.items[address].outputs)


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
    """The output of git. "" if there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, input=stdin, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.decode(errors="replace").rstrip()
