"""All measurements of this project that need a GPU, in one process and eight minutes.

    python -m benchmarks.gpu                      every part, sized by the card
    python -m benchmarks.gpu --only width,whole   some parts
    python -m benchmarks.gpu --dry-run            every part with toy sizes, on a CPU too
    python -m benchmarks.gpu --extend FOLDER      the convincing run (benchmarks/gpu_extend.py)
    python -m benchmarks.gpu --table FILE         results that were kept in a file, as Markdown

Each result is one line of JSON, printed at once, so a run that is cut short keeps its results so
far. The most informative parts come first. Each part has its own time limit, checked between
results. A part that fails reports the error, and the others go on. Besides a plain PyTorch machine
it needs only `benchmarks/gpu-wheels.txt`. The figures are in docs/benchmarks.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # The resume part wants fixed sums.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # Long runs fragment less.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks import gpu_parts
from benchmarks.gpu_parts import Card, Result

Part = Callable[[Card], Iterator[Result]]
PARTS: dict[str, tuple[Part, float]] = {
    "machine": (gpu_parts.machine, 20),
    "attention": (gpu_parts.attention_speed, 60),
    "width": (gpu_parts.width, 90),
    "switches": (gpu_parts.switches, 130),
    "whole": (gpu_parts.whole, 120),
    "correct": (gpu_parts.correct, 60),
    "needle": (gpu_parts.needle, 60),
    "resume": (gpu_parts.resume, 60),
}
"""What is measured, in this order, and the seconds after which a part begins nothing new."""


def run_part(name: str, card: Card, seconds: float) -> int:
    """Print the results of one part. A failure is a result too. Returns how many there were."""
    failures = 0
    part, limit = PARTS[name]
    begun = time.monotonic()
    results = part(card)

    # `next` by hand: the limit is checked, and the time taken, before each result.
    while True:
        before = time.monotonic()
        if before - begun > min(limit, seconds):
            say(name, {"stopped": "the time of this part is over"}, begun)
            results.close()  # type: ignore[attr-defined]  # parts are generators
            break

        try:
            result = next(results)
        except StopIteration:
            break
        except Exception as error:  # A part that fails must not end the others.
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            place = f"{Path(where.filename).name}:{where.lineno}"
            say(name, {"failed": text, "where": place}, begun)
            failures += 1
            break

        failures += "failed" in result
        say(name, result, before)

    card.forget()
    return failures


def say(part: str, result: dict[str, Any], since: float) -> None:
    """Print a result as one line of JSON, with the seconds since `since`."""
    line = {
        "part": part,
        **result,
        "seconds": round(time.monotonic() - since, 2),
    }
    print(json.dumps(line), flush=True)


def tables(lines: Sequence[str]) -> str:
    """Lines of results as Markdown: a table for each part and for each set of columns in it."""
    results = [json.loads(line) for line in lines if line.strip()]

    text = []
    for (part, columns), group in groupby(results, _part_and_columns):
        text.append(_row([part, *columns]))
        text.append("|---" * (len(columns) + 1) + "|")
        for each in group:
            cells = [_cell(each[column]) for column in columns]
            text.append(_row(["", *cells]))
        text.append("")
    return "\n".join(text)


def _part_and_columns(result: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What the results of one table share. `say` puts the part first and the seconds last."""
    return result["part"], tuple(result)[1:-1]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items())
    # A bool is an int, too.
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="toy sizes, on a CPU too")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument(
        "--seconds",
        type=float,
        default=480,
        help="for all parts together",
    )
    parser.add_argument(
        "--extend",
        type=Path,
        metavar="FOLDER",
        help="the convincing run",
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="print kept results as Markdown",
    )
    given = parser.parse_args()

    if given.table is not None:
        print(tables(given.table.read_text().splitlines()))
        return
    if given.extend is not None:
        # Here, because it imports pandas and matplotlib, and itself imports this module.
        from benchmarks.gpu_extend import extend

        extend(given.extend, given.seconds)
        return

    names = [name.strip() for name in given.only.split(",")]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"gpu: no part is called {unknown[0]!r}. There are: {', '.join(PARTS)}.")
    if not given.dry_run and not torch.cuda.is_available():
        sys.exit("gpu: no GPU here. `--dry-run` does all of it on a CPU with toy sizes.")
    if given.dry_run and not torch.cuda.is_available():
        torch.compiler.set_stance("force_eager")  # A C++ compiler takes a minute for nothing new.

    deadline = time.monotonic() + given.seconds
    card = Card.of_here(given.dry_run)
    failures = 0
    for name in names:
        left = deadline - time.monotonic()
        if left <= 0:
            say(name, {"stopped": "--seconds is over"}, time.monotonic())
            continue
        failures += run_part(name, card, left)

    if failures:
        sys.exit(f"gpu: {failures} results failed. Each says so in its line.")


if __name__ == "__main__":
    main()
