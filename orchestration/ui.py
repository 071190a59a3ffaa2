"""`python -m orchestration.ui`: Dagster on http://127.0.0.1:3000, kept up. `make ui` is this.

Code server, webserver and daemon are three processes, and what dies is started again by itself:
runs are processes of their own (launcher.py) and do not notice. `dagster dev`, which does the same
job, ends as a whole when its webserver or daemon dies, and leaves a code server that lost its inner
process broken. Ctrl-C or SIGTERM ends everything that was started here, runs too; if this process
is killed, its three are ended by their guards, a run at work goes on to its end, and the next `make
ui` finds it.

The code server listens on a socket in a folder of its own that only this user may enter. When the
sensor `outside` finds that dvc.yaml, params.yaml or what they name is no longer as it was loaded,
it leaves a file there, and the code location is loaded anew. The cost of that: a second or two of
one processor after a change. A project that could not be read has no sensor, so there this process
watches the two files, and tries again every half minute whatever the reason was. It asks in a
thread of its own, for a load may take long and Ctrl-C must not wait for it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml

from core.environment import RELOAD, SECONDS_TO_STOP, number_of
from orchestration.guard import adopt_orphans, guarded
from orchestration.home import LOCATION, MODULE, home
from orchestration.processes import children, first_child, leads_session

HOST, PORT = "127.0.0.1", 3000
QUIET = "orchestration.quiet"
"""Dagster's command lines, with rarer polling."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_OF_A_SHORT_LIFE = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
SECONDS_FOR_SERVERS = 15.0
"""For the three to end after what they run has had its time."""
SECONDS_OF_SILENCE = 5.0
SECONDS_TO_BE_WHOLE, SECONDS_TO_LOAD = 30.0, 60.0
SECONDS_BETWEEN_TRIES = 30.0
"""Between two looks at a project that perhaps can't be read, though its two files are as they were.
"""
ENDING = (signal.SIGINT, signal.SIGTERM)
WAKING = {signal.SIGCHLD, *ENDING}
RELOADED = """mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"""
LOADED = """query Loaded($name: String!) { workspaceLocationEntryOrError(name: $name) {
  ... on WorkspaceLocationEntry { locationOrLoadError { __typename } } } }"""
WATCHED = ("dvc.yaml", "params.yaml")
LONG_LOOKS = {
    "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": "21600",
    "DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS": "21600",
    "DAGSTER_DAEMON_HEARTBEAT_TOLERANCE": "25200",
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",
}
"""In the environment of all three, where it is not set: a look hashes what has changed, hours of it
perhaps, and by itself Dagster gives up after 60 s, and its daemon on itself after half an hour. The
last one is as it was.
"""
LONG_NIGHTS = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "21600"}
"""For the code server alone, whose outer process passes a schedule's look on by the limit for
everything else.
"""
ELSEWHERE = "export DAGSTER_HOME=$PWD/.dagster; python -m orchestration.home; dagster dev"


