"""Does the effect hold over seeds? The whole graph for each seed, in a copy of the project, then
means and ranges.

A seed here changes the choice and the order of the documents, the order of the rows, and the
needles; the base model is one, the shipped one. Everything else is as profiles/sample.yaml has it.
The copy shares the project's DVC cache, so a seed that was made before (0, by `make demo`) is
restored.

    python -m benchmarks.effect --seeds 0 1 2

About eight minutes a seed on 2 cores. Prints one table and writes benchmarks/effect.csv.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

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
)


def main() -> None:
    """Run the seeds asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter for this measurement, e.g. checkpoint.tokens=327680",
    )
    parser.add_argument(
        "--keep", type=Path, help="folder for the copy, kept; default a temporary one"
    )
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "effect.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = options.keep or Path(temporary)
        tables = [run_seed(home / "copy", seed, options.set) for seed in options.seeds]
    results = pd.concat(tables)
    results.to_csv(options.csv, index=False, lineterminator="\n")
    print(table(results).to_string())


def run_seed(root: Path, seed: int, changes: list[str]) -> pd.DataFrame:
    """Make the comparison with that seed; one row a model."""
    root.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            shutil.copytree(
                source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copyfile(source, target)
    params = yaml.safe_load((ROOT / "profiles" / "sample.yaml").read_text())
    for section in ("mixed_dataset", "checkpoint", "needle_report"):
        params[section]["seed"] = seed
    for change in changes:
        key, value = change.split("=", 1)
        *path, last = key.split(".")
        node = params
        for part in path:
            node = node[part]
        node[last] = yaml.safe_load(value)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "data").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }
    if not (root / ".dvc").exists():
        subprocess.run(
            ["dvc", "init", "--no-scm", "--quiet"], cwd=root, env=environment, check=True
        )
        cache = str(ROOT / ".dvc" / "cache")
        subprocess.run(["dvc", "config", "cache.dir", cache], cwd=root, env=environment, check=True)
    subprocess.run(
        [sys.executable, "-m", "orchestration.demo"],
        cwd=root,
        check=True,
        stdout=sys.stderr,
        env={**environment, "DAGSTER_HOME": str(root / ".dagster")},
    )
    results = pd.read_csv(root / "data" / "comparison" / "results.csv")
    losses = json.loads((root / "data" / "comparison" / "summary.json").read_text())["models"]
    return results.assign(
        seed=seed,
        book_loss=[list(losses[name]["loss"]["book"].values())[1] for name in results["model"]],
    )


def table(results: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds, and the lowest and highest seed in brackets."""
    columns = ["within C", "C to trained", "needle", "beyond", "gain", "choice", "book_loss"]
    grouped = results.groupby("model", sort=False)[columns]
    low, mean, high = grouped.min(), grouped.mean(), grouped.max()
    return mean.apply(
        lambda column: [
            f"{value:.2f} [{low[column.name][name]:.2f}, {high[column.name][name]:.2f}]"
            for name, value in column.items()
        ]
    )


if __name__ == "__main__":
    main()
