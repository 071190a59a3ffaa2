"""DVC's run cache, also for outputs that stay in place while their stage runs.

Every output of dvc.yaml has `persist: true`: DVC then keeps the old output when a stage starts, and
the stage replaces it whole at its end. Without it a run that is cancelled after days leaves neither
the old output nor a new one.

But DVC keeps no run cache for such a stage, because `persist` is also for commands that add to
their old output. Our commands do not read it, so their output is a function of their inputs and can
come back from the cache. The cost: one private function of DVC is replaced. Plain `dvc repro` keeps
the old output too, but runs a stage again where our command restores it.
"""

import copy

import dvc.stage.cache
from dvc.stage import Stage

_dvcs_answer = dvc.stage.cache._can_hash


def enable() -> None:
    """Use the run cache for stages with `persist` outputs, in this process."""
    dvc.stage.cache._can_hash = can_hash


def can_hash(stage: Stage) -> bool:
    """Whether DVC's run cache can hold a stage, whatever the `persist` of its outputs is."""
    # Copies, because DVC goes on to use the stage, and its outputs must stay persistent.
    seen = copy.copy(stage)
    seen.outs = [copy.copy(out) for out in stage.outs]
    for out in seen.outs:
        out.persist = False
    return bool(_dvcs_answer(seen))
