"""`python -m orchestration.forks SOCKET`: DVC, started once for a run, and forked for each item.

DVC takes a second of CPU to start and a tenth of one to look at an item and record it. So a run
starts it once. The cost is a process of 60 MB beside the run, and that DVC's code is the one from
when the run began. A fork opens the project itself: it sees dvc.yaml and params.yaml as they are
when its item begins.

A request is `dvc repro`'s arguments, an environment, and two files: one for all that the item
writes, one for its process number and, at the end, its exit code. Each fork leads a session and
watches over it as guard.py does. It ends when this process does, and that one when the run has
closed its end of the socket, or was killed.

It must keep to one thread: a fork of several may wait for ever. What commands ask for (warm.py) it
imports between two forks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestration import guard

if TYPE_CHECKING:
    from orchestration.warm import Wanted

MOST_BYTES = 1 << 20
"""Of a request: its environment, mostly."""
KILLED = -signal.SIGKILL


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """An item at work."""

    pid: int
    """Of the leader of its session."""
    lines: IO[str]
    """All that it writes."""
    status: IO[str]

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        with self.status:
            return int(self.status.readline() or KILLED)


class Forks:
    """Asks for forks. Not for several threads at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def repro(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
        """A fork at work on `dvc repro` with these arguments. Raises ChildProcessError if DVC does
        not start."""
        if self._server is None or self._server.poll() is not None:
            self._start(environment)
        assert self._socket is not None
        lines, lines_end = os.pipe()
        status, status_end = os.pipe()
        request = json.dumps([list(arguments), dict(environment)]).encode()
        try:
            socket.send_fds(self._socket, [request], [lines_end, status_end])
        finally:
            os.close(lines_end)
            os.close(status_end)
        told = os.fdopen(status)
        pid = told.readline()
        if not pid:
            told.close()
            os.close(lines)
            raise ChildProcessError("DVC did not start. What it said is in the log of the run.")
        return Fork(pid=int(pid), lines=os.fdopen(lines, errors="replace"), status=told)

    def _start(self, environment: Mapping[str, str]) -> None:
        self.close()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "orchestration.forks", str(theirs.fileno())],
                cwd=self._root,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def close(self) -> None:
        """Have no more forks, and end those at work."""
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.wait()
        self._server = self._socket = None


def serve(requests: socket.socket) -> None:
    """Fork for each request, until no more can come."""
    from orchestration.warm import Wanted

    wanted = Wanted()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    while True:
        request, files, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
        if not request:
            return
        wanted.bring()
        if os.fork() == 0:
            requests.close()
            arguments, environment = json.loads(request)
            item(arguments, environment, wanted, *files)
        for file in files:
            os.close(file)


def item(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    wanted: "Wanted",
    lines: int,
    status: int,
) -> None:
    """In the fork: one `dvc repro`, watched over. Does not return."""
    server, code = os.getppid(), 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.set_inheritable(status, False)
        os.dup2(lines, 1)
        os.dup2(lines, 2)
        os.close(lines)
        os.environ.clear()
        os.environ.update(environment)
        os.write(status, f"{os.getpid()}\n".encode())
        code = guard.watch(server, lambda: repro(arguments, wanted, status))
    finally:
        with suppress(OSError):  # whoever asked has ended
            os.write(status, f"{code}\n".encode())
        os._exit(code)


def repro(arguments: Sequence[str], wanted: "Wanted", status: int) -> Callable[[], int]:
    """Start `dvc repro` in a fork of this process; what waits for its code."""
    pid = os.fork()
    if pid:
        return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.close(status)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        from orchestration.dvc_repro import main
        from orchestration.warm import fork_commands

        fork_commands(wanted)
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def warm_up(root: Path) -> None:
    """Import all that `dvc repro` does, and read the project once. A project that can't be read is
    the forks' to tell of."""
    import dvc.repo.reproduce  # noqa: F401
    from dvc.cli.parser import get_main_parser
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    import orchestration.dvc_repro
    import orchestration.warm  # noqa: F401

    get_main_parser()
    try:
        with Repo(str(root)) as repo:
            len(repo.index.stages)
    except (DvcException, OSError):
        pass
    assert threading.active_count() == 1, "a fork of several threads may wait for ever"


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as socket_:
        warm_up(Path.cwd())
        serve(socket_)
