"""A DVC project of two domains and two recipes whose stages copy text: small enough to check by
eye.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.graph import read_graph
from orchestration.running import Finished, Outcome
from orchestration.translation import asset_key

STAGE = """import pathlib, sys
stage, item, *inputs = sys.argv[1:]
text = "".join(sorted(p.read_text() for i in inputs for p in sorted(pathlib.Path(i).rglob("*")) if p.is_file()))
if "poison" in text: sys.exit(f"{stage}: poison in {item}")
out = pathlib.Path("data", stage, item)
out.mkdir(parents=True, exist_ok=True)
(out / "text").unlink(missing_ok=True)
(out / "text").write_text(f"{stage} of {item}\\n" + text)
"""
PARAMS = {
    "raw": {"domains": {"book": {"source": "sources/book"}, "c4": {"source": "sources/c4"}}},
    "mixed": {"recipes": {"short": {"cut": 1, "domain": "c4"}, "both": {"cut": 2, "domain": ""}}},
}
GRAPH = """
stages:
  raw:
    foreach: ${raw.domains}
    do:
      desc: Documents of one domain
      cmd: python stage.py raw ${key} ${item.source}
      deps: ["${item.source}", stage.py]
      outs: ["data/raw/${key}"]
  mixed:
    foreach: ${mixed.recipes}
    do:
      cmd: python stage.py mixed ${key} data/raw/${item.domain}
      deps: ["data/raw/${item.domain}", stage.py]
      params: ["mixed.recipes.${key}"]
      outs: ["data/mixed/${key}"]
  report:
    cmd: python stage.py report all data/mixed
    deps: [data/mixed, stage.py]
    outs: [data/report/all]
"""


def make_world(root: Path, scm: bool = False) -> Path:
    """A DVC project of five items, nothing made; a git repository too if asked."""
    (root / "sources").mkdir(parents=True)
    for name in ("book", "c4"):
        (root / "sources" / name).mkdir()
        (root / "sources" / name / "documents").write_text(f"a document of {name}\n")
    (root / "stage.py").write_text(STAGE)
    (root / "unlisted.py").write_text("# no stage lists this\n")
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    if scm:
        git(root, "init", "--quiet")
        (root / ".gitignore").write_text("/data/\n")
    dvc(root, "init", "--quiet", *([] if scm else ["--no-scm"]))
    return root


def dvc(root: Path, *arguments: str, check: bool = True) -> None:
    """One DVC command, which must succeed, or may fail where not to `check`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        check=check,
        capture_output=True,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
    )


def git(root: Path, *arguments: str) -> str:
    """One git command, which must succeed; what it says."""
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def materialize(
    root: Path, instance: DagsterInstance, *keys: str
) -> tuple[dict[str, Outcome], ExecuteInProcessResult]:
    """Run the whole graph, or some assets ("raw/c4"), through Dagster: address -> outcome, and the
    run.
    """
    seen: dict[str, Outcome] = {}

    def watch(event: object) -> None:
        if isinstance(event, Finished):
            seen[event.address] = event.outcome

    job = build_definitions(root, watch).resolve_job_def(WHOLE_GRAPH)
    selection = [AssetKey(key.split("/")) for key in keys] or None
    return seen, job.execute_in_process(
        instance=instance, asset_selection=selection, raise_on_error=False
    )


def out_of_date_in_dagster(root: Path, instance: DagsterInstance) -> set[str]:
    """The addresses that the UI would mark, after a reload of the code location."""
    assets = build_definitions(root).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, assets, LoadingContextForTest(instance))
    return {
        address
        for address, item in read_graph(root).items.items()
        if resolver.get_status(asset_key(item)) is not StaleStatus.FRESH
    }
