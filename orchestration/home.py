"""`python -m orchestration.home`: make Dagster's folder (DAGSTER_HOME, or .dagster in the project)
and its database.

One process makes the database here, before several use it. Dagster's processes create what is
missing, and three that start at once on an empty folder leave a database that none can open.
Telemetry is off. Up to four runs are active at a time. If two need the same item, DVC's locks make
one wait, and it then finds the item made. An existing dagster.yaml is kept, because its owner may
have changed it. The cost: such a file misses settings that are added here later.
"""

import os
from pathlib import Path

from core.environment import RELOAD, text_of

NOT_LOADED = "not-loaded"
"""This file marks a failed load. It lies beside the file that NEEDLEWORK_RELOAD names."""
LOCATION, MODULE = "needlework", "orchestration.definitions"
"""Name (also in pyproject.toml) and module of the code location. Dagster stores the state of
sensors under the name, so a new name would switch `changes` and `nightly` off.
"""
# A file that exists is never rewritten, so a new setting here reaches new folders only.
SETTINGS = """\
# Written by `python -m orchestration.home`; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 4   # other work need not wait for a training
run_launcher:            # each run is a separate process, whose health can be checked
  module: orchestration.launcher
  class: ProcessRunLauncher
run_monitoring:          # resumes a run whose process died; finished items are not repeated
  enabled: true
  poll_interval_seconds: 15
  max_resume_run_attempts: 5
  # longer than NEEDLEWORK_SECONDS_TO_STOP (900), in which a training writes a snapshot
  cancel_timeout_seconds: 960
run_retries:             # repeats a run that `make ui` cut short; a failed item is not repeated
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
retention:
  sensor: {purge_after_days: {skipped: 3, failure: 30, success: -1}}
  schedule: {purge_after_days: 30}
"""


def home(root: Path) -> Path:
    """The folder of Dagster's database: DAGSTER_HOME, else .dagster in `root`."""
    return Path(os.environ.get("DAGSTER_HOME") or root / ".dagster").absolute()


def prepare(folder: Path) -> Path:
    """Make the folder and its dagster.yaml if they are missing. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)

    file = folder / "dagster.yaml"
    if not file.exists():
        # Written in one step: a cut file would be kept for ever.
        aside = file.with_name(".dagster.yaml.partial")
        aside.write_text(SETTINGS)
        aside.replace(file)
    return file


def make_database() -> None:
    """Open each storage of DAGSTER_HOME once. Opening creates or migrates its tables."""
    # Imported here: it takes 2 s, and most importers need `home` only.
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        # `get` opens all three. A storage that dagster.yaml turns off would be None.
        assert instance.run_storage is not None
        assert instance.event_log_storage is not None
        assert instance.schedule_storage is not None


def ask_for_reload() -> tuple[bool, str]:
    """Ask `make ui` to reload the code location. Returns whether it runs, and a message."""
    asked = text_of(RELOAD)
    if not asked:
        return False, "Reload the code location to see what it is now."
    Path(asked).touch()
    return True, "The code location is being reloaded."


def note_failed_load() -> None:
    """Mark the failed load, so that `make ui` tries again when the project's files change."""
    if asked := text_of(RELOAD):
        Path(asked).with_name(NOT_LOADED).touch()


if __name__ == "__main__":
    os.environ["DAGSTER_HOME"] = str(prepare(home(Path.cwd())).parent)
    make_database()
