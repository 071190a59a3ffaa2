"""CSV tables of other stages, in which names stay text.

pandas guesses types. A domain named "2024" would come back as a number, "1e5" as 100000.0 and "NA"
as a missing value, and would then match nothing that params.yaml names. The cost: a new column of
names must be added to NAMES.
"""

from pathlib import Path

import pandas as pd

NAMES = ("domain", "kept_by", "recipe", "model", "training", "task", "subject", "band", "source")
"""Columns that hold text, in whatever table."""


def read_table(path: Path) -> pd.DataFrame:
    """The table of a CSV file. Columns of NAMES are text, letter for letter; elsewhere an empty
    cell is a missing value."""
    columns = pd.read_csv(path, nrows=0).columns
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(NAMES, str),
        keep_default_na=False,
        na_values={column: [""] for column in columns if column not in NAMES},
    )
