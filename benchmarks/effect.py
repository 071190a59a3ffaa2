"""Does the effect hold over seeds? The whole graph for each seed, in a copy of the project, then
means and ranges.

A seed here changes the choice and the order of the documents, the order of the rows, and the
needles. The base model is always the shipped one. All other parameters are those of
profiles/sample.yaml. The copy shares the project's DVC cache, so a seed that was made before (0, by
`make demo`) is restored.

    python -m benchmarks.effect --seeds 0 1 2

Six to ten minutes a seed on 2 cores. Prints one table and writes benchmarks/effect.csv.
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
    """Run the requested seeds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
    )
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
    copy_project(root)
    write_params(root, seed, changes)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DAGSTER_HOME": str(root / ".dagster"),
    }

    # A kept copy has it already.
    if not (root / ".dvc").exists():
        init = ["dvc", "init", "--no-scm", "--quiet"]
        subprocess.run(
            init,
            cwd=root,
            env=environment,
            check=True,
        )
        share = ["dvc", "config", "cache.dir", str(ROOT / ".dvc" / "cache")]
        subprocess.run(
            share,
            cwd=root,
            env=environment,
            check=True,
        )

    # Its table goes to stderr: stdout is for the table over all seeds.
    subprocess.run(
        [sys.executable, "-m", "orchestration.demo"],
        cwd=root,
        env=environment,
        stdout=sys.stderr,
        check=True,
    )
    return read_results(root, seed)


def copy_project(root: Path) -> None:
    """Copy what the graph needs from this project into `root`."""
    root.mkdir(parents=True, exist_ok=True)
    caches = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=caches)
        else:
            shutil.copyfile(source, target)
    (root / "data").mkdir(exist_ok=True)


def write_params(root: Path, seed: int, changes: list[str]) -> None:
    """Write params.yaml: the sample with that seed. changes: "dotted.key=value" each."""
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


def read_results(root: Path, seed: int) -> pd.DataFrame:
    """The comparison's results, one row a model, with the seed and the loss on books."""
    results = pd.read_csv(root / "data" / "comparison" / "results.csv")
    summary = json.loads((root / "data" / "comparison" / "summary.json").read_text())

    book_loss = []
    for name in results["model"]:
        by_position = summary["models"][name]["loss"]["book"]
        # The second band: positions beyond the base's context.
        book_loss.append(list(by_position.values())[1])
    return results.assign(seed=seed, book_loss=book_loss)


def table(results: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds, and the lowest and highest seed in brackets."""
    columns = ["within C", "C to trained", "needle", "beyond", "gain", "choice", "book_loss"]
    grouped = results.groupby("model", sort=False)[columns]
    low, mean, high = grouped.min(), grouped.mean(), grouped.max()

    # Three seeds are too few for a standard deviation, so the whole range is shown.
    shown = pd.DataFrame(
        index=mean.index,
        columns=columns,
        dtype=object,
    )
    for column in columns:
        for name in mean.index:
            ends = f"[{low.at[name, column]:.2f}, {high.at[name, column]:.2f}]"
            shown.at[name, column] = f"{mean.at[name, column]:.2f} {ends}"
    return shown


if __name__ == "__main__":
    main()
