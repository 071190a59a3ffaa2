"""A DVC project of two domains and two recipes whose stages copy text: small enough to check by
eye.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import starts
import yaml
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from orchestration.definitions import WHOLE_GRAPH, build_definitions
from orchestration.executor import run_here
from orchestration.graph import Item, read_graph
from orchestration.running import Outcome
from orchestration.translation import asset_key, step_name

FAILED, SKIPPED = "failed", "skipped"

STAGE = """import pathlib, shutil, sys
stage, item, *inputs = sys.argv[1:]
text = "".join(sorted(p.read_text() for i in inputs for p in sorted(pathlib.Path(i).rglob("*")) if p.is_file()))
if "poison" in text: sys.exit(f"{stage}: poison in {item}")
out = pathlib.Path("data", stage, item)
aside = out.with_name(f".{item}.partial")
shutil.rmtree(aside, ignore_errors=True)
aside.mkdir(parents=True)
(aside / "text").write_text(f"{stage} of {item}\\n" + text)
shutil.rmtree(out, ignore_errors=True)
aside.rename(out)
"""
"""Its output is whole or not there, as that of each stage of this project."""
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
      outs: [{"data/raw/${key}": {persist: true}}]
  mixed:
    foreach: ${mixed.recipes}
    do:
      cmd: python stage.py mixed ${key} data/raw/${item.domain}
      deps: ["data/raw/${item.domain}", stage.py]
      params: ["mixed.recipes.${key}"]
      outs: [{"data/mixed/${key}": {persist: true}}]
  report:
    cmd: python stage.py report all data/mixed
    deps: [data/mixed, stage.py]
    outs: [data/report/all: {persist: true}]
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
        (root / ".gitignore").write_text("/data/\n")
    shutil.copytree(empty_repository(scm), root, dirs_exist_ok=True)
    return root


CHECKING = """
import json
if stage == "raw":
    bad = "bad" in text
    check = {"name": "no_bad_word", "passed": not bad, "expected": "no bad word",
             "found": "one" if bad else "none", "advice": "Take it out.", "blocking": True}
    (out / "checks.json").unlink(missing_ok=True)
    (out / "checks.json").write_text(json.dumps([check]))
"""
DECLARED = "{no_bad_word: {blocking: true, description: No document has the bad word}}"


def make_checked_world(root: Path) -> Path:
    """The same, where the stage `raw` checks its documents."""
    make_world(root)
    (root / "stage.py").write_text(STAGE + CHECKING)
    line = "desc: Documents of one domain\n"
    declared = GRAPH.replace(line, f"{line}      meta: {{checks: {DECLARED}}}\n")
    (root / "dvc.yaml").write_text(declared)
    return root


def an_item(address: str, /, **fields: Any) -> Item:
    """An item that reads and makes nothing, but for these fields."""
    stage, _, name = address.partition("@")
    plain: dict[str, Any] = {
        "address": address,
        "stage": stage,
        "name": name or None,
        "command": "",
        "description": "",
        "upstream": frozenset(),
        "inputs": {},
        "params": {},
        "outputs": (),
        "metrics": (),
    }
    return Item(**(plain | fields))


def dvc(root: Path, *arguments: str, check: bool = True) -> str:
    """One DVC command, which must succeed, or may fail where not to `check`; what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    return starts.run("dvc", *arguments, cwd=root, env=environment, check=check).stdout


@cache
def empty_repository(scm: bool) -> Path:
    """What `dvc init` makes of an empty folder, to be copied."""
    root = Path(mkdtemp(prefix="dvc-init-"))
    if scm:
        git(root, "init", "--quiet")
    dvc(root, "init", "--quiet", *([] if scm else ["--no-scm"]))
    return root


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


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has ended."""

    run_id: str
    events: list[DagsterEvent]

    @property
    def success(self) -> bool:
        """Whether every step ended well."""
        return self.events[-1].event_type is DagsterEventType.RUN_SUCCESS

    @property
    def failures(self) -> str:
        """All that the steps that failed, and the run, say of it."""
        failed = [event for event in self.events if event.is_step_failure or event.is_run_failure]
        return " ".join(str(event.event_specific_data) for event in failed)

    @property
    def checks(self) -> list[AssetCheckEvaluation]:
        """The results of checks."""
        kind = DagsterEventType.ASSET_CHECK_EVALUATION
        return [
            event.asset_check_evaluation_data for event in self.events if event.event_type is kind
        ]


def materialize(root: Path, instance: DagsterInstance, *keys: str) -> tuple[dict[str, str], Run]:
    """Run the whole graph, or some assets ("raw/c4"), through Dagster: address -> outcome, and the
    run. What did not come to an outcome FAILED, or was SKIPPED.
    """
    job = build_definitions(root).resolve_job_def(WHOLE_GRAPH)
    run_id, events = run_here(job, instance, [AssetKey(key.split("/")) for key in keys])
    run = Run(run_id=run_id, events=list(events))
    items = read_graph(root).items.values()
    seen = {item.address: SKIPPED for item in items if not keys or path_of(item) in keys}
    of_step = {step_name(item): item.address for item in items}
    for event in run.events:
        if event.is_step_materialization:
            told = event.materialization.metadata.get("outcome")
            outcome = Outcome(str(told.value)) if told else Outcome.RAN
            seen[of_step[str(event.step_key)]] = outcome
        elif event.is_step_failure and event.step_key in of_step:
            address = of_step[event.step_key]
            seen[address] = FAILED if seen[address] == SKIPPED else seen[address]
    return seen, run


def path_of(item: Item) -> str:
    """Its asset, as a user types it."""
    return asset_key(item).to_user_string()


def out_of_date_in_dagster(root: Path, instance: DagsterInstance) -> set[str]:
    """The addresses that the UI would mark, after a reload of the code location."""
    assets = build_definitions(root).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, assets, LoadingContextForTest(instance))
    return {
        address
        for address, item in read_graph(root).items.items()
        if resolver.get_status(asset_key(item)) is not StaleStatus.FRESH
    }
