"""`python -m orchestration.repro ARGUMENTS`: `dvc ARGUMENTS`, except that dvc.lock names what an item was made from.

DVC hashes the inputs of an item once more after its command has ended, and records those (treeverse/dvc#11058). What
changed in between, a document that arrived or an edit of the trainer's code while it trains for days, then stands in
dvc.lock as if the output had been made from it: nothing is out of date, the change is lost, and the run cache hands the
output out to inputs that never made it. Here the hashes of just before the command stay. An item whose inputs changed
meanwhile is out of date afterwards, as it should be, and where the change is taken back it is not.

The cost: one method of DVC's is replaced, and `dvc repro` by hand keeps DVC's own way.
"""

import sys
from collections.abc import Callable

from dvc.cli import main
from dvc.stage import Stage


def once(save_deps: Callable[..., None]) -> Callable[..., None]:
    """`Stage.save_deps`, which does nothing for a stage that has saved its inputs already."""
    saved: list[Stage] = []  # the stages themselves, for two may be equal

    def save(stage: Stage, allow_missing: bool = False) -> None:
        if not any(stage is other for other in saved):
            save_deps(stage, allow_missing=allow_missing)
            saved.append(stage)

    return save


if __name__ == "__main__":
    Stage.save_deps = once(Stage.save_deps)
    sys.exit(main(sys.argv[1:]))
