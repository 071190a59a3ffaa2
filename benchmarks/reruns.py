"""`python -m benchmarks.reruns`: for each kind of change, how many items ran, came from the cache,
or were not touched.

The whole sample graph (every stage and item of profiles/sample.yaml) with smaller sizes, so that it
takes minutes, in a temporary copy with a cache of its own. Changes follow one another. Each is
answered by one run, as by the sensor. Prints a Markdown table.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml
from dagster import DagsterInstance

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.demo import QUIET, reason
from orchestration.executor import run_here
from orchestration.graph import read_graph, read_status
from orchestration.running import Outcome
from orchestration.translation import asset_key

ROOT = Path(__file__).parents[1]
COPIED = (
    "core",
    "assets",
    "training",
    "evaluation",
    "orchestration",
    "sources",
    "models",
    "dvc.yaml",
    ".dvcignore",
    "README.md",
)
# Snapshots are at a half and the whole of the smaller training.
SMALLER = {
    "mixed_dataset.token_budget": 100_000,
    "checkpoint.tokens": 32_768,
    "needle_report.trials": 1,
    "checkpoint.models.per_source.snapshots": [16_384, 32_768],
    "checkpoint.models.per_source_82k.at": 16_384,
    "checkpoint.models.per_source_164k.at": 32_768,
    "loss_report.tokens_per_domain": 2000,
    "book_qa_report.count": 2,
    "short_context_report.tasks.choice.count": 8,
}


def copy(target: Path) -> Path:
    """The project with the smaller sample and nothing made."""
    target.mkdir()
    caches = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=caches)
        else:
            shutil.copyfile(source, target / name)

    shutil.copyfile(ROOT / "profiles/sample.yaml", target / "params.yaml")
    for key, value in SMALLER.items():
        set_param(target, key, value)

    init = [sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"]
    subprocess.run(init, cwd=target, check=True)
    return target


def set_param(root: Path, key: str, value: object) -> None:
    """Set one parameter. key: dots go deeper."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    *path, last = key.split(".")
    node = params
    for part in path:
        node = node[part]
    node[last] = value
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def append(path: Path, text: str) -> None:
    """Append text to a file."""
    path.write_text(path.read_text() + text)


def delete(root: Path, path: str) -> None:
    """Delete an output."""
    shutil.rmtree(root / path)


CHANGES: list[tuple[str, Callable[[Path], object]]] = [
    ("everything, for the first time", lambda root: None),
    # Each of the following starts from what the one before it made.
    ("nothing", lambda root: None),
    ("a file that no stage lists", lambda root: append(root / "README.md", "\n")),
    ("the page's title", lambda root: set_param(root, "comparison.title", "Another")),
    ("the needle's grid", lambda root: set_param(root, "needle_report.grid.depths", [0, 50])),
    (
        "a comment in the plots' code",
        lambda root: append(root / "evaluation/plots.py", "# a comment\n"),
    ),
    ("an output deleted", lambda root: delete(root, "data/needle_report/base")),
    (
        "one recipe",
        lambda root: set_param(root, "mixed_dataset.recipes.per_source.long_share", 0.6),
    ),
    (
        "that recipe back",
        lambda root: set_param(root, "mixed_dataset.recipes.per_source.long_share", 0.7),
    ),
    ("the training rate", lambda root: set_param(root, "checkpoint.optimizer.learning_rate", 5e-4)),
    (
        "a source touched, the same documents",
        lambda root: append(root / "sources/sample/arxiv.yaml", "# changed\n"),
    ),
    (
        "a source with other documents",
        lambda root: append(root / "sources/sample/arxiv.yaml", "spread: 0.5\n"),
    ),
]


def answer(root: Path) -> tuple[Counter[str], float]:
    """Run once what is out of date and what follows. Returns items by outcome, and seconds."""
    start = time.monotonic()
    graph = read_graph(root)
    # An item may turn out unchanged when its inputs give the same bytes; those below it then rest.
    wanted = graph.downstream(read_status(root))
    found = Counter({Outcome.UNCHANGED: len(graph.items) - len(wanted)})
    if not wanted:
        return found, time.monotonic() - start

    # Loaded for each change, because a change may add items.
    job = build_definitions(root).resolve_job_def(WHOLE_GRAPH)
    keys = [asset_key(graph.items[name]) for name in wanted]
    with DagsterInstance.ephemeral() as instance:
        _, events = run_here(job, instance, keys, QUIET)
        for event in events:
            if event.is_step_failure:
                # A failed item would make all later counts wrong.
                sys.exit(reason(event))
            if event.is_step_materialization:
                found[str(event.materialization.metadata["outcome"].value)] += 1
    return found, time.monotonic() - start


def main() -> None:
    """Print the table."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    print("| change | ran | from the cache | untouched | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        root = copy(Path(temporary) / "project")
        for name, change in CHANGES:
            change(root)
            found, seconds = answer(root)
            outcomes = (Outcome.RAN, Outcome.RESTORED, Outcome.UNCHANGED)
            counts = " | ".join(str(found[outcome]) for outcome in outcomes)
            print(f"| {name} | {counts} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
