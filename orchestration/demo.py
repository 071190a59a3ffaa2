"""`python -m orchestration.demo`: make the whole graph through Dagster, then print the results.

The run happens in this process, and DAGSTER_HOME stores it like any other, so `make ui` shows it
afterwards. The cost of the short output: Dagster's own log, several lines for each asset, goes to
DAGSTER_HOME and not to the terminal.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance

from core.environment import SECONDS_TO_STOP, number_of
from orchestration.alerts import reason
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import GraphBusy, GraphError, read_graph
from orchestration.home import home, prepare
from orchestration.metrics import NONE, lines
from orchestration.pools import wanted_places
from orchestration.running import jobs
from orchestration.translation import step_name

# Items that run side by side would otherwise push the finished ones off the screen.
SECONDS_BETWEEN_LINES = 5.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
COMPARISON = Path("data/comparison")


class Terminal:
    """Prints a line for each finished item, and a line of progress every few seconds."""

    def __init__(self, steps: Mapping[str, str]) -> None:
        """steps: step key -> address."""
        self._steps = steps
        self._done = 0
        self._last: dict[str, float] = {}

    def show(self, event: DagsterEvent) -> None:
        """Print an event of the run if it is worth a line."""
        address = self._steps.get(event.step_key or "")
        if address is None:
            return

        if event.event_type is DagsterEventType.ASSET_OBSERVATION:
            self._progress(address, str(event.asset_observation_data.asset_observation.description))
        elif event.is_step_materialization:
            shown = event.materialization.metadata
            seconds = float(str(shown["seconds"].value)) if "seconds" in shown else None
            self._line(address, str(shown["outcome"].value), seconds)
        elif event.is_step_failure:
            self._line(address, "failed", None)
            print("\n".join(f"{'':9}| {line}" for line in reason(event).splitlines()), flush=True)

    def _progress(self, address: str, line: str) -> None:
        now = time.monotonic()
        # The first line only starts the clock, so a short item prints nothing but its end.
        if now - self._last.setdefault(address, now) >= SECONDS_BETWEEN_LINES:
            self._last[address] = now
            print(f"{'':9}{address}: {line}", flush=True)

    def _line(self, address: str, outcome: str, taken: float | None) -> None:
        self._done += 1
        count = f"[{self._done}/{len(self._steps)}]"
        seconds = f"{taken:7.1f} s" if taken else f"{'':9}"
        print(f"{count:>8} {outcome:9} {seconds}  {address}", flush=True)


def run(root: Path) -> list[str]:
    """Make the whole graph of the project in `root`. Returns a text for each failure.

    A failed step gives its reason. One more text lists the items that were not tried after it.
    Raises GraphError, GraphBusy and ValueError before anything runs.
    """
    os.environ["DAGSTER_HOME"] = str(home(root))
    prepare(home(root))
    graph = read_graph(root)
    # Each raises for an invalid variable. Within the run that would be a traceback.
    jobs(), number_of(SECONDS_TO_STOP), wanted_places(graph)

    steps = {step_name(item): address for address, item in graph.items.items()}
    terminal = Terminal(steps)
    failed = list[str]()
    tried = set[str]()
    job = build_definitions(root).resolve_job_def(WHOLE_GRAPH)
    with DagsterInstance.get() as instance:
        run_id, events = run_here(job, instance, run_config=QUIET, root=root)
        try:
            for event in events:
                terminal.show(event)
                tried.add(steps.get(event.step_key or "", ""))
                # A failed step makes its run fail too. The run's reason would repeat the step's.
                if event.is_step_failure or (event.is_run_failure and not failed):
                    failed.append(reason(event))
        finally:
            # Ctrl-C leaves the loop early, and the UI would show the run as running for ever.
            cancel_unfinished(instance, run_id)

    left = [address for address in steps.values() if address not in tried]
    if failed and left:
        failed.append(f"Not tried, because they read what failed: {', '.join(left)}")
    return [text for text in failed if text]


def cancel_unfinished(instance: DagsterInstance, run_id: str) -> None:
    """Report an unfinished run as canceled, because its process ends here."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "It was ended at the terminal.")


def results(summary: dict[str, Any]) -> str:
    """The comparison's summary as a table, one row for each model.

    Exact match in percent for each context length, and mean held-out loss for each band.
    """
    rows = {name: _row(model) for name, model in summary["models"].items()}
    table = "\n".join(lines("model", rows))
    note = (
        f"Base context C = {summary['base_context']}. Under each length: needles found, percent "
        "(exact match, mean over depths below 100 %; -: not asked). Loss: nats per held-out token "
        "by position, mean over domains."
    )
    return f"{table}\n\n{note}"


def _row(model: dict[str, Any]) -> dict[str, str]:
    """The row of one model: column -> value."""
    row = {"tokens trained": f"{model['tokens_trained']:,}"}
    needle = model["needle"]
    for length, share in zip(needle["lengths"], needle["exact_match"], strict=True):
        row[str(length)] = NONE if share is None else f"{100 * share:.0f}"

    # A domain without documents of that length has no loss in a band.
    bands: dict[str, list[float]] = {}
    for losses in model["loss"].values():
        for band, loss in losses.items():
            if loss is not None:
                bands.setdefault(band, []).append(loss)
    return row | {f"loss {band}": f"{fmean(losses):.3f}" for band, losses in bands.items()}


def main() -> None:
    """Make the graph and print the results. Exits with 1 if something failed."""
    root = Path.cwd()
    start = time.monotonic()
    try:
        failed = run(root)
    except (GraphError, GraphBusy, ValueError) as error:
        sys.exit(str(error))

    print(f"\n{time.monotonic() - start:.0f} s\n", flush=True)
    if failed:
        reasons = "\n\n".join(failed)
        sys.exit(f"{reasons}\n\nFix it and run again: what is done stays done.".lstrip())

    # A project with other stages has no comparison.
    summary = root / COMPARISON / "summary.json"
    if summary.is_file():
        print(results(json.loads(summary.read_text())))
        print(f"\n{root / COMPARISON / 'report.html'}")


if __name__ == "__main__":
    main()
