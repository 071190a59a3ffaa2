"""`python -m orchestration.retention DAYS`: count old runs that are no longer needed; `--delete`
deletes them.

Dagster keeps runs for ever and has no setting for their age. It can only delete a whole run: log,
observations and materialisations, so the plots on the assets' pages lose those points. An asset's
page and its marks need its *latest* materialisation. Hence the policy: a finished run older than
DAYS is deleted, unless it is the latest that made some asset. The cost: plots reach back DAYS, and
a run that was the last to make a single asset stays, with its whole log, until that asset is made
again.

The results and their provenance are in DVC and git, and stay as they are.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from orchestration.home import home

MOST_DAYS = 36_500
"""A hundred years: a date cannot lie much further back."""
FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def expired(instance: DagsterInstance, now: datetime, days: float) -> list[DagsterRun]:
    """The finished runs that ended more than `days` before `now` and that no asset needs.

    The newest come first.
    """
    # The page of an asset shows its last materialisation, which is stored with its run.
    latest = (record.asset_entry.last_materialization for record in instance.get_asset_records())
    needed = {entry.run_id for entry in latest if entry is not None}
    old = instance.get_runs(
        RunsFilter(statuses=FINISHED, updated_before=now - timedelta(days=days))
    )
    return [run for run in old if run.run_id not in needed]


def delete(instance: DagsterInstance, run: DagsterRun) -> None:
    """Delete a run with its events and its files."""
    instance.delete_run(run.run_id)
    instance.compute_log_manager.delete_logs(prefix=[run.run_id])

    # SQLite: each run has a file of its own, which `delete_run` only empties.
    storage = instance.event_log_storage
    if hasattr(storage, "path_for_shard"):
        shard = storage.path_for_shard(run.run_id)
        for ending in ("", "-wal", "-shm"):
            Path(shard + ending).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count the runs that would go, or delete them."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration.retention",
        description=(
            "Finished runs older than DAYS on which no asset's latest materialisation stands"
        ),
    )
    parser.add_argument("days", type=float, metavar="DAYS")
    parser.add_argument(
        "--delete", action="store_true", help="delete them; without it they are only counted"
    )
    given = parser.parse_args(arguments)
    if not 0 <= given.days <= MOST_DAYS:
        parser.error(f"DAYS is {given.days:g}: 0 to {MOST_DAYS:,}.")

    # Dagster reports a missing folder with a traceback.
    folder = home(Path.cwd())
    if not folder.is_dir():
        sys.exit(f"{folder}: no Dagster here. Run from the project's root, or set DAGSTER_HOME.")
    os.environ["DAGSTER_HOME"] = str(folder)

    with DagsterInstance.get() as instance:
        runs = expired(instance, datetime.now(UTC), given.days)
        if given.delete:
            for run in runs:
                delete(instance, run)
        total = instance.get_runs_count()

    if given.delete:
        print(f"{len(runs)} runs deleted, {total} are left.")
    else:
        print(f"{len(runs)} of {total} runs would go. Add --delete to delete them.")


if __name__ == "__main__":
    main()
