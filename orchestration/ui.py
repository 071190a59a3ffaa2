"""`python -m orchestration.ui` (`make ui`): Dagster on http://127.0.0.1:3000, restarted if it dies.

Code server, webserver and daemon are three processes. Each is restarted when it ends. Runs are
separate processes (launcher.py) and continue meanwhile. Ctrl-C or SIGTERM ends everything that was
started here, runs included. If this process is killed, guard.py ends the three servers; a run
continues, and the next `make ui` finds it.

`dagster dev` does the same job, but it ends when its webserver or daemon dies, and it does not
notice that a code server has lost its inner process. The package `supervisor` was considered: it
restarts processes, but the rest of this module would remain as its plugins (adopt and end runs, end
the children of a killed parent, check the inner process), plus a configuration file.

The code server listens on a socket in a private folder. The sensor `outside` creates a file there
when the project has changed since it was loaded; definitions.py creates another when the project
can't be loaded. Then this process reloads the code location, which costs a second or two of CPU. A
thread does so, because a reload may take long and Ctrl-C must not wait for it.
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
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import yaml

from core.environment import RELOAD, SECONDS_TO_STOP, number_of
from orchestration.guard import adopt_orphans, guarded
from orchestration.home import LOCATION, MODULE, NOT_LOADED, home

# This host only: Dagster has no passwords.
HOST, PORT = "127.0.0.1", 3000
# A reload request and a lost inner process send no signal, so they are checked for.
SECONDS_BETWEEN_CHECKS = 1.0
# A server that dies sooner failed at its start. Its pause doubles from try to try.
SECONDS_OF_A_SHORT_LIFE = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
SECONDS_FOR_SERVERS = 15.0
"""For the three servers to end, after the time for the runs."""
# A shorter end needs no message.
SECONDS_OF_SILENCE = 5.0
# Many times what a start and a load take on a quiet machine, so that a busy one is not restarted.
SECONDS_TO_BE_WHOLE, SECONDS_TO_LOAD = 30.0, 60.0
SECONDS_BETWEEN_TRIES = 30.0
"""Between two attempts to load a broken project while WATCHED stay unchanged."""
ENDING = (signal.SIGINT, signal.SIGTERM)
WAKING = {signal.SIGCHLD, *ENDING}
RELOADED = """mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"""
WATCHED = ("dvc.yaml", "params.yaml")
LONG_TICKS = {
    "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": "21600",
    "DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS": "21600",
    "DAGSTER_DAEMON_HEARTBEAT_TOLERANCE": "25200",
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",
}
"""For all three servers, if the variable is not set. A tick hashes what has changed, perhaps for
hours. By default Dagster ends a tick after 60 s, and its daemon after half an hour. The last value
is the default.
"""
LONG_NIGHTS = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "21600"}
"""For the code server only: the limit of its outer process, which forwards a schedule's tick."""
ELSEWHERE = "export DAGSTER_HOME=$PWD/.dagster; python -m orchestration.home; dagster dev"


