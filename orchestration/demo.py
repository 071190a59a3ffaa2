"""`python -m orchestration.demo`: the whole graph through Dagster in this process, then the results
as a table.

The run is kept in DAGSTER_HOME like any other, so `make ui` shows it afterwards. Dagster's own log,
several lines for each asset, goes there and not to the terminal.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance

from core.environment import SECONDS_TO_STOP, number_of
from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import GraphBusy, GraphError, read_graph
from orchestration.home import home, prepare
from orchestration.pools import wanted_places
from orchestration.running import jobs
from orchestration.translation import step_name

SECONDS_BETWEEN_LINES = 5.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
COMPARISON = Path("data/comparison")


class Terminal:
    """One line for each item when it is done, and for long ones a line of their own now and then."""

    def __init__(self, steps: Mapping[str, str]) -> None:
        """steps: step key -> address."""
        self._steps, self._done = steps, 0
        self._last: dict[str, float] = {}

    def show(self, event: DagsterEvent) -> None:
        """Print what is worth a line."""
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
        if now - self._last.setdefault(address, now) >= SECONDS_BETWEEN_LINES:
            self._last[address] = now
            print(f"{'':9}{address}: {line}", flush=True)

    def _line(self, address: str, outcome: str, taken: float | None) -> None:
        self._done += 1
        count = f"[{self._done}/{len(self._steps)}]"
        seconds = f"{taken:7.1f} s" if taken else f"{'':9}"
        print(f"{count:>8} {outcome:9} {seconds}  {address}", flush=True)


def run(root: Path) -> list[str]:
    """Make the whole graph of the project in `root`; return why it did not succeed, a text for each
    step that failed, and what was not tried then.

    Raises GraphError, GraphBusy and ValueError before anything runs.
    """
    os.environ["DAGSTER_HOME"] = str(home(root))
    prepare(home(root))
    graph = read_graph(root)
    jobs(), number_of(SECONDS_TO_STOP), wanted_places(graph)
    steps = {step_name(item): address for address, item in graph.items.items()}
    terminal, failed, tried = Terminal(steps), list[str](), set[str]()
    job = build_definitions(root).resolve_job_def(WHOLE_GRAPH)
    with DagsterInstance.get() as instance:
        run_id, events = run_here(job, instance, run_config=QUIET, root=root)
        try:
            for event in events:
                terminal.show(event)
                tried.add(steps.get(event.step_key or "", ""))
                if event.is_step_failure or (event.is_run_failure and not failed):
                    failed.append(reason(event))
        finally:
            cancel_unfinished(instance, run_id)
    left = [address for address in steps.values() if address not in tried]
    if failed and left:
        failed.append(f"Not tried, for they read what failed: {', '.join(left)}")
    return [text for text in failed if text]


def cancel_unfinished(instance: DagsterInstance, run_id: str) -> None:
    """A run that was interrupted here has no process any more, and Dagster is told so."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "It was ended at the terminal.")


def reason(event: DagsterEvent) -> str:
    """Why a step or a run failed."""
    if event.is_run_failure:
        error = event.job_failure_data.error
        return error.message.strip() if error else ""
    data = event.step_failure_data
    told = data.user_failure_data.description if data.user_failure_data else None
    return (told or (data.error.message if data.error else "")).strip()


def results(summary: dict[str, Any]) -> str:
    """The comparison's summary as a table: exact match in percent by context length, mean held-out
    loss by band.
    """
    rows = []
    for name, model in summary["models"].items():
        needle = dict(zip(model["needle"]["lengths"], model["needle"]["exact_match"], strict=True))
        bands: dict[str, list[float]] = {}
        for losses in model["loss"].values():
            for band, loss in losses.items():
                if loss is not None:
                    bands.setdefault(band, []).append(loss)
        rows.append(
            {
                "model": name,
                "tokens trained": f"{model['tokens_trained']:,}",
                **{str(length): _percent(share) for length, share in needle.items()},
                **{
                    f"loss {band}": f"{sum(losses) / len(losses):.3f}"
                    for band, losses in bands.items()
                },
            }
        )
    note = (
        f"Base context C = {summary['base_context']}. Under each length: needles found, percent "
        "(exact match, mean "
        "over depths below 100 %; -: not asked). Loss: nats per held-out token by position, mean "
        "over domains."
    )
    return f"{_table(rows)}\n\n{note}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _table(rows: list[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in names}
    lines = [{name: name for name in names}, {name: "-" * widths[name] for name in names}, *rows]
    return "\n".join(
        "  ".join(
            line.get(name, "").ljust(widths[name])
            if name == "model"
            else line.get(name, "").rjust(widths[name])
            for name in names
        )
        for line in lines
    )


def main() -> None:
    """Run, show, and exit 1 where something failed."""
    root, start = Path.cwd(), time.monotonic()
    try:
        why_not = run(root)
    except (GraphError, GraphBusy, ValueError) as error:
        sys.exit(str(error))
    print(f"\n{time.monotonic() - start:.0f} s\n", flush=True)
    if why_not:
        told = "\n\n".join(why_not)
        sys.exit(f"{told}\n\nMend it and run again: what is done stays done.".lstrip())
    summary = root / COMPARISON / "summary.json"
    if summary.is_file():
        print(results(json.loads(summary.read_text())))
        print(f"\n{root / COMPARISON / 'report.html'}")


if __name__ == "__main__":
    main()
