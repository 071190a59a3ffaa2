"""The training curve as one table, for people, `dvc plots` and any plotting tool.

It is written from the log that is stored with the weights, so a kill does not change it. It needs
the standard library alone: the last step of a long training must not fail for a missing package.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.snapshots import StepLog

LOG = "log.csv"


def write_log(folder: Path, log: Sequence[StepLog]) -> None:
    """log.csv: step, tokens, loss, learning_rate, gradient_norm."""
    with (folder / LOG).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(StepLog.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                **asdict(line),
                "loss": f"{line.loss:.5f}",
                "learning_rate": f"{line.learning_rate:.6g}",
                "gradient_norm": f"{line.gradient_norm:.5g}",
            }
            for line in log
        )
