"""The estimated cost of items, and the budget that needs no approval (NEEDLEWORK_BUDGET).

The cost of an item is the time of its last run. For a training or a needle grid it is the larger of
that time and the plan's figure: the plan assumes a share of the peak, and the last run may have had
other settings. Items in the pool `gpu` cost GPU-hours on any device, and all others cost CPU-hours.
CPU-hours are wall-clock hours, not the sum over cores.

An item that never ran here has an unknown cost. Outside the pool `gpu` it counts as zero, or a new
project could not start. In the pool it exceeds every budget. The cost of this estimate: a last run
that resumed from a snapshot counts only from there, so it is too low.

Each item's time is a small file beside DVC's temporary files. dvc_repro.py writes it, so a run
without Dagster counts too. The plan imports training, which this package must not, so it runs as a
command. Its answer is stored until one of its inputs changes (kept.py). A command that failed is
tried again, in one process once in ten minutes.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.environment import ACCELERATE, BUDGET, text_of
from orchestration.kept import NoAnswer, answer_of, keep, key_of, recall
from orchestration.locks import OURS, write_whole
from orchestration.units import duration

GPU = "gpu"
"""The pool whose items cost GPU-hours."""
SECONDS = OURS / "seconds"
"""A folder: one file for each item, with the seconds of its last run."""
MODULE = Path("training") / "plan.py"
COMMAND = [sys.executable, "-m", "training.plan", "--json"]
ANSWER = OURS / "plan.json"
PARAMS_FILE = "params.yaml"
# `make plan` takes 12 s on two busy cores (docs/log.md). A tick must not wait for a hung one.
SECONDS_FOR_THE_PLAN = 300.0
# After a plan that failed. Each tick asks for prices, and a lack of memory may last for a while.
SECONDS_BETWEEN_TRIES = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Hours of GPUs and of CPUs. Infinite means unknown, and exceeds every finite budget."""

    gpu: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Hours") -> "Hours":
        return Hours(gpu=self.gpu + other.gpu, cpu=self.cpu + other.cpu)

    def __sub__(self, other: "Hours") -> "Hours":
        return Hours(gpu=_left(self.gpu, other.gpu), cpu=_left(self.cpu, other.cpu))

    def within(self, other: "Hours") -> bool:
        """Whether both GPU and CPU hours are at most those of `other`."""
        return self.gpu <= other.gpu and self.cpu <= other.cpu


def _left(budget: float, spent: float) -> float:
    """The rest of a budget, at least 0. An infinite budget stays infinite."""
    # inf - inf would be NaN, which no comparison admits.
    return budget if math.isinf(budget) else max(budget - spent, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The estimated cost of one item."""

    hours: Hours = Hours()
    known_from: str = ""
    """"last run", "make plan", or "" if the cost is unknown."""

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
    """NEEDLEWORK_BUDGET, such as "gpu=1,cpu=4". A missing part has its default.

    Raises ValueError.
    """
    return Hours(**{**_hours(BUDGET.default), **_hours(text_of(BUDGET))})


def _hours(text: str) -> dict[str, float]:
    """The hours in a text such as "gpu=1,cpu=4"."""
    found = dict[str, float]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = map(str.strip, part.partition("="))
        hours = -1.0  # refused below
        with suppress(ValueError):
            hours = float(number)
        # "nan" is a float too, and only `not >=` refuses it.
        if name not in ("gpu", "cpu") or not hours >= 0:
            raise ValueError(
                f"{BUDGET} is {text!r}: write hours that sensor and schedule may spend without "
                "asking, as in gpu=1,cpu=4; inf is no bound."
            )
        found[name] = hours

    return found


def in_words(hours: Hours) -> str:
    """Hours as text, such as "0.5 GPU-hours and 12 s of CPU"."""
    cpu = f"{duration(3600 * hours.cpu)} of CPU" if hours.cpu else ""
    if math.isinf(hours.gpu):
        gpu = "an unknown time on GPUs"
    elif hours.gpu >= 0.01:
        gpu = f"{hours.gpu:.3g} GPU-hours"
    else:
        gpu = "under 0.01 GPU-hours" if hours.gpu else ""

    return " and ".join(filter(None, (gpu, cpu))) or "nothing"


def as_setting(hours: Hours) -> str:
    """Hours as NEEDLEWORK_BUDGET has them: "gpu=1,cpu=4"."""
    return f"gpu={hours.gpu:g},cpu={hours.cpu:g}"


def note_seconds(root: Path, address: str, seconds: float) -> None:
    """Store how long an item's command took."""
    write_whole(root / SECONDS / _file(address), json.dumps({"seconds": seconds}).encode())


def last_seconds(root: Path, address: str) -> float | None:
    """The seconds of an item's last run; None if it never ran here."""
    # An unreadable file counts as none: the next run writes it again.
    try:
        return float(json.loads((root / SECONDS / _file(address)).read_text())["seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _file(address: str) -> str:
    # An address may hold characters that a file name may not, such as a slash.
    return f"{re.sub(r'[^A-Za-z0-9_@-]', '_', address)}.json"


def cost_of(root: Path, address: str, pool: str, prices: Mapping[str, Price]) -> Cost:
    """The estimated cost of one item."""
    seconds = last_seconds(root, address)
    price = prices.get(address)
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


_failed: dict[tuple[Path, str], float] = {}
"""Project and key of the plan's inputs -> when the command failed (monotonic clock, seconds)."""


def read_prices(
    root: Path, depends: Iterable[str], ask: bool = True, pause: float = SECONDS_BETWEEN_TRIES
) -> dict[str, Price]:
    """The prices of `make plan` for trainings and needle grids; empty if there are none.

    depends: hashes of other inputs of the plan. ask: run the command if an input has changed since
    the stored answer; otherwise return the stored answer only if it is still valid. pause: seconds
    until a command that failed is tried again.
    """
    if not (root / MODULE).is_file():
        return {}

    answer = root / ANSWER
    key = key_of([*_inputs(root), *sorted(depends)])
    kept = recall(answer, key)
    if kept is not None:
        # An answer in an older form is asked for again.
        with suppress(ValueError, LookupError):
            return _prices(kept)
    if not ask or time.monotonic() - _failed.get((root, key), -math.inf) < pause:
        return {}

    try:
        said = answer_of(root, COMMAND, SECONDS_FOR_THE_PLAN)
        prices = _prices(said)
    except (NoAnswer, ValueError, LookupError) as error:
        print(f"make plan gave no prices: {error}. Run it by hand: make plan", file=sys.stderr)
        _failed[root, key] = time.monotonic()
        return {}
    keep(answer, key, said)
    return prices


def _prices(answer: Mapping[str, Mapping[str, float]]) -> dict[str, Price]:
    try:
        return {
            address: Price(gpu_hours=float(price["gpu_hours"]), devices=int(price["devices"]))
            for address, price in answer.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(str(error)) from None


def _inputs(root: Path) -> Iterator[str]:
    """The plan's inputs within the project: the devices, the parameters, the code of training."""
    chosen = text_of(ACCELERATE)
    yield chosen
    files = [root / PARAMS_FILE]
    if chosen:
        files.append(root / chosen)
    for path in files:
        yield path.read_text(errors="replace") if path.is_file() else "missing"

    # Times suffice here: a needless new plan costs seconds.
    for path in sorted((root / MODULE).parent.glob("*.py")):
        yield f"{path.name} {path.stat().st_mtime_ns}"
