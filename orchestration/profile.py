"""`python -m orchestration.profile NAME`: copy profiles/NAME.yaml to params.yaml.

Some stages read a whole folder of items (data/tokenized_corpus), so items of the last profile must
not stay there. If DVC's cache holds an item, it is removed, and comes back from the cache without
running when you return. Otherwise it is moved to data.left-behind/, never deleted. So is a
params.yaml that equals no profile and was never committed. The cost: data.left-behind/ grows until
you delete it.
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
    """Make profiles/NAME.yaml the project's params.yaml.

    Returns one line for each file or folder that was removed or moved. Raises GraphError when there
    is no such profile, or the graph can't be read with it (params.yaml is then as before), and
    GraphBusy while DVC is running.
    """
    profile = root / PROFILES / f"{name}.yaml"
    if not profile.is_file():
        raise GraphError(f"{profile}: no such profile. There are: {known_profiles(root)}.")

    params = root / PARAMS
    before = params.read_bytes() if params.exists() else None
    # Before the new params.yaml is written: afterwards DVC no longer knows the old items.
    held = _held(root)
    write_whole(params, profile.read_bytes())
    try:
        graph = read_graph(root)
    except (GraphError, GraphBusy):
        if before is None:
            params.unlink()
        else:
            write_whole(params, before)
        raise

    kept = [] if before is None else _keep(root, before)
    return kept + [_take_away(root, path, held) for path in leftovers(graph, held)]


def known_profiles(root: Path) -> str:
    """The names of the profiles, for a message."""
    return ", ".join(sorted(path.stem for path in (root / PROFILES).glob("*.yaml"))) or "none"


def leftovers(graph: Graph, before: Iterable[str] = ()) -> Iterator[Path]:
    """Paths in the folders of outputs that are no outputs of this graph, relative to the root.

    before: the outputs of the graph before. Their folders are searched too.
    """
    outputs = {Path(output) for item in graph.items.values() for output in item.outputs}
    # Only folders of items (data/raw_corpus/). In data/ itself there may be files of the user.
    parents = {path.parent for path in outputs | set(map(Path, before)) if len(path.parts) > 2}

    for parent in sorted(parents):
        if not (graph.root / parent).is_dir():
            continue
        for found in sorted((graph.root / parent).iterdir()):
            path = found.relative_to(graph.root)
            # DVC writes .gitignore beside the outputs.
            if path not in outputs and not path.name.startswith("."):
                yield path


def _keep(root: Path, text: bytes) -> list[str]:
    """Save the text of a params.yaml that no profile and no commit has. Returns a line about it, or
    none.
    """
    profiles = (root / PROFILES).glob("*.yaml")
    if any(path.read_bytes() == text for path in profiles) or _committed(root, text):
        return []

    target = _free(root / LEFT_BEHIND / PARAMS)
    write_whole(target, text)
    return [
        f"{PARAMS}: held edits that were in no profile and no commit; saved as "
        f"{target.relative_to(root)}"
    ]


def _committed(root: Path, text: bytes) -> bool:
    """Whether a commit of any branch contains the text. False without git."""
    # git finds a content by its hash in the whole history, whatever the file was called.
    blob = git(root, "hash-object", "--stdin", stdin=text)
    return bool(git(root, "log", "--all", "-1", "--format=%h", f"--find-object={blob}"))


def _free(path: Path) -> Path:
    """`path`, or with a number if it is taken: params.2.yaml."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def _held(root: Path) -> Mapping[str, bool]:
    """Output -> whether DVC's cache holds it, of the graph before. Empty if it can't be read."""
    try:
        return held_by_cache(root)
    except GraphError:
        # A broken params.yaml must not block the way to a whole one. Then all is moved.
        return {}


def _take_away(root: Path, path: Path, held: Mapping[str, bool]) -> str:
    """Remove or move one path. Returns a line about it."""
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
