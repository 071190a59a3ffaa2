"""`python -m benchmarks.idle --minutes 3`: what `make ui` costs while nobody works, in seconds of
CPU a minute.

The graph is the sample's, every item and edge of it, in a folder of its own; each command is
replaced by one that writes a few bytes, so that all of it is made in a minute or two. Both sensors
are switched on. What is counted is the CPU time of every process below `make ui`, by process, over
so many minutes that begin when the first ticks are over.
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
metrics = pathlib.Path("metrics", stage, f"{item}.json") if item else pathlib.Path("metrics", f"{stage}.json")
metrics.parent.mkdir(parents=True, exist_ok=True)
metrics.write_text(json.dumps({"records": 1, "rows": 1, "mean_exact_match": 0.5}))
if stage == "token_demand":
    for name in DEMANDED:
        (out / name).write_text("{}")
"""
"""Stands for every stage's command. DEMANDED: the files of token_demand, which other stages read.
"""
SELECTOR = {"repositoryLocationName": "needlework", "repositoryName": "__repository__"}
SENSORS = ("changes", "outside")
SECONDS_BETWEEN_LOOKS = 1.0
TICKS_BEFORE = 3
"""Of each sensor, before the count begins: the first one reports to Dagster, the second one's state
is kept.
"""


def make_project(source: Path, target: Path) -> Path:
    """The sample's graph with everything made."""
    target.mkdir(exist_ok=True)
    for folder in FOLDERS:
        shutil.copytree(
            source / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(source / name, target)
    graph = yaml.safe_load((source / "dvc.yaml").read_text())
    domains = yaml.safe_load((source / "params.yaml").read_text())["raw_corpus"]["domains"]
    for name, stage in graph["stages"].items():
        body = stage.get("do", stage)
        body["cmd"] = f"python stage.py {name} " + ("${key}" if "foreach" in stage else "")
        body["meta"] = {}
    demanded = [*(f"{domain}.json" for domain in domains), "order.txt"]
    (target / "stage.py").write_text(STAGE.replace("DEMANDED", repr(demanded)))
    (target / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    python = [sys.executable, "-m"]
    subprocess.run(
        [*python, "dvc", "init", "--quiet", "--no-scm"],
        cwd=target,
        env=environment(target),
        check=True,
    )
    subprocess.run(
        [*python, "orchestration.repro"],
        cwd=target,
        env=environment(target),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


def environment(root: Path) -> dict[str, str]:
    """For a command in the project's folder, with the project's own code."""
    return {**guard.environment(), "DAGSTER_HOME": str(root / ".dagster"), "PYTHONPATH": str(root)}


def free_port() -> int:
    """One that no one listens on now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def ask(port: int, query: str, variables: Mapping[str, Any]) -> Any:
    """The webserver's answer; None while there is none."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(
        f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
    )
    try:
        with urlopen(request, timeout=60) as answer:
            return json.load(answer).get("data")
    except OSError:
        return None


def until(find: Callable[[], Any]) -> Any:
    """What `find` finds, asked again and again."""
    while not (found := find()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return found


def ticks(port: int, sensor: str, since: float) -> list[dict[str, Any]]:
    """The finished ticks of a sensor that began after a moment (Unix time); the newest first."""
    data = ask(
        port,
        "query Q($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {"
        " sensorState { ticks(limit: 50) { status skipReason timestamp endTimestamp } } } } }",
        {"s": {**SELECTOR, "sensorName": sensor}},
    )
    found = ((data or {}).get("sensorOrError") or {}).get("sensorState") or {}
    return [
        tick
        for tick in found.get("ticks", [])
        if tick["status"] != "STARTED" and tick["timestamp"] > since
    ]


def switch_on(port: int, sensor: str) -> bool:
    """Start it; whether that was done."""
    data = ask(
        port,
        "mutation M($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
        {"s": {**SELECTOR, "sensorName": sensor}},
    )
    return bool(data and data["startSensor"]["__typename"] == "Sensor")


def below(pid: int) -> Iterator[int]:
    """This process and all that descend from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from below(int(child))


def cpu(pid: int) -> dict[str, float]:
    """Seconds of CPU so far of each process, by number and what it is, with those of its ended
    children.
    """
    found = {}
    for each in below(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{each}/cmdline").read_bytes().decode().replace("\0", " ").split()
        what = "guard" if any(word.endswith("guard.py") for word in words) else " ".join(words[2:5])
        found[f"{each} {what}"] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return found


def main() -> None:
    """Make, serve, wait, count, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--project", type=Path, help="where the project is kept, to measure again")
    given = parser.parse_args()
    minutes = given.minutes
    with tempfile.TemporaryDirectory(prefix="needlework-idle-") as name:
        root, port = (given.project or Path(name)).absolute(), free_port()
        if not (root / "dvc.lock").is_file():
            make_project(Path.cwd(), root)
        shutil.copytree(Path.cwd() / "orchestration", root / "orchestration", dirs_exist_ok=True)
        print("made; serving it", flush=True)
        served = time.time()  # a project that is kept has ticks of earlier servers
        server = subprocess.Popen(
            [sys.executable, "-m", "orchestration.ui", "--port", str(port)],
            cwd=root,
            env=environment(root),
            stdout=subprocess.DEVNULL,
        )
        try:
            until(lambda: switch_on(port, "changes"))
            until(
                lambda: min(len(ticks(port, sensor, served)) for sensor in SENSORS) >= TICKS_BEFORE
            )
            start, before = time.monotonic(), cpu(server.pid)
            time.sleep(60 * minutes)
            after, passed = cpu(server.pid), (time.monotonic() - start) / 60
            last = {sensor: ticks(port, sensor, served)[0] for sensor in SENSORS}
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    spent = defaultdict[str, float](float)
    for process, seconds in after.items():
        spent[process] += (seconds - before.get(process, 0.0)) / passed
    print(f"seconds of CPU in a minute, over {passed:.1f} minutes")
    for process, seconds in sorted(spent.items(), key=lambda found: -found[1]):
        print(f"{seconds:8.2f}  {process}")
    print(f"{sum(spent.values()):8.2f}  in all")
    for sensor, tick in last.items():
        print(f"{sensor}: {tick['skipReason']} ({tick['endTimestamp'] - tick['timestamp']:.2f} s)")


if __name__ == "__main__":
    main()
