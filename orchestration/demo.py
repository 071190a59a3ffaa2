"""`python -m orchestration.demo`: the whole graph through Dagster in this process, then the results
as a table.

The run is kept in DAGSTER_HOME like any other, so `make ui` shows it afterwards. Dagster's own log,
several lines for each asset, goes there and not to the terminal.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, ExecuteInProcessResult

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import GraphBusy, GraphError
from orchestration.home import home, prepare
from orchestration.running import Finished, Line, Outcome

SECONDS_BETWEEN_LINES = 5.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
COMPARISON = Path("data/comparison")


class Terminal:
    """One line for each item when it is done, and for long ones a line of their own now and then."""

    def __init__(self) -> None:
        self.total, self._done = 0, 0
        self._last: dict[str, float] = {}

    def show(self, event: Line | Finished) -> None:
        """Print what is worth a line."""
        if isinstance(event, Line):
            self._line(event)
        else:
            self._finished(event)

    def _line(self, line: Line) -> None:
        if not line.address:
            print(f"{'':9}{line.text}", flush=True)
            return
        now = time.monotonic()
        if now - self._last.setdefault(line.address, now) >= SECONDS_BETWEEN_LINES and line.text:
            self._last[line.address] = now
            print(f"{'':9}{line.address}: {line.text}", flush=True)

    def _finished(self, finished: Finished) -> None:
        self._done += 1
        count = f"[{self._done}/{self.total}]"
        seconds = f"{finished.seconds:7.1f} s" if finished.seconds else f"{'':9}"
        print(f"{count:>8} {finished.outcome.value:9} {seconds}  {finished.address}", flush=True)
        if finished.outcome is Outcome.FAILED:
            print("\n".join(f"{'':9}| {line}" for line in finished.tail), flush=True)


def run(root: Path) -> tuple[bool, str]:
    """Make the whole graph of the project in `root`; return whether all of it succeeded, and else
    why not.

    Raises GraphError.
    """
    os.environ["DAGSTER_HOME"] = str(home(root))
    prepare(home(root))
    terminal = Terminal()
    definitions = build_definitions(root, terminal.show)
    job = definitions.resolve_job_def(WHOLE_GRAPH)
    terminal.total = len(definitions.resolve_all_asset_keys())
    with DagsterInstance.get() as instance:
        done = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    return done.success, reasons(done)


def reasons(done: ExecuteInProcessResult) -> str:
    """Why the steps that failed did: what failed, which check did not hold, or that nothing could
    begin.
    """
    found = []
    for event in done.get_step_failure_events():
        data = event.step_failure_data
        told = data.user_failure_data.description if data.user_failure_data else None
        found.append(told or (data.error.message if data.error else ""))
    return "\n\n".join(text.strip() for text in found if text.strip())


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
        succeeded, why_not = run(root)
    except (GraphError, GraphBusy, ValueError) as error:
        sys.exit(str(error))
    print(f"\n{time.monotonic() - start:.0f} s\n", flush=True)
    if not succeeded:
        sys.exit(f"{why_not}\n\nMend it and run again: what is done stays done.".lstrip())
    summary = root / COMPARISON / "summary.json"
    if summary.is_file():
        print(results(json.loads(summary.read_text())))
        print(f"\n{root / COMPARISON / 'report.html'}")


if __name__ == "__main__":
    main()
