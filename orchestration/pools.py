"""Limits on scarce resources: Dagster's pools, filled from NEEDLEWORK_POOLS.

An item names its pool in dvc.yaml (`meta: {pool: gpu}`). Dagster holds its step until the pool has
a free place, across runs too. Dagster's database stores the places, and the UI can change them
(Deployment, Concurrency). A pool without an entry has no limit. On a machine with a GPU, the pool
`gpu` begins with one place: a training takes all devices that it is given, and two would share
them. The cost: such a machine with several GPUs makes one GPU item at a time until you raise it.
"""

import re
from pathlib import Path

from dagster import DagsterInstance

from core.environment import POOLS, text_of
from orchestration.costs import GPU
from orchestration.graph import Graph

# Not str.isdigit, which is true for a superscript two.
NUMBER = re.compile(r"[0-9]+")
# Dagster refuses more, with an error that does not name the variable.
MOST_PLACES = 1000
DEVICE = Path("/dev/nvidiactl")
"""This device exists on a machine with an NVIDIA GPU. torch would take seconds to say so."""


def wanted_places(graph: Graph) -> dict[str, int]:
    """Pool -> places, from NEEDLEWORK_POOLS ("gpu=1,memory=2"). Raises ValueError."""
    text = text_of(POOLS)
    # `gpu` and `memory` are the documented names, valid even if no item uses them.
    known = {GPU, "memory", *(item.pool for item in graph.items.values() if item.pool)}

    found = dict[str, int]()
    for part in text.split(","):
        if not part.strip():
            continue
        name, _, places = map(str.strip, part.partition("="))
        if not (NUMBER.fullmatch(places) and 0 < int(places) <= MOST_PLACES):
            raise ValueError(
                f"{POOLS} is {text!r}: write POOL=PLACES, as in gpu=1,memory=2, "
                f"with 1 to {MOST_PLACES} places."
            )
        if name not in known:
            raise ValueError(
                f"{POOLS} is {text!r}: no item is in a pool {name!r}. "
                f"There are {', '.join(sorted(known))}."
            )
        found[name] = int(places)
    return found


def set_places(instance: DagsterInstance, graph: Graph) -> None:
    """Bring Dagster's pools to what is wanted. Raises ValueError."""
    storage = instance.event_log_storage
    known = {pool.name for pool in storage.get_pool_limits()}
    places = wanted_places(graph)
    # Only for a new database: the user may have changed the number in the UI since.
    if DEVICE.exists() and GPU not in known:
        places.setdefault(GPU, 1)

    for name, number in places.items():
        storage.set_concurrency_slots(name, number)
