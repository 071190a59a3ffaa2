"""A real server, `python -m orchestration.ui`, on a small project, driven as its UI drives it: by
GraphQL.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import getsource
from pathlib import Path
from threading import Event
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from orchestration.processes import process

ROOT = Path(__file__).parents[1]
LOCATION = "needlework"
REPOSITORY = "__repository__"
JOB = {
    "repositoryLocationName": LOCATION,
    "repositoryName": REPOSITORY,
    "pipelineName": "whole_graph",
}
SECONDS_BETWEEN_CHECKS = 0.4
"""A look costs the webserver some hundredths of a second of CPU."""
LOOKS = 1000
T = TypeVar("T")


def until(find: Callable[[], T | None]) -> T:
    """What `find` finds, once it finds something that is true; asked again and again; in vain for
    long, a failure.
    """
    for _ in range(LOOKS):
        if found := find():
            return found
        Event().wait(SECONDS_BETWEEN_CHECKS)
    raise AssertionError(f"still not so after {LOOKS} looks: {getsource(find).strip()}")


def below(pid: int) -> list[psutil.Process]:
    """The running processes that descend from this one."""
    parent = process(pid)
    found = parent.children(recursive=True) if parent else []
    return [child for child in found if process(child.pid)]


def stages_at_work(world: Path) -> list[int]:
    """The commands of the project's items that are at work, whoever started them; not the shells
    some run them in.
    """
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit()
        and words(int(folder.name)).split()[1:2] == ["stage.py"]
        and (folder / "cwd").resolve() == world.resolve()
    ]


def words(pid: int) -> str:
    """The command of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(frozen=True)
class Server:
    """A server at work on `world`."""

    world: Path
    supervisor: subprocess.Popen[bytes]
    address: str

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer to a GraphQL query; the one field that was asked for."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert not found.get("errors"), found["errors"]
        return next(iter(found["data"].values()))

    def up(self) -> bool:
        """Whether the webserver answers and has the code location loaded."""
        return self.location() == "RepositoryLocation"

    def location(self) -> str:
        """What the webserver has of the code location: RepositoryLocation, PythonError, or nothing
        yet.
        """
        assert self.supervisor.poll() is None, (self.world / "server.log").read_text()
        try:
            locations = self.ask(
                "{ workspaceOrError { ... on Workspace { locationEntries {"
                " locationOrLoadError { __typename } } } } }"
            )["locationEntries"]
        except (URLError, OSError, AssertionError):
            return ""
        return "".join(
            entry["locationOrLoadError"]["__typename"]
            for entry in locations
            if entry["locationOrLoadError"]
        )

    def launch(self, *keys: str) -> str:
        """Start a run of these assets ("raw/book"), or of all; return its id."""
        selector = (
            JOB
            if not keys
            else {**JOB, "assetSelection": [{"path": key.split("/")} for key in keys]}
        )
        run = self.ask(
            "mutation M($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { "
            "__typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            p={"selector": selector, "mode": "default", "runConfigData": {}},
        )
        return str(run["run"]["runId"])

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first: runId, status, tags."""
        found = self.ask(
            "{ runsOrError { ... on Runs { results { runId status parentRunId assetSelection { "
            "path }"
            " tags { key value } } } } }"
        )["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def status(self, run: str) -> str:
        """How a run stands."""
        return next(str(found["status"]) for found in self.runs() if found["runId"] == run)

    def terminate(self, run: str) -> None:
        """As the button *Terminate* does."""
        self.ask(
            "mutation M($r: String!) { terminateRun(runId: $r, terminatePolicy: SAFE_TERMINATE) { "
            "__typename"
            " ... on PythonError { message } ... on TerminateRunFailure { message } } }",
            r=run,
        )

    def switch(self, sensor: str, on: bool) -> None:
        """As the switch of a sensor does."""
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "sensorName": sensor,
        }
        state = self.ask(
            "query Q($s: SensorSelector!) { sensorOrError(sensorSelector: $s) {"
            " ... on Sensor { sensorState { id } } } }",
            s=selector,
        )["sensorState"]
        if on:
            done = self.ask(
                "mutation M($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } "
                "}",
                s=selector,
            )
        else:
            done = self.ask(
                "mutation M($i: String!) { stopSensor(id: $i) { __typename } }", i=state["id"]
            )
        assert done["__typename"] in ("Sensor", "StopSensorMutationResult"), done

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """The finished ticks of a sensor, the newest first: timestamp (of their begin), status,
        skipReason, runIds.
        """
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "sensorName": sensor,
        }
        found = self.ask(
            "query Q($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {"
            " sensorState { ticks(limit: 200) { timestamp status skipReason runIds } } } } }",
            s=selector,
        )["sensorState"]["ticks"]
        return [tick for tick in found if tick["status"] != "STARTED"]

    def next_ticks(self, sensor: str, count: int) -> list[dict[str, Any]]:
        """The next `count` ticks that begin after now, once they are finished."""
        now = time.time()
        return until(
            lambda: (
                found
                if len(found := [tick for tick in self.ticks(sensor) if tick["timestamp"] > now])
                >= count
                else None
            )
        )

    def process(self, part: str) -> int:
        """The number of the process of the server whose command holds `part`, once there is one;
        not of its guard.
        """
        return until(
            lambda: next(
                (
                    found.pid
                    for found in below(self.supervisor.pid)
                    if part in words(found.pid) and "guard.py" not in words(found.pid)
                ),
                None,
            )
        )


@contextmanager
def serving(
    world: Path, location: str = "RepositoryLocation", **environment: str
) -> Iterator[Server]:
    """A server on that project, once that came of loading it; ended as by Ctrl-C, after which no
    process is left.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        **os.environ,
        "DAGSTER_HOME": str(world / ".dagster"),
        "PYTHONPATH": str(ROOT),
        "NEEDLEWORK_TICK_SECONDS": "1",
        "DVC_NO_ANALYTICS": "1",
        **environment,
    }
    with (world / "server.log").open("a") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "orchestration.ui", "--port", str(port)],
            cwd=world,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(world, supervisor, f"http://127.0.0.1:{port}")
    try:
        until(lambda: server.location() == location)
        yield server
    finally:
        started = below(supervisor.pid)
        supervisor.send_signal(signal.SIGINT)
        supervisor.wait()
        left = [words(old.pid) for old in started if process(old.pid) == old]
    assert not left, left


def executions(world: Path) -> Sequence[str]:
    """What ran, in order: "raw book"; after `hold_back`."""
    log = world / "executions"
    return log.read_text().splitlines() if log.exists() else []


def hold_back(world: Path) -> None:
    """Have every command of the project written down when it runs, and wait while there is a file
    hold/STAGE-ITEM.
    """
    code = world / "stage.py"
    (world / "hold").mkdir()
    code.write_text(code.read_text().replace("stage, item, *inputs = sys.argv[1:]\n", HOLD))


HOLD = """import time
stage, item, *inputs = sys.argv[1:]
with open("executions", "a") as log: log.write(f"{stage} {item}\\n")
while pathlib.Path("hold", f"{stage}-{item}").exists(): time.sleep(0.05)
"""
