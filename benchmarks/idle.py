"""`python -m benchmarks.idle --minutes 3`: the cost of an idle `make ui`, in CPU seconds a minute.

The graph is the sample's, with every item and edge, in a folder of its own. Each command is
replaced by one that writes a few bytes, so the whole graph is made in a minute or two. Both sensors
are on. The CPU time of every process below `make ui` is counted, by process, over so many minutes.
They begin after the first ticks.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from orchestration import guard

FOLDERS = ["core", "assets", "training", "evaluation", "orchestration", "sources", "models"]
STAGE = """import json, pathlib, sys
stage, item = (sys.argv[1:] + [""])[:2]
out = pathlib.Path("data", stage, item)
out.mkdir(parents=True)
(out / "record.json").write_text(json.dumps({"stage": stage, "item": item, "files": {}}))
metrics = pathlib.Path("metrics", f"{stage}/{item}.json" if item else f"{stage}.json")
metrics.parent.mkdir(parents=True, exist_ok=True)
metrics.write_text(json.dumps({"records": 1, "rows": 1, "mean_exact_match": 0.5}))
if stage == "token_demand":
    for name in DEMANDED:
        (out / name).write_text("{}")
"""
"""Replaces every stage's command. DEMANDED: the files of token_demand, which other stages read."""
SELECTOR = {"repositoryLocationName": "needlework", "repositoryName": "__repository__"}
SENSORS = ("changes", "outside")
SECONDS_BETWEEN_CHECKS = 1.0
TICKS_BEFORE = 3
"""Of each sensor, before the count begins: the first one reports to Dagster, and only the state of
the second one is kept (orchestration/status.py).
"""


def make_project(source: Path, target: Path) -> Path:
    """The sample's graph with everything made."""
    target.mkdir(exist_ok=True)
    caches = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(source / folder, target / folder, ignore=caches)
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(source / name, target)

    graph = yaml.safe_load((source / "dvc.yaml").read_text())
    params = yaml.safe_load((source / "params.yaml").read_text())
    for name, stage in graph["stages"].items():
        body = stage.get("do", stage)
        body["cmd"] = f"python stage.py {name} " + ("${key}" if "foreach" in stage else "")
        # No checks: the commands write none.
        body["meta"] = {}
    demanded = [f"{domain}.json" for domain in params["raw_corpus"]["domains"]]
    demanded.append("order.txt")
    (target / "stage.py").write_text(STAGE.replace("DEMANDED", repr(demanded)))
    (target / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))

    variables = environment(target)
    init = [sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"]
    subprocess.run(
        init,
        cwd=target,
        env=variables,
        check=True,
    )
    repro = [sys.executable, "-m", "orchestration.repro"]
    subprocess.run(
        repro,
        cwd=target,
        env=variables,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


def environment(root: Path) -> dict[str, str]:
    """The environment of a command in the project's folder, with the project's own code."""
    return {
        **guard.environment(),
        "DAGSTER_HOME": str(root / ".dagster"),
        "PYTHONPATH": str(root),
    }


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as door:
        # Port 0: the kernel chooses.
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def ask(port: int, query: str, variables: Mapping[str, Any]) -> Any:
    """The webserver's answer; None until it answers."""
    address = f"http://127.0.0.1:{port}/graphql"
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(address, body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return json.load(answer).get("data")
    except OSError:
        return None


def until(find: Callable[[], Any]) -> Any:
    """The first result of `find` that is not empty."""
    while not (found := find()):
        time.sleep(SECONDS_BETWEEN_CHECKS)
    return found


def ticks(port: int, sensor: str, since: float) -> list[dict[str, Any]]:
    """The finished ticks of a sensor that began after `since` (Unix time); the newest first."""
    data = ask(
        port,
        "query Q($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {"
        " sensorState { ticks(limit: 50) { status skipReason timestamp endTimestamp } } } } }",
        {"s": {**SELECTOR, "sensorName": sensor}},
    )
    # Until the code location is loaded there is no such sensor.
    found = ((data or {}).get("sensorOrError") or {}).get("sensorState") or {}
    finished = [tick for tick in found.get("ticks", []) if tick["status"] != "STARTED"]
    return [tick for tick in finished if tick["timestamp"] > since]


def switch_on(port: int, sensor: str) -> bool:
    """Start a sensor. Returns whether that succeeded."""
    data = ask(
        port,
        "mutation M($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
        {"s": {**SELECTOR, "sensorName": sensor}},
    )
    return bool(data and data["startSensor"]["__typename"] == "Sensor")


def below(pid: int) -> Iterator[int]:
    """This process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from below(int(child))


def cpu(pid: int) -> dict[str, float]:
    """Seconds of CPU so far of each process with its ended children, by number and command."""
    found = {}
    for each in below(pid):
        # The second field is the program's name, in brackets, and may hold spaces.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{each}/cmdline").read_bytes().decode().replace("\0", " ").split()
        is_guard = any(word.endswith("guard.py") for word in words)
        what = "guard" if is_guard else " ".join(words[2:5])

        # utime, stime, cutime and cstime of proc(5), in clock ticks.
        clock_ticks = sum(int(field) for field in fields[11:15])
        found[f"{each} {what}"] = clock_ticks / os.sysconf("SC_CLK_TCK")
    return found


def main() -> None:
    """Make the project, serve it, wait, count and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--project", type=Path, help="where the project is kept, to measure again")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="needlework-idle-") as name:
        root = (given.project or Path(name)).absolute()
        if not (root / "dvc.lock").is_file():
            make_project(Path.cwd(), root)
        # A kept project has the code of its day.
        shutil.copytree(Path.cwd() / "orchestration", root / "orchestration", dirs_exist_ok=True)
        print("made; serving it", flush=True)
        spent, passed, last = serve_and_count(root, given.minutes)

    print(f"seconds of CPU in a minute, over {passed:.1f} minutes")
    for process, seconds in sorted(spent.items(), key=lambda found: -found[1]):
        print(f"{seconds:8.2f}  {process}")
    print(f"{sum(spent.values()):8.2f}  in all")
    for sensor, tick in last.items():
        print(f"{sensor}: {tick['skipReason']} ({tick['endTimestamp'] - tick['timestamp']:.2f} s)")


def serve_and_count(
    root: Path, minutes: float
) -> tuple[dict[str, float], float, dict[str, dict[str, Any]]]:
    """Serve the project. Returns CPU seconds a minute by process, minutes, the last ticks."""
    port = free_port()
    # A kept project has ticks of earlier servers.
    served = time.time()
    server = subprocess.Popen(
        [sys.executable, "-m", "orchestration.ui", "--port", str(port)],
        cwd=root,
        env=environment(root),
        stdout=subprocess.DEVNULL,
    )

    def fewest_ticks() -> int:
        return min(len(ticks(port, sensor, served)) for sensor in SENSORS)

    try:
        until(lambda: switch_on(port, "changes"))
        until(lambda: fewest_ticks() >= TICKS_BEFORE)

        start, before = time.monotonic(), cpu(server.pid)
        time.sleep(60 * minutes)
        after, passed = cpu(server.pid), (time.monotonic() - start) / 60
        last = {sensor: ticks(port, sensor, served)[0] for sensor in SENSORS}
    finally:
        # Ctrl-C: it then ends its servers too.
        server.send_signal(signal.SIGINT)
        server.wait()

    # A process that is new since then started at zero.
    spent = defaultdict[str, float](float)
    for process, seconds in after.items():
        spent[process] += (seconds - before.get(process, 0.0)) / passed
    return spent, passed, last


if __name__ == "__main__":
    main()
