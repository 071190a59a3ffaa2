"""What is scarce while items are made: Dagster's pools, filled from NEEDLEWORK_POOLS.

An item names its pool in dvc.yaml (`meta: {pool: gpu}`), and Dagster holds its step until the pool
has a place, across runs too. The places stand in Dagster's database, and may be changed in the UI
(Deployment, Concurrency). A pool without an entry has no bound. Where there is a GPU, the pool `gpu`
begins with one place: one training takes all that it is given, and two would share them.
"""

from pathlib import Path

from dagster import DagsterInstance

from core.environment import POOLS, text_of
from orchestration.costs import GPU
from orchestration.graph import Graph

DEVICE = Path("/dev/nvidiactl")
"""The device is there where there is an NVIDIA GPU."""


def wanted_places(graph: Graph) -> dict[str, int]:
    """What NEEDLEWORK_POOLS says, as in "gpu=1,memory=2". Raises ValueError."""
    text = text_of(POOLS)
    known = {GPU, "memory", *(item.pool for item in graph.items.values() if item.pool)}
    found = dict[str, int]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, places = map(str.strip, part.partition("="))
        if not (places.isdigit() and int(places) > 0):
            raise ValueError(f"{POOLS} is {text!r}: write POOL=PLACES, as in gpu=1,memory=2.")
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
    if DEVICE.exists() and GPU not in known:
        places.setdefault(GPU, 1)
    for name, number in places.items():
        storage.set_concurrency_slots(name, number)
