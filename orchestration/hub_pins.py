"""Move the pins of sources that follow a branch of the Hub. Only asking the Hub shows its changes.

The Hub's client is in `assets`, which this package may not import, so a command asks. A source
whose branch can't be read in time stays pinned as it is.
"""

import subprocess
import sys
from pathlib import Path

import yaml

from orchestration.graph import Graph
from orchestration.running import environment

SECONDS_TO_ASK_THE_HUB = 300.0


def move_pins(graph: Graph, seconds: float = SECONDS_TO_ASK_THE_HUB) -> list[str]:
    """Pin each source that follows a branch to the branch's newest commit.

    Returns a line for each, also where that failed. No run may be reading the sources meanwhile.
    """
    paths = {path for item in graph.items.values() for path in item.inputs}
    following = sorted(path for path in paths if _follows(graph.root / path))
    if not following:
        return []

    command = ["-m", "assets.hub_branch", *following]
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=graph.root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return [
            f"The Hub did not answer within {seconds:.0f} s. Those of {', '.join(following)} that "
            "it did not answer for stay as they are pinned. Check the network, or move the pins "
            f"by hand: python {' '.join(command)}"
        ]
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def _follows(path: Path) -> bool:
    """Whether the file describes a source that follows a branch."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "hub" in content and "follow" in content
