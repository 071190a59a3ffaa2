"""The course of a training: a table for people and plots, and the same in DVCLive's form for `dvc plots`.

Both are written from the log that belongs to the weights, so they say the same after a kill as without one.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.snapshots import StepLog

LOG = "log.csv"
LIVE = "dvclive"


def write_log(folder: Path, log: Sequence[StepLog]) -> None:
    """log.csv: step, tokens, loss, learning_rate, gradient_norm; and dvclive/, if there was a step."""
    with (folder / LOG).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(StepLog.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(line), "loss": f"{line.loss:.5f}", "learning_rate": f"{line.learning_rate:.6g}",
                          "gradient_norm": f"{line.gradient_norm:.5g}"} for line in log)
    if log:
        _write_live(folder, log)


def _write_live(folder: Path, log: Sequence[StepLog]) -> None:
    """Loss, rate and gradient norm by step, as DVCLive writes them."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ.setdefault("DVCLIVE_LOGLEVEL", "ERROR")
    try:
        from dvclive import Live
    except ImportError:  # `dvc plots` reads log.csv as well.
        return

    live = Live(dir=str(folder / LIVE), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
    for line in log:
        live.step = line.step
        for name in ("loss", "learning_rate", "gradient_norm"):
            live.log_metric(name, round(getattr(line, name), 7))
        live.make_summary()
    live.end()
