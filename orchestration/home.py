"""`python -m orchestration.home`: give Dagster its folder, DAGSTER_HOME or .dagster in the project.

Nothing is sent anywhere, and one run is worked at a time: parallelism lives inside the run, where the edges are known.
A dagster.yaml that is there already is left alone, for its owner may have changed it.
"""

import os
from pathlib import Path

SETTINGS = """\
# Written by `python -m orchestration.home`; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 1
run_monitoring:          # a run whose process died is ended, not left as running
  enabled: true
run_retries:             # and started again; what was finished before is found done. A failed item is not retried
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
retention:
  sensor: {purge_after_days: {skipped: 3, failure: 30, success: -1}}
  schedule: {purge_after_days: 30}
"""


def home(root: Path) -> Path:
    """Where Dagster keeps its database: DAGSTER_HOME, else .dagster in `root`."""
    return Path(os.environ.get("DAGSTER_HOME") or root / ".dagster").absolute()


def prepare(folder: Path) -> Path:
    """Make the folder and its dagster.yaml where they are missing; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "dagster.yaml"
    if not file.exists():
        aside = file.with_name(".dagster.yaml.partial")
        aside.write_text(SETTINGS)
        aside.replace(file)
    return file


if __name__ == "__main__":
    prepare(home(Path.cwd()))
