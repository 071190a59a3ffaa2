"""Every environment variable of the project, in one table: its name, its default, what it says.

The environment says where and how work runs. It never changes an artefact: params.yaml does. All
variables are read by `text_of` and `number_of`. So an empty one counts as unset, and a value that
is not a number is refused with the same message everywhere. docs/environment.md shows the same
table, and tests/core/test_environment.py compares the two. The cost: a module that needs a variable
must add it here.

Two files are started by their path, without the project: orchestration/guard.py and
core/elsewhere.py. Whoever starts them reads the variable and passes the number on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """One row of the table."""

    name: str
    meaning: str
    """What it sets, in a phrase."""
    default: str = ""
    """Its text where it is unset or empty."""
    shown: str = ""
    """The default in words, where the code computes it or where the text says too little."""
    whole: bool = False
    """A number without a fraction."""
    positive: bool = False
    """A number above 0; other numbers may be 0."""

    def __str__(self) -> str:
        return self.name


class VariableError(UserError, ValueError):
    """A variable has a value that makes no sense. Dagster's side treats it as a ValueError."""


# How much at once

JOBS = Variable(
    name="NEEDLEWORK_JOBS",
    shown="number of cores",
    meaning="how many items to make at once",
    whole=True,
    positive=True,
)
POOLS = Variable(
    name="NEEDLEWORK_POOLS",
    shown="`gpu=1` where there is a GPU",
    meaning="places in Dagster's pools: `gpu=1,memory=2`",
)

# Progress, and the end

PROGRESS = Variable(
    name="NEEDLEWORK_PROGRESS",
    shown="a bar in a terminal, else lines",
    meaning="`json`: progress as JSON, a line each",
)
SECONDS_TO_STOP = Variable(
    # A micro-batch of long rows takes minutes on a CPU, and then a trainer writes a snapshot.
    # Dagster's own limit must be longer: cancel_timeout_seconds in orchestration/home.py.
    name="NEEDLEWORK_SECONDS_TO_STOP",
    default="900",
    meaning="how long work may take to end once it is asked to; then SIGKILL",
)

# Automation

TICK_SECONDS = Variable(
    name="NEEDLEWORK_TICK_SECONDS",
    default="30",
    meaning="time between two ticks of the sensor `changes`",
    whole=True,
    positive=True,
)
NIGHTLY = Variable(
    name="NEEDLEWORK_NIGHTLY",
    default="0 3 * * *",
    shown="`0 3 * * *`",
    meaning="when the schedule `nightly` runs, in `TZ`",
)
BUDGET = Variable(
    name="NEEDLEWORK_BUDGET",
    default="gpu=1,cpu=4",
    shown="`gpu=1,cpu=4`",
    meaning="hours that sensor and schedule may spend without asking",
)
ALERT_URL = Variable(
    name="NEEDLEWORK_ALERT_URL",
    shown="none",
    meaning="the webhook that failures are sent to",
)
STALL_MINUTES = Variable(
    name="NEEDLEWORK_STALL_MINUTES",
    default="30",
    meaning="time without a line of progress after which an alert is sent",
    positive=True,
)

# Which machine

EXECUTOR = Variable(
    name="NEEDLEWORK_EXECUTOR",
    default="threads",
    shown="`threads`",
    meaning="Dagster's executor: `multiprocess`, or an import path",
)
OP_TAGS = Variable(
    name="NEEDLEWORK_OP_TAGS",
    shown="none",
    meaning="a YAML file with tags for the steps of a pool",
)
RUN_POOL = Variable(  # the name is a pattern: core/elsewhere.py reads all that begin like it
    name="NEEDLEWORK_RUN_<POOL>",
    shown="none",
    meaning="the launcher for a pool's stages: `srun --gpus 8`, `ssh HOST`",
)

# Training and evaluation

ACCELERATE = Variable(
    name="NEEDLEWORK_ACCELERATE",
    shown="one CPU process",
    meaning="the accelerate file that says which devices train",
)
SWITCHES = Variable(
    name="NEEDLEWORK_SWITCHES",
    shown="none",
    meaning="faster or smaller training: `keep_attention,liger`",
)
SNAPSHOT_SECONDS = Variable(
    name="NEEDLEWORK_SNAPSHOT_SECONDS",
    default="900",
    meaning="time between two snapshots of a training",
)
CACHE_GIB = Variable(
    name="NEEDLEWORK_CACHE_GIB",
    default="0",
    shown="what a device has free",
    meaning="memory for the caches of a needle grid",
)
REQUESTS = Variable(
    name="NEEDLEWORK_REQUESTS",
    default="8",
    meaning="requests to an endpoint at the same time",
)

# Set by the project for its own processes

RELOAD = Variable(
    name="NEEDLEWORK_RELOAD",
    meaning="the file by which `make ui` is asked to load the code location again",
)
ELSEWHERE = Variable(
    name="NEEDLEWORK_ELSEWHERE",
    meaning="in a stage on another machine: its pool",
)

VARIABLES = (
    JOBS,
    POOLS,
    PROGRESS,
    SECONDS_TO_STOP,
    TICK_SECONDS,
    NIGHTLY,
    BUDGET,
    ALERT_URL,
    STALL_MINUTES,
    EXECUTOR,
    OP_TAGS,
    RUN_POOL,
    ACCELERATE,
    SWITCHES,
    SNAPSHOT_SECONDS,
    CACHE_GIB,
    REQUESTS,
)
"""Those that a user sets, in the order of docs/environment.md."""
INTERNAL = (RELOAD, ELSEWHERE)


def text_of(variable: Variable, environment: Mapping[str, str] = os.environ) -> str:
    """The text of a variable without spaces around it. Its default where it is unset or empty."""
    return environment.get(variable.name, "").strip() or variable.default


def number_of(variable: Variable, environment: Mapping[str, str] = os.environ) -> float:
    """The number in a variable. Raises VariableError for a text that is none, or out of range."""
    text = text_of(variable, environment)

    try:
        value = float(text)
    except ValueError:
        value = -1.0  # no number at all is refused below, with the others

    least_is_met = value > 0 if variable.positive else value >= 0
    # float() reads "inf" and "nan", and neither is a time or a count.
    is_whole = value.is_integer() or not variable.whole
    if not (isfinite(value) and least_is_met and is_whole):
        kind = "a whole number" if variable.whole else "a plain number"
        least = "above 0" if variable.positive else "0 or more"
        raise VariableError(
            f"{variable.name} = {text}: not {kind}, {least}, without a unit. "
            f"It says {variable.meaning}. Set such a number, or unset it."
        )
    return value
