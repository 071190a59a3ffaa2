"""What a stage checks of its own artefact: written into it, and printed if it failed.

Dagster shows the checks of an artefact and makes nothing from one that failed a blocking check. A
failed check does not end the stage itself: DVC would then drop the artefact, nobody could inspect
it, and the next run would spend the same hours on the same result. The cost: plain `dvc repro` goes
on, and the user sees a line.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

CHECKS = "checks.json"
"""In the folder of an artefact: the list of its checks, if its stage makes any."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check: one entry of checks.json.

    dvc.yaml declares it under `meta: checks`; tests/test_architecture.py compares the two.
    """

    name: str
    passed: bool | None
    """None: there was nothing to check, and `found` says why."""
    expected: str
    found: str
    advice: str = ""
    """What to do if it failed."""
    blocking: bool = True
    """Whether Dagster makes nothing from an artefact that failed it."""

    @property
    def failed(self) -> bool:
        """Whether it was made and did not pass."""
        return self.passed is False

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}. {self.advice}".rstrip()


def report(checks: Sequence[Check], who: str) -> None:
    """Print a line on stderr for each check that failed; who: the stage and its item."""
    for check in checks:
        if check.failed:
            kind = "blocking check" if check.blocking else "check"
            print(f"{who}: {kind} {check.name} failed: {check}", file=sys.stderr, flush=True)
