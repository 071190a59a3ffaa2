"""The findings of `make check`, for the sensors, the runs and the UI.

A renamed recipe leaves its old folder behind. A model may still name that folder, and DVC calls the
model up to date. Only `make check` finds such mistakes, and nobody runs it after every edit. It
imports the settings of all stages, which this package must not, so it runs as a command, `python -m
evaluation.preflight --json`. The cost is some seconds of CPU. The answer is stored beside DVC's
temporary files until one of its inputs changes: params.yaml, dvc.yaml, code, which sources exist,
and the files of the tokenizer and of the base. A project without that module has no findings.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestration.graph import PARAMS_FILE, Graph
from orchestration.kept import NoAnswer, answer_of, keep, key_of, recall
from orchestration.locks import OURS

MODULE = Path("evaluation") / "preflight.py"
COMMAND = [sys.executable, "-m", "evaluation.preflight", "--json"]
ANSWER = OURS / "findings.json"
ADVICE = f"Edit {PARAMS_FILE}, then run make check."
KEY = re.compile(r"params\.yaml: (?:line \d+: )?([\w-]+(?:\.[\w-]+)*)")
"""The dotted key in params.yaml that a finding is about."""
CODE = ".py"
# Stages whose sources are compared file by file: `make check` reads them, and they are few.
COMPARED = ("tokenizer", "base_checkpoint")


def read_findings(graph: Graph) -> list[str]:
    """The findings of `make check`, one text each. Runs it only if one of its inputs changed."""
    if not (graph.root / MODULE).is_file():
        return []
    answer = graph.root / ANSWER
    key = key_of(_inputs(graph))
    kept = recall(answer, key)
    if isinstance(kept, list):
        return kept

    try:
        said = answer_of(graph.root, COMMAND)
        if not isinstance(said, list):
            raise NoAnswer(f"it printed {said!r}")
    except NoAnswer as error:
        # Not stored: the next attempt may succeed, for example after a lack of memory.
        return [f"make check could not check the settings: {error}. Run it by hand: make check"]

    found = [str(text) for text in said]
    keep(answer, key, found)
    return found


def by_item(graph: Graph, found: Sequence[str]) -> dict[str, list[str]]:
    """Address -> the findings about its settings. Items without findings are left out."""
    items: dict[str, list[str]] = {}
    for text in found:
        for address in _concerned(graph, text):
            items.setdefault(address, []).append(text)
    return items


def _concerned(graph: Graph, text: str) -> list[str]:
    """The item that a finding names, else all items of the stage that it names, else all items."""
    named = KEY.match(text)
    section, *rest = named[1].split(".") if named else [""]
    of_stage = [item for item in graph.items.values() if item.stage == section]

    # STAGE.GROUP.ITEM: an item is the third part of a key, as in mixed_dataset.recipes.per_source.
    if len(rest) > 1:
        alone = [item.address for item in of_stage if item.name == rest[1]]
        if alone:
            return alone

    # A finding about something else, such as a missing program, concerns every item.
    return [item.address for item in of_stage] or list(graph.items)


def _inputs(graph: Graph) -> Iterator[str]:
    """Everything that `make check` reads, with versions."""
    root = graph.root
    items = graph.items.values()
    inputs = {path for item in items for path in item.inputs}
    code = {path for path in inputs if path.endswith(CODE)}
    for name in (PARAMS_FILE, "dvc.yaml"):
        path = root / name
        yield path.read_text(errors="replace") if path.is_file() else "missing"

    # Of most sources only their presence counts, and they may be a million files.
    for name in sorted(inputs - code):
        yield f"{name} {(root / name).exists()}"

    # preflight.py imports more of its package than any stage's inputs name.
    files = {root / name for name in code} | set((root / MODULE).parent.glob(f"*{CODE}"))
    for item in items:
        if item.stage in COMPARED:
            for name in item.inputs:
                files |= set((root / name).glob("*"))

    # Size and time, not content: a needless second check costs seconds, hashing a base minutes.
    for path in sorted(files):
        facts = path.stat() if path.is_file() else None
        yield f"{path} {facts.st_size} {facts.st_mtime_ns}" if facts else f"{path} missing"
