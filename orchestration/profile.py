"""`python -m orchestration.profile NAME`: put profiles/NAME.yaml in place as params.yaml.

Some stages read a whole folder of items (data/tokenized_corpus), so items of the profile left
behind must not stay there. What DVC's cache holds is removed and comes back from it, without
running, when you return; what it does not hold is moved to data.left-behind/, never deleted. So is
a params.yaml that is no profile and was never committed.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from orchestration.graph import Graph, GraphBusy, GraphError, held_by_cache, read_graph
from orchestration.lineage import git
from orchestration.locks import write_whole

PARAMS = "params.yaml"
PROFILES = "profiles"
LEFT_BEHIND = "data.left-behind"


def put_in_place(root: Path, name: str) -> list[str]:
    """Make profiles/NAME.yaml the project's params.yaml; return one line for each thing taken out
    of the way.

    Raises GraphError when there is no such profile, or the graph can't be read with it (params.yaml
    is then as before), and GraphBusy while DVC is running.
    """
    profile = root / PROFILES / f"{name}.yaml"
    if not profile.is_file():
        raise GraphError(f"{profile}: no such profile. There are: {known_profiles(root)}.")
    params = root / PARAMS
    before = params.read_bytes() if params.exists() else None
    held = _held(root)
    write_whole(params, profile.read_bytes())
    try:
        graph = read_graph(root)
    except GraphError:
        if before is not None:
            write_whole(params, before)
        raise
    kept = [] if before is None else _keep(root, before)
    return kept + [_take_away(root, path, held) for path in leftovers(graph, held)]


def known_profiles(root: Path) -> str:
    """Their names, for a message."""
    return ", ".join(sorted(path.stem for path in (root / PROFILES).glob("*.yaml"))) or "none"


def leftovers(graph: Graph, before: Iterable[str] = ()) -> Iterator[Path]:
    """What lies beside the outputs of this graph and the one before, and is none of this one's;
    relative to the root.

    Only folders of items are looked into (data/raw_corpus/), not what holds those (data/).
    """
    outputs = {Path(output) for item in graph.items.values() for output in item.outputs}
    parents = {
        output.parent for output in outputs | set(map(Path, before)) if len(output.parts) > 2
    }
    for parent in sorted(parents):
        if (graph.root / parent).is_dir():
            found = (
                path.relative_to(graph.root) for path in sorted((graph.root / parent).iterdir())
            )
            yield from (
                path for path in found if path not in outputs and not path.name.startswith(".")
            )


def _keep(root: Path, text: bytes) -> list[str]:
    """Save the text of a params.yaml that can be had from nowhere else; one line that says where,
    or none.
    """
    if any(path.read_bytes() == text for path in (root / PROFILES).glob("*.yaml")) or _committed(
        root, text
    ):
        return []
    target = _free(root / LEFT_BEHIND / PARAMS)
    write_whole(target, text)
    return [
        f"{PARAMS}: held edits that were in no profile and no commit; saved as "
        f"{target.relative_to(root)}"
    ]


def _committed(root: Path, text: bytes) -> bool:
    """Whether some commit of any branch holds the text; False where there is no git."""
    blob = git(root, "hash-object", "--stdin", stdin=text)
    return bool(git(root, "log", "--all", "-1", "--format=%h", f"--find-object={blob}"))


def _free(path: Path) -> Path:
    """`path`, with a number where that is taken: params.2.yaml."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def _held(root: Path) -> Mapping[str, bool]:
    """Of the graph being left; nothing counts as held where it can't be read."""
    try:
        return held_by_cache(root)
    except GraphError:
        return {}


def _take_away(root: Path, path: Path, held: Mapping[str, bool]) -> str:
    source = root / path
    if held.get(path.as_posix()):
        if source.is_dir():
            shutil.rmtree(source)
        else:
            source.unlink()
        return f"{path}: removed, DVC's cache holds it"
    target = _free(root / LEFT_BEHIND / path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return f"{path}: moved to {target.relative_to(root)}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            f"Say which profile: make profile NAME=... There are: {known_profiles(Path.cwd())}."
        )
    try:
        for line in put_in_place(Path.cwd(), sys.argv[1]):
            print(line)
    except (GraphError, GraphBusy) as error:
        sys.exit(str(error))
