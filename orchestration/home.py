"""`python -m orchestration.home`: give Dagster its folder, DAGSTER_HOME or .dagster in the project,
and its database.

The database is made here, by one process, before several use it: Dagster's processes make what is
missing, and three that start at once on an empty folder leave a database that none of them can open.
Telemetry is off. A few runs are active at a time: where two would make the same item, DVC's locks
let one wait, and it then finds the item made. An existing dagster.yaml is kept, because its owner
may have changed it.
"""

import os
from pathlib import Path

from core.environment import RELOAD, text_of

NOT_LOADED = "not-loaded"
"""The file beside that of NEEDLEWORK_RELOAD which says that the last load failed."""
LOCATION, MODULE = "needlework", "orchestration.definitions"
"""The code location's name (also in pyproject.toml) and module. Dagster keeps the state of sensors
under the name.
"""
SETTINGS = """\
# Written by `python -m orchestration.home`; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 4   # a training does not hold back what has nothing to do with it
run_launcher:            # a run is a process of its own, which can be checked
  module: orchestration.launcher
  class: ProcessRunLauncher
run_monitoring:          # a run whose process died goes on in a new one; what was finished is not repeated
  enabled: true
  poll_interval_seconds: 15
  max_resume_run_attempts: 5
  cancel_timeout_seconds: 960   # a training writes a snapshot first: NEEDLEWORK_SECONDS_TO_STOP is 900
run_retries:             # a run that ended otherwise than by a failed item, as when `make ui` is ended, starts again
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


def make_database() -> None:
    """Open each part of the database of DAGSTER_HOME once, which makes or completes it."""
    from dagster import DagsterInstance  # 2 s, which who asks for `home` alone need not wait

    with DagsterInstance.get() as instance:
        for storage in (
            instance.run_storage,
            instance.event_log_storage,
            instance.schedule_storage,
        ):
            assert storage is not None


def ask_for_reload() -> tuple[bool, str]:
    """Ask `make ui` to reload the code location: whether it runs, and what that means in words."""
    asked = text_of(RELOAD)
    if not asked:
        return False, "Reload the code location to see what it is now."
    Path(asked).touch()
    return True, "The code location is being reloaded."


def note_failed_load() -> None:
    """Let `make ui`, if it runs, try again once the project's files have changed."""
    if asked := text_of(RELOAD):
        Path(asked).with_name(NOT_LOADED).touch()


if __name__ == "__main__":
    os.environ["DAGSTER_HOME"] = str(prepare(home(Path.cwd())).parent)
    make_database()
