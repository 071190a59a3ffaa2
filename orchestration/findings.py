"""The findings of `make check`, for the sensors, the runs and the UI.

A renamed recipe leaves a folder behind that a model may still name, and DVC calls that model up to
date. Only `make check` finds such mistakes, and nobody types it after every edit. It imports all
stages' settings, which this package may not, so it is run as a command, `python -m
evaluation.preflight --json`, which costs a second. Its answer is kept beside DVC's temporary files
until something that it reads changes: params.yaml, dvc.yaml, code, which sources exist, and the
files of the tokenizer and of the base. A project without that module has no findings.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestration.checks import Verdict
from orchestration.graph import PARAMS_FILE, Graph
from orchestration.kept import keep, key_of, recall
from orchestration.locks import OURS
from orchestration.running import environment

MODULE = Path("evaluation") / "preflight.py"
COMMAND = [sys.executable, "-m", "evaluation.preflight", "--json"]
ANSWER = OURS / "findings.json"
CHECK = "settings_hold"
"""The check of every asset that shows what was found about it."""
DESCRIPTION = "make check finds nothing wrong with the settings that the asset is made by."
KEY = re.compile(r"params\.yaml: (?:line \d+: )?([\w-]+(?:\.[\w-]+)*)")
"""The dotted key in params.yaml that a finding is about."""
CODE = ".py"
COMPARED = ("tokenizer", "base_checkpoint")
"""Stages whose sources are compared file by file."""


def has_settings(root: Path) -> bool:
    """Whether the project has the settings module."""
    return (root / MODULE).is_file()


def read_findings(graph: Graph) -> list[str]:
    """The findings of `make check`, one text each. Runs it only if something has changed."""
    if not has_settings(graph.root):
        return []
    answer, key = graph.root / ANSWER, key_of(_looked_at(graph))
    kept = recall(answer, key)
    if isinstance(kept, list):
        return kept

    done = subprocess.run(
        COMMAND, cwd=graph.root, env=environment(), capture_output=True, text=True, check=False
    )
    try:
        found = [str(text) for text in json.loads(done.stdout.strip().splitlines()[-1])]
    except (ValueError, LookupError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return [f"make check could not check the settings: {last}. Run it by hand: make check"]
    keep(answer, key, found)
    return found


def by_item(graph: Graph, found: Sequence[str]) -> dict[str, list[str]]:
    """Address -> what is found about the settings that it is made by; only items with findings."""
    items: dict[str, list[str]] = {}
    for text in found:
        for address in _concerned(graph, text):
            items.setdefault(address, []).append(text)
    return items


def verdict(found: Sequence[str]) -> Verdict:
    """The check of one item."""
    return Verdict(
        name=CHECK,
        passed=not found,
        expected="nothing that make check reports",
        found=" ".join(found) or "nothing",
        advice=f"Edit {PARAMS_FILE}, then run make check.",
    )


def _concerned(graph: Graph, text: str) -> list[str]:
    """The items of the stage whose section the text names; one of them alone if it names that one.
    Else, all items.
    """
    named = KEY.match(text)
    section, *rest = named[1].split(".") if named else [""]
    of_stage = [item for item in graph.items.values() if item.stage == section]
    if len(rest) > 1:
        alone = [item.address for item in of_stage if item.name == rest[1]]
        if alone:
            return alone
    return [item.address for item in of_stage] or list(graph.items)


def _looked_at(graph: Graph) -> Iterator[str]:
    """Everything that `make check` reads."""
    for name in (PARAMS_FILE, "dvc.yaml"):
        path = graph.root / name
        yield path.read_text(errors="replace") if path.is_file() else "missing"
    code = {path for item in graph.items.values() for path in item.inputs if path.endswith(CODE)}
    modules = (
        path.relative_to(graph.root).as_posix()
        for path in (graph.root / MODULE).parent.glob("*.py")
    )
    for name in sorted({*code, *modules}):
        path = graph.root / name
        yield f"{name} {path.stat().st_mtime_ns if path.is_file() else 'missing'}"
    for name in sorted({path for item in graph.items.values() for path in item.inputs} - code):
        yield f"{name} {(graph.root / name).exists()}"
    compared = {
        path
        for item in graph.items.values()
        if item.stage in COMPARED
        for path in item.inputs
        if not path.endswith(CODE)
    }
    for name in sorted(compared):
        for path in sorted((graph.root / name).glob("*")):
            facts = path.stat()
            yield f"{path.name} {facts.st_size} {facts.st_mtime_ns}"
