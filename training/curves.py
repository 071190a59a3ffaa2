"""The training curve as a CSV file, for people, `dvc plots` and any plotting tool.

It is written from the log that is stored with the weights, so a kill does not change it. It needs
only the standard library: a missing package must not break the last step of a long training.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.snapshots import StepLog

LOG = "log.csv"


def write_log(folder: Path, log: Sequence[StepLog]) -> None:
    """Write log.csv: step, tokens, loss (nats per token), learning_rate, gradient_norm."""
    with (folder / LOG).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(StepLog.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        for line in log:
            # Rounded as far as anyone reads it; the exact values are in the snapshots.
            rounded = {
                "loss": f"{line.loss:.5f}",
                "learning_rate": f"{line.learning_rate:.6g}",
                "gradient_norm": f"{line.gradient_norm:.5g}",
            }
            writer.writerow({**asdict(line), **rounded})
