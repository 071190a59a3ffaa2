"""`python -m assets.hub_branch SOURCE.yaml ...`: pin what says `follow: main` to that branch's
newest commit.

What is read stays what the file pins: this only moves the pin, as an edit that `git diff` shows,
and everything else follows from a changed source as from any other. So a run can be repeated, and a
branch that moves leads to one run. The cost: the commit is asked for by a command (the schedule
`nightly` gives it), not at every look.
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
    """Move every pin; one that cannot be moved is said on stderr, the others still are, and the
    exit code is 1.
    """
    failed = False
    for path in map(Path, paths):
        try:
            print(move_pin(path))
        except UserError as error:
            failed = True
            print(f"hub_branch: {error}", file=sys.stderr)
    sys.exit(failed)


def move_pin(path: Path) -> str:
    """Write the newest commit of the branch into the file, whole or not at all; what was done, in
    words.

    Raises UserError where the file describes no Hub dataset that follows a branch, or the Hub
    cannot be asked.
    """
    try:
        text = path.read_text()
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as the description of a source: {error}") from None
    source = validated(HubSource, values, str(path))
    if source.follow is None:
        raise UserError(
            f"{path}: no `follow` says which branch to follow. Add `follow: main`, or leave it "
            "pinned."
        )
    newest = newest_commit(source, source.follow)
    if newest == source.revision:
        return f"{path}: {source.follow} of {source.hub} is still at {newest[:8]}"
    moved = re.sub(rf"(?m)^(revision:\s*['\"]?){source.revision}", rf"\g<1>{newest}", text)
    if yaml.safe_load(moved) != {**values, "revision": newest}:
        raise UserError(
            f"{path}: its revision stands in a form that cannot be replaced in place. Write it on "
            "a line "
            f"of its own: revision: {newest}"
        )
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(moved)
    aside.replace(path)
    return (
        f"{path}: {source.follow} of {source.hub} moved from {source.revision[:8]} to {newest[:8]}"
    )


def newest_commit(source: HubSource, branch: str) -> str:
    """The full commit at which a branch (or tag) of the dataset stands now. Raises UserError."""
    try:
        return str(huggingface_hub.HfApi().dataset_info(source.hub, revision=branch).sha)
    except Exception as error:
        raise explained(f"{source.hub} at {branch}", error) from None


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m assets.hub_branch SOURCE.yaml ...")
    main(sys.argv[1:])