@dataclass(slots=True)
class Service:
    """One of the three servers. Times are those of the monotonic clock."""

    name: str
    command: Sequence[str]
    needs: Path | None = None
    """A file that must exist before the start. Without it Dagster logs errors until it appears."""
    guard: subprocess.Popen[bytes] | None = None
    """Its guard, the leader of its session. None while it is not running."""
    begun: float = 0.0
    due: float = 0.0
    """The time of the next start."""
    pause: float = FIRST_PAUSE
    was_whole: bool = False
    """Whether its inner process has existed since the start."""

    def start(self) -> None:
        """Start the server in a session of its own."""
        # Ctrl-C in a terminal then reaches this process only, which ends the servers in order.
        self.guard = subprocess.Popen(
            guarded(self.command), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.begun, self.was_whole = time.monotonic(), False

    def broken(self) -> bool:
        """Whether the server has lost its inner process, which its outer one does not notice."""
        if self.guard is None:
            return False

        # guard -> outer process -> inner process
        outer = first_child(self.guard.pid)
        inside = outer is not None and first_child(outer) is not None
        self.was_whole = self.was_whole or inside
        age = time.monotonic() - self.begun
        return not inside and (self.was_whole or age > SECONDS_TO_BE_WHOLE)

    def ended(self, how: str) -> None:
        """Kill the rest of the server and schedule its restart, later if it was short-lived."""
        assert self.guard is not None
        with suppress(ProcessLookupError):
            os.killpg(self.guard.pid, signal.SIGKILL)

        now = time.monotonic()
        short = now - self.begun < SECONDS_OF_A_SHORT_LIFE
        self.pause = min(2 * self.pause, LONGEST_PAUSE) if short else FIRST_PAUSE
        self.guard, self.due = None, now + self.pause
        print(f"The {self.name} {how}; restart in {self.pause:.0f} s.", flush=True)


def services(folder: Path, port: int) -> list[Service]:
    """The three servers, the code server first. Their files are in `folder`."""
    door, workspace = folder / "code", folder / "workspace.yaml"
    server = {"grpc_server": {"socket": str(door), "location_name": LOCATION}}
    workspace.write_text(yaml.safe_dump({"load_from": [server]}))

    quiet = [sys.executable, "-m", "orchestration.quiet"]
    location = ["--socket", str(door), "--module-name", MODULE, "--location-name", LOCATION]
    address = ["--host", HOST, "--port", str(port)]
    level, shown = ["--log-level", "warning"], ["--workspace", str(workspace)]
    night = [f"{name}={value}" for name, value in LONG_NIGHTS.items()]
    code = ["env", *night, *quiet, "code-server", "start", *location, *level]
    web = [*quiet, "webserver", *address, *shown, "--dagster-log-level", "warning"]
    return [
        Service("code server", code),
        Service("webserver", web, needs=door),
        Service("daemon", [*quiet, "daemon", "run", *shown, *level], needs=door),
    ]


def keep(kept: Sequence[Service]) -> None:
    """Restart the services until SIGINT or SIGTERM. The caller must block the signals of WAKING."""
    woken_by = None
    while woken_by not in ENDING:
        for service in kept:
            ready = service.needs is None or service.needs.exists()
            if service.guard is None and ready and time.monotonic() >= service.due:
                service.start()

        woken_by = next_signal()
        codes = reap()
        for service in kept:
            if service.guard is not None and service.guard.pid in codes:
                # Popen must not wait for a process that reap() has collected.
                service.guard.returncode = codes[service.guard.pid]
                service.ended(f"ended with code {service.guard.returncode}")
        # Only the code server has an inner process.
        if kept[0].broken():
            kept[0].ended("lost its inner process")


def next_signal() -> int | None:
    """Wait a moment for a signal of WAKING. Returns its number, or None."""
    return getattr(signal.sigtimedwait(WAKING, SECONDS_BETWEEN_CHECKS), "si_signo", None)


def reap() -> dict[int, int]:
    """Process number -> exit code of the children that have ended, adopted ones included."""
    codes = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            codes[found[0]] = os.waitstatus_to_exitcode(found[1])
    return codes


def first_child(pid: int) -> int | None:
    """The number of a child of this process. None if it has none."""
    # The kernel's own list: psutil reads the whole process table, a CPU-second in a minute.
    with suppress(FileNotFoundError, ProcessLookupError):
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for found in listed.read_text().split():
                return int(found)
    return None


def keep_loaded(reload_file: Path, port: int, ended: Event) -> None:
    """Reload the code location when `reload_file` exists, and as long as it can't be loaded."""
    not_loaded = reload_file.with_name(NOT_LOADED)
    seen, due = stamps(), time.monotonic() + SECONDS_BETWEEN_TRIES
    while not ended.wait(SECONDS_BETWEEN_CHECKS):
        now = stamps()
        again = not_loaded.exists() and (now != seen or time.monotonic() >= due)
        if not (again or reload_file.exists()):
            continue

        seen, due = now, time.monotonic() + SECONDS_BETWEEN_TRIES
        # Before the request, so that a file that is created meanwhile counts.
        reload_file.unlink(missing_ok=True)
        not_loaded.unlink(missing_ok=True)
        # A webserver that is being restarted refuses the connection: try again.
        if not load(port) and not ended.is_set():
            reload_file.touch()


def stamps() -> list[int]:
    """Modification times of the watched files. 0 for a missing one."""
    found = []
    for name in WATCHED:
        try:
            found.append(Path(name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return found


def load(port: int) -> bool:
    """Reload the code location through the webserver. False if the connection was refused."""
    # A webserver that accepted the request finishes it, whether its answer arrives or not.
    body = json.dumps({"query": RELOADED, "variables": {"name": LOCATION}}).encode()
    request = Request(f"http://{HOST}:{port}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=SECONDS_TO_LOAD):
            return True
    except URLError as error:
        return not isinstance(error.reason, ConnectionRefusedError)
    except (OSError, HTTPException):
        return True


def end_all() -> None:
    """End every process that was started from here: one SIGTERM each, then SIGKILL."""
    # A process whose parent ends becomes a child of this one (adopt_orphans). So each round finds
    # what the round before has orphaned: the servers, then runs, then what a run could not end.
    asked: dict[int, float] = {}
    patience, announced = number_of(SECONDS_TO_STOP) + SECONDS_FOR_SERVERS, False
    me = psutil.Process()
    while True:
        reap()
        children = [child.pid for child in me.children()]
        if not children:
            return

        for pid in children:
            now = time.monotonic()
            waited = now - asked.setdefault(pid, now)
            # Zero only in the round that first sees this process.
            if waited == 0:
                end(pid, signal.SIGTERM)
            elif waited > patience:
                end(pid, signal.SIGKILL)
            if waited > SECONDS_OF_SILENCE and not announced:
                announced = True
                words = (
                    f"A second Ctrl-C kills them now, and they are killed after {patience:.0f} s."
                )
                print(f"Runs are ending. {words}", flush=True)

        # The second Ctrl-C.
        if next_signal() in ENDING:
            patience = 0.0


def end(pid: int, number: int) -> None:
    """Send a signal to a process, and to its whole session if it leads one."""
    with suppress(ProcessLookupError):
        if os.getsid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def free(port: int) -> bool:
    """Whether a server could listen on this port."""
    with socket.socket() as door:
        # The port of a server that has ended seems taken for a minute (TIME_WAIT).
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
        except OSError:
            return False
    return True


def main() -> None:
    """Start the servers, restart them when they die, and end them."""
    parser = ArgumentParser(
        prog="python -m orchestration.ui", description="Dagster in the browser, kept running"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"on {HOST} only (default {PORT})")
    port = parser.parse_args().port

    if sys.platform != "linux":
        sys.exit(f"make ui needs Linux's process table; this is {sys.platform}. Use: {ELSEWHERE}")
    if not free(port):
        sys.exit(
            f"Port {port} of {HOST} is taken, perhaps by another `make ui`. End that one, or use "
            "another port: python -m orchestration.ui --port 3001"
        )

    os.environ.update({**LONG_TICKS, **os.environ, "DAGSTER_HOME": str(home(Path.cwd()))})
    # One process makes the database before three use it.
    if code := subprocess.run([sys.executable, "-m", "orchestration.home"]).returncode:
        sys.exit(code)

    # Blocked signals wait for `next_signal`, so none interrupts a start. guard.py unblocks them
    # for the servers.
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)
    adopt_orphans()
    with TemporaryDirectory(prefix="needlework-") as folder:
        reload_file = Path(folder) / "reload"
        os.environ[RELOAD.name] = str(reload_file)
        print(
            f"Dagster on http://{HOST}:{port} in a few seconds. Ctrl-C ends it, runs included.",
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
