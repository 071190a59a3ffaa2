"""`python -m benchmarks.orchestration`: what the bridge costs. The same work through plain `dvc
repro` and Dagster.

Two copies of this project in a temporary folder, each with a cache of its own, the data half of the
sample graph (the tokenizer is trained there): the whole graph, one domain changed, nothing changed.
Seconds of wall clock, process start included, by each way with its defaults: `dvc repro` makes one
item after the other, Dagster as many at once as there are processors (or NEEDLEWORK_JOBS). With
NEEDLEWORK_JOBS=1 the ratio is the bridge's overhead alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

STAGES = [
    "token_demand",
    "raw_corpus",
    "tokenizer",
    "tokenized_corpus",
    "length_histograms",
    "mixed_dataset",
    "packed_shards",
]
FOLDERS = ["core", "assets", "training", "evaluation", "orchestration", "sources"]
CHANGED = Path("sources/sample/arxiv.yaml")
PLAIN = [sys.executable, "-m", "dvc", "repro"]
DAGSTER = [sys.executable, "-m", "orchestration.demo"]


def copy(project: Path, target: Path) -> Path:
    """The data half of `project`, without anything made, as a project of its own."""
    target.mkdir(parents=True)
    caches = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(project / folder, target / folder, ignore=caches)

    graph = yaml.safe_load((project / "dvc.yaml").read_text())
    stages = {name: graph["stages"][name] for name in STAGES}
    params = yaml.safe_load((project / "profiles" / "sample.yaml").read_text())
    # The sample's tokenizer comes with its base model, which is not copied.
    params["tokenizer"]["source"] = "data/raw_corpus"
    (target / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (target / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copy(project / ".dvcignore", target)

    _run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], target)
    _run([sys.executable, "-m", "dvc", "config", "cache.type", "reflink,hardlink,copy"], target)
    return target


def change_one_domain(root: Path) -> None:
    """Change the bytes of one domain's source, and not its documents."""
    path = root / CHANGED
    path.write_text(path.read_text() + "\n# changed\n")


def measure(root: Path, command: Sequence[str]) -> dict[str, float]:
    """Case -> seconds."""
    # In this order: each case starts from what the one before it made.
    cases: dict[str, Callable[[Path], None]] = {
        "whole graph": lambda folder: None,
        "one domain changed": change_one_domain,
        "nothing changed": lambda folder: None,
    }

    seconds = {}
    for name, prepare in cases.items():
        prepare(root)
        start = time.monotonic()
        _run(command, root)
        seconds[name] = time.monotonic() - start
    return seconds


def main() -> None:
    """Measure both ways and print them side by side."""
    with tempfile.TemporaryDirectory(prefix="needlework-") as folder:
        project = Path.cwd()
        plain = measure(copy(project, Path(folder) / "plain"), PLAIN)
        dagster = measure(copy(project, Path(folder) / "dagster"), DAGSTER)

    print(f"{'':20}{'dvc repro':>12}{'Dagster':>12}{'ratio':>8}")
    for name in plain:
        ratio = dagster[name] / plain[name]
        print(f"{name:20}{plain[name]:10.1f} s{dagster[name]:10.1f} s{ratio:8.2f}")


def _run(command: Sequence[str], root: Path) -> None:
    # dvc.yaml says `python`: it must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {
        **os.environ,
        "PATH": path,
        "DVC_NO_ANALYTICS": "1",
        "DAGSTER_HOME": str(root / ".dagster"),
    }

    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


if __name__ == "__main__":
    main()
