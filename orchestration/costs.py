"""What an item will cost, and what may be spent without asking: NEEDLEWORK_BUDGET.

An item's cost is the time of its last run. Of a training or a needle grid it is the larger of that
and what `make plan` computes: a plan assumes a share of the peak, and a last run may have had other
settings. Items in the pool `gpu` cost GPU-hours, whatever the device, and all others CPU-hours: the
hours on the clock, not those of all cores.

An item that never ran here has no known cost. Outside the pool `gpu` it counts as nothing, or no
new project would begin; in it, it counts as more than any budget. A last run that went on from a
snapshot counts from there, so it says too little.

The times are one small file an item beside DVC's temporary files: dvc_repro.py writes them, so a run
without Dagster counts too. The plan imports training, which this package may not, so it is run as a
command, and its answer is kept until something that it reads changes (kept.py).
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.environment import ACCELERATE, BUDGET, text_of
from orchestration.kept import keep, key_of, recall
from orchestration.locks import OURS, write_whole
from orchestration.units import duration

GPU = "gpu"
"""The pool whose items cost GPU-hours."""
SECONDS = OURS / "seconds"
"""A folder: of each item, the seconds of its last run."""
MODULE = Path("training") / "plan.py"
COMMAND = [sys.executable, "-m", "training.plan", "--json"]
ANSWER = OURS / "plan.json"
PARAMS_FILE = "params.yaml"
SECONDS_FOR_THE_PLAN = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Hours of GPUs and of CPUs. Infinite: unknown, and more than any budget."""

    gpu: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Hours") -> "Hours":
        return Hours(gpu=self.gpu + other.gpu, cpu=self.cpu + other.cpu)

    def __sub__(self, other: "Hours") -> "Hours":
        return Hours(gpu=_left(self.gpu, other.gpu), cpu=_left(self.cpu, other.cpu))

    def within(self, other: "Hours") -> bool:
        """Whether neither is more than the other's."""
        return self.gpu <= other.gpu and self.cpu <= other.cpu


def _left(budget: float, spent: float) -> float:
    """What is left; of no bound, no bound."""
    return budget if math.isinf(budget) else max(budget - spent, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one item will cost."""

    hours: Hours = Hours()
    known_from: str = ""
    """"last run", "make plan", or "" where nothing is known."""

    def __str__(self) -> str:
        if not self.known_from:
            return "unknown: it never ran here"
        return f"{in_words(self.hours)} ({self.known_from})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """The price of one item, from `make plan`."""

    gpu_hours: float
    devices: int


def budget() -> Hours:
    """NEEDLEWORK_BUDGET, as in "gpu=1,cpu=4"; what it leaves out has its default. Raises
    ValueError."""
    return Hours(**{**_hours(BUDGET.default), **_hours(text_of(BUDGET))})


def _hours(text: str) -> dict[str, float]:
    """The hours in a text such as "gpu=1,cpu=4"."""
    found = dict[str, float]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = map(str.strip, part.partition("="))
        hours = -1.0
        with suppress(ValueError):
            hours = float(number)
        if name not in ("gpu", "cpu") or not hours >= 0:
            raise ValueError(
                f"{BUDGET} is {text!r}: write hours that sensor and schedule may spend without "
                "asking, as in gpu=1,cpu=4; inf is no bound."
            )
        found[name] = hours
    return found


def in_words(hours: Hours) -> str:
    """As in "0.5 GPU-hours, 12 s of CPU"."""
    if math.isinf(hours.gpu):
        known = f" and {duration(3600 * hours.cpu)} of CPU" if hours.cpu else ""
        return f"an unknown time on GPUs{known}"
    gpu = f"{hours.gpu:.3g}" if hours.gpu >= 0.01 else "under 0.01"
    parts = [f"{gpu} GPU-hours"] if hours.gpu else []
    parts += [f"{duration(3600 * hours.cpu)} of CPU"] if hours.cpu else []
    return " and ".join(parts) or "nothing"


def note_seconds(root: Path, address: str, seconds: float) -> None:
    """Note how long an item's command took."""
    write_whole(root / SECONDS / _file(address), json.dumps({"seconds": seconds}).encode())


def last_seconds(root: Path, address: str) -> float | None:
    """Of its last run; None if it never ran here."""
    try:
        return float(json.loads((root / SECONDS / _file(address)).read_text())["seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _file(address: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_@-]', '_', address)}.json"


def cost_of(root: Path, address: str, pool: str, prices: Mapping[str, Price]) -> Cost:
    """What one item will cost."""
    seconds, price = last_seconds(root, address), prices.get(address)
    if pool != GPU:
        if seconds is None:
            return Cost()
        return Cost(hours=Hours(cpu=seconds / 3600), known_from="last run")
    found = list[tuple[float, str]]()
    if seconds is not None:
        found.append((seconds / 3600 * (price.devices if price else 1), "last run"))
    if price is not None:
        found.append((price.gpu_hours, "make plan"))
    if not found:
        return Cost(hours=Hours(gpu=math.inf))
    hours, source = max(found)
    return Cost(hours=Hours(gpu=hours), known_from=source)


def read_prices(root: Path, depends: Iterable[str], ask: bool = True) -> dict[str, Price]:
    """The prices of `make plan` for trainings and needle grids; empty if there are none.

    depends: hashes of what else a plan reads. ask: run the command if something has changed since
    its last answer. Without it, only an answer for the project as it is now counts.
    """
    if not (root / MODULE).is_file():
        return {}
    answer, key = root / ANSWER, key_of([*_looked_at(root), *sorted(depends)])
    kept = recall(answer, key)
    if kept is not None:
        with suppress(ValueError, LookupError):
            return _prices(kept)
    if not ask:
        return {}
    prices = _ask(root)
    keep(answer, key, prices)
    return _prices(prices)


def _ask(root: Path) -> dict[str, dict[str, float]]:
    """The command's answer; empty if it failed."""
    with suppress(OSError, ValueError, LookupError, subprocess.TimeoutExpired):
        done = subprocess.run(
            COMMAND,
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_FOR_THE_PLAN,
        )
        said = json.loads(done.stdout.strip().splitlines()[-1])
        _prices(said)
        return dict(said)
    return {}


def _prices(said: Mapping[str, Mapping[str, float]]) -> dict[str, Price]:
    try:
        return {
            address: Price(gpu_hours=float(price["gpu_hours"]), devices=int(price["devices"]))
            for address, price in said.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(str(error)) from None


def _looked_at(root: Path) -> Iterator[str]:
    """What the plan reads of the project itself."""
    chosen = text_of(ACCELERATE)
    yield chosen
    for path in [root / PARAMS_FILE, *([root / chosen] if chosen else [])]:
        yield path.read_text(errors="replace") if path.is_file() else "missing"
    for path in sorted((root / MODULE).parent.glob("*.py")):
        yield f"{path.name} {path.stat().st_mtime_ns}"
