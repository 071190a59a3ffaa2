"""Move the pins of sources that follow a branch of the Hub, by one command for all of them.

Only a request to the Hub shows whether a branch moved. The Hub's client is in `assets`, which this
package may not import, so a command makes the request. The cost is one Python start a night. A
source whose branch can't be read in time keeps its pin.
"""

import subprocess
import sys
from pathlib import Path

import yaml

from orchestration.graph import Graph
from orchestration.running import environment

# Enough for dozens of sources at some seconds each. The nightly tick waits, so there is an end.
SECONDS_TO_ASK_THE_HUB = 300.0


def move_pins(graph: Graph, seconds: float = SECONDS_TO_ASK_THE_HUB) -> list[str]:
    """Pin each source that follows a branch to the branch's newest commit.

    Returns a line for each pin, and for each failure. No run may read the sources meanwhile.
    """
    paths = set[str]()
    for item in graph.items.values():
        paths |= item.inputs.keys()
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
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        return [
            *printed(error),
            f"The Hub did not answer within {seconds:.0f} s. Sources of {', '.join(following)} "
            "without an answer keep their pins. Check the network, or move the pins by hand: "
            f"python {' '.join(command)}",
        ]
    # The command reports its own failures on stderr, so its exit code adds no information.
    return printed(done)


def printed(done: subprocess.CompletedProcess[bytes] | subprocess.TimeoutExpired) -> list[str]:
    """The lines that the command printed, until its end or until its time was over."""
    # After a timeout a stream without output is None, and the others are bytes in any mode.
    parts = [part or b"" for part in (done.stdout, done.stderr)]
    return [line for part in parts for line in part.decode(errors="replace").splitlines()]


def _follows(path: Path) -> bool:
    """Whether the file describes a source that follows a branch."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "hub" in content and "follow" in content