@dataclass(slots=True)
class Service:
    """One of the three, and how its life goes. Times are the monotonic clock's."""

    name: str
    command: Sequence[str]
    needs: Path | None = None
    """What must be there before it is started, or it complains at length."""
    guard: subprocess.Popen[bytes] | None = None
    """Its guard, which leads its session; None while it is not there."""
    begun: float = 0.0
    due: float = 0.0
    """When to start it."""
    pause: float = FIRST_PAUSE
    was_whole: bool = False
    """Whether it has been seen with a process inside (the code server has one)."""

    def start(self) -> None:
        """In a session of its own, so that Ctrl-C in a terminal reaches this process alone."""
        self.guard = subprocess.Popen(
            guarded(self.command), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.begun, self.was_whole = time.monotonic(), False

    def broken(self) -> bool:
        """Whether the process inside is gone, which the one around it would never notice."""
        if self.guard is None:
            return False
        outer = first_child(self.guard.pid)
        inside = outer is not None and first_child(outer) is not None
        self.was_whole = self.was_whole or inside
        return not inside and (
            self.was_whole or time.monotonic() - self.begun > SECONDS_TO_BE_WHOLE
        )

    def ended(self, how: str) -> None:
        """Say so, end what is left of it, and set the time to start it again: at once, later if it
        was short-lived.
        """
        assert self.guard is not None
        with suppress(ProcessLookupError):
            os.killpg(self.guard.pid, signal.SIGKILL)
        now = time.monotonic()
        self.pause = (
            min(2 * self.pause, LONGEST_PAUSE)
            if now - self.begun < SECONDS_OF_A_SHORT_LIFE
            else FIRST_PAUSE
        )
        self.guard, self.due = None, now + self.pause
        print(f"The {self.name} {how}; starting it again in {self.pause:.0f} s.", flush=True)


def services(folder: Path, port: int) -> list[Service]:
    """What to start, with its files in `folder`."""
    door, workspace = folder / "code", folder / "workspace.yaml"
    server = {"grpc_server": {"socket": str(door), "location_name": LOCATION}}
    workspace.write_text(yaml.safe_dump({"load_from": [server]}))
    python, level = [sys.executable, "-m"], ["--log-level", "warning"]
    return [
        Service(
            "code server",
            [
                "env",
                *(f"{name}={value}" for name, value in LONG_NIGHTS.items()),
                *python,
                QUIET,
                "code-server",
                "start",
                "--socket",
                str(door),
                "--module-name",
                MODULE,
                "--location-name",
                LOCATION,
                *level,
            ],
        ),
        Service(
            "webserver",
            [
                *python,
                QUIET,
                "webserver",
                "--host",
                HOST,
                "--port",
                str(port),
                "--workspace",
                str(workspace),
                "--dagster-log-level",
                "warning",
            ],
            needs=door,
        ),
        Service(
            "daemon",
            [*python, QUIET, "daemon", "run", "--workspace", str(workspace), *level],
            needs=door,
        ),
    ]


def keep(kept: Sequence[Service]) -> None:
    """Keep them up until SIGINT or SIGTERM. The signals of WAKING must be blocked, or they would go
    unseen.
    """
    woken_by = None
    while woken_by not in ENDING:
        for service in kept:
            ready = service.needs is None or service.needs.exists()
            if service.guard is None and ready and time.monotonic() >= service.due:
                service.start()
        woken_by = getattr(signal.sigtimedwait(WAKING, SECONDS_BETWEEN_LOOKS), "si_signo", None)
        codes = reap(kept)
        for service in kept:
            if service.guard is not None and service.guard.pid in codes:
                service.ended(f"ended with code {codes[service.guard.pid]}")
        if kept[0].broken():
            kept[0].ended("lost its inner process")


def keep_loaded(reload_file: Path, port: int, ended: Event) -> None:
    """Have the code location loaded anew when that is asked for, and as long as it could not be
    loaded.
    """
    seen, due = stamps(), time.monotonic() + SECONDS_BETWEEN_TRIES
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        now = stamps()
        if (now != seen or time.monotonic() >= due) and (loaded := location(port)):
            seen, due = now, time.monotonic() + SECONDS_BETWEEN_TRIES
            if loaded == "PythonError":
                load(port)
        if reload_file.exists():
            reload_file.unlink(missing_ok=True)  # first, so that who asks meanwhile is heard
            if not load(port) and not ended.is_set():
                reload_file.touch()


def reap(kept: Sequence[Service]) -> dict[int, int]:
    """The codes of the children that have ended, runs whose starter ended before them too."""
    codes = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            codes[found[0]] = os.waitstatus_to_exitcode(found[1])
    for service in kept:
        if service.guard is not None and service.guard.pid in codes:
            service.guard.returncode = codes[service.guard.pid]
    return codes


def stamps() -> list[int]:
    """When each of the watched files was last written; 0 where it is missing."""
    found = []
    for name in WATCHED:
        try:
            found.append(Path(name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return found


def location(port: int) -> str:
    """What came of loading the project: RepositoryLocation or PythonError; "" while that is not
    known.
    """
    with suppress(URLError, OSError, HTTPException, ValueError, LookupError, TypeError):
        return str(
            ask(port, LOADED)["workspaceLocationEntryOrError"]["locationOrLoadError"]["__typename"]
        )
    return ""


def load(port: int) -> bool:
    """Have it loaded anew. False: there was no one to ask; whoever took the request goes on with
    it, answer or not.
    """
    try:
        ask(port, RELOADED)
    except URLError as error:
        return not isinstance(error.reason, ConnectionRefusedError)
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return True
    return True


def ask(port: int, query: str) -> dict[str, Any]:
    """The webserver's answer about the code location, or after it did something to it."""
    body = json.dumps({"query": query, "variables": {"name": LOCATION}}).encode()
    request = Request(f"http://{HOST}:{port}/graphql", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=SECONDS_TO_LOAD) as answer:
        return dict(json.load(answer)["data"])


def end_all() -> None:
    """End every process started from here, however far down: SIGTERM, once, and SIGKILL for who
    stays too long; for all when asked again.

    A process whose parent ends becomes a child of this one (adopt_orphans), so each round meets
    those that the round before has orphaned: the services first, then runs, then what a run could
    not end.
    """
    told: dict[int, float] = {}
    patience, said = number_of(SECONDS_TO_STOP) + SECONDS_FOR_SERVERS, False
    while True:
        reap([])
        left = list(children(os.getpid()))
        if not left:
            return
        for child in left:
            waited = time.monotonic() - told.get(child.pid, time.monotonic())
            if waited > SECONDS_OF_SILENCE and not said:
                print(
                    f"What runs ends its work; Ctrl-C again kills it, as {patience:.0f} s do.",
                    flush=True,
                )
                said = True
            if child.pid in told and waited <= patience:
                continue
            number = signal.SIGKILL if child.pid in told else signal.SIGTERM
            told.setdefault(child.pid, time.monotonic())
            with suppress(ProcessLookupError):
                if leads_session(child.pid):
                    os.killpg(child.pid, number)
                else:
                    os.kill(child.pid, number)
        if getattr(signal.sigtimedwait(WAKING, SECONDS_BETWEEN_LOOKS), "si_signo", None) in ENDING:
            patience = 0.0


def free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
        except OSError:
            return False
    return True


def main() -> None:
    """Start, keep up, end."""
    parser = ArgumentParser(
        prog="python -m orchestration.ui", description="Dagster in the browser, kept up"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"on {HOST}, and nowhere else (default {PORT})"
    )
    port = parser.parse_args().port
    if sys.platform != "linux":
        sys.exit(
            f"make ui keeps processes up by what Linux tells of them; this is {sys.platform}. "
            f"Here: {ELSEWHERE}"
        )
    if not free(port):
        sys.exit(
            f"Port {port} of {HOST} is taken, perhaps by another `make ui`. End that one, or use "
            "another port: "
            "python -m orchestration.ui --port 3001"
        )
    os.environ.update({**LONG_LOOKS, **os.environ, "DAGSTER_HOME": str(home(Path.cwd()))})
    if code := subprocess.run([sys.executable, "-m", "orchestration.home"]).returncode:
        sys.exit(code)
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)
    adopt_orphans()
    with TemporaryDirectory(prefix="needlework-") as folder:
        reload_file = Path(folder) / "reload"
        os.environ[RELOAD.name] = str(reload_file)
        print(
            f"Dagster on http://{HOST}:{port} in a few seconds; Ctrl-C ends it, and what it runs.",
            flush=True,
        )
        ended = Event()
        Thread(target=keep_loaded, args=(reload_file, port, ended), daemon=True).start()
        try:
            keep(services(Path(folder), port))
        finally:
            ended.set()
            end_all()


if __name__ == "__main__":
    main()
