"""Hub branch: move the pin of a source with `follow: main` to that branch's newest commit.

    python -m assets.hub_branch SOURCE.yaml ...

A stage reads only the pinned commit. This command changes the pin, as an edit that `git diff`
shows, and a changed source makes its domains stale like any other change. So every run can be
repeated, and a branch that moves leads to one run.

The cost: a new commit is noticed only when this command runs (the schedule `nightly` runs it).
"""

import re
import sys
from pathlib import Path

import huggingface_hub
import yaml

from assets.hub import HubSource, explained
from core.errors import UserError
from core.params import validated


def main(paths: list[str]) -> None:
    """Move every pin. If one cannot be moved, the others still are, and the exit code is 1."""
    failed = False
    for path in map(Path, paths):
        try:
            print(move_pin(path))
        except UserError as error:
            failed = True
            print(f"hub_branch: {error}", file=sys.stderr)
    sys.exit(failed)


def move_pin(path: Path) -> str:
    """Write the newest commit of the branch into the file. Returns a line that says what changed.

    Raises UserError if the file does not describe a Hub dataset that follows a branch, or if the
    Hub does not answer. The file is then unchanged.
    """
    try:
        text = path.read_text()
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as the description of a source: {error}") from None

    source = validated(HubSource, values, str(path))
    if source.follow is None:
        raise UserError(
            f"{path}: there is no `follow` with the branch to follow. "
            "Add `follow: main`, or leave it pinned."
        )
    newest = newest_commit(source, source.follow)
    if newest == source.revision:
        return f"{path}: {source.follow} of {source.hub} is still at {newest[:8]}"

    # Replaced in the text: dumping the values again would lose comments and order.
    moved = re.sub(rf"(?m)^(revision:\s*['\"]?){source.revision}", rf"\g<1>{newest}", text)
    if yaml.safe_load(moved) != {**values, "revision": newest}:
        raise UserError(
            f"{path}: its revision is written in a form that cannot be replaced. "
            f"Write it on a line of its own: revision: {newest}"
        )
    # Written aside and renamed: a reader sees the old file or the new one, never a part.
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(moved)
    aside.replace(path)
    return (
        f"{path}: {source.follow} of {source.hub} moved from {source.revision[:8]} to {newest[:8]}"
    )


def newest_commit(source: HubSource, branch: str) -> str:
    """The full commit of a branch (or tag) of the dataset now. Raises UserError."""
    try:
        return str(huggingface_hub.HfApi().dataset_info(source.hub, revision=branch).sha)
    except Exception as error:
        raise explained(f"{source.hub} at {branch}", error) from None


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m assets.hub_branch SOURCE.yaml ...")
    main(sys.argv[1:])
