"""`python -m orchestration.forks SOCKET`: DVC starts once a run and forks for each item.

DVC takes a second of CPU to start, and a tenth of one to check an item and record it. So a run
starts it once. The cost is a process of 60 MB beside the run, and DVC's code stays that of the
run's begin. A fork opens the project itself: it sees dvc.yaml and params.yaml as they are when its
item begins.

A request holds `dvc repro`'s arguments, an environment, and two files: one for the item's output,
one for its process id and, at the end, its exit code. Each fork leads a session and guards it as
guard.py does. It ends with this process, and this process ends when the run closes its end of the
socket or is killed.

The process has one thread: a fork of several may wait for ever.
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
from typing import IO

from orchestration import guard

# A request is mostly its environment. Linux allows one string of 128 kB there, and 2 MB in all.
MOST_BYTES = 1 << 20
"""Of a request, which is one datagram."""
KILLED = -signal.SIGKILL


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """A running item."""

    pid: int
    """Of the leader of its session."""
    lines: IO[str]
    """Its output, stdout and stderr."""
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
        """Fork for `dvc repro` with these arguments. Raises ChildProcessError if DVC does not
        start."""
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

        status_lines = os.fdopen(status)
        pid = status_lines.readline()
        if not pid:
            status_lines.close()
            os.close(lines)
            raise ChildProcessError("DVC did not start. Its output is in the log of the run.")
        return Fork(pid=int(pid), lines=os.fdopen(lines, errors="replace"), status=status_lines)

    def _start(self, environment: Mapping[str, str]) -> None:
        self.close()
        # Packets keep a request and its files together, and reading 0 bytes means the end.
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
        """Fork no more, and end the forks that still run."""
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.wait()
        self._server = self._socket = None


def serve(requests: socket.socket) -> None:
    """Fork for each request, until the socket is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    while True:
        request, files, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            arguments, environment = json.loads(request)
            item(arguments, environment, *files)
        for file in files:
            os.close(file)


def item(arguments: Sequence[str], environment: Mapping[str, str], lines: int, status: int) -> None:
    """In the fork: run one `dvc repro` under a guard. Does not return."""
    server, code = os.getppid(), 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        # The item's own children must not hold the status open after the fork has ended.
        os.set_inheritable(status, False)
        os.dup2(lines, 1)
        os.dup2(lines, 2)
        os.close(lines)
        os.environ.clear()
        os.environ.update(environment)
        os.write(status, f"{os.getpid()}\n".encode())
        code = guard.watch(server, lambda: repro(arguments, status))
    finally:
        with suppress(OSError):  # whoever asked has ended
            os.write(status, f"{code}\n".encode())
        os._exit(code)


def repro(arguments: Sequence[str], status: int) -> Callable[[], int]:
    """Start `dvc repro` in a fork of this process. Returns a function that awaits its exit code."""
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
    """Import what `dvc repro` imports, and read the project once. If the project cannot be read,
    each fork reports that itself."""
    import dvc.repo.reproduce  # noqa: F401
    from dvc.cli.parser import get_main_parser
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    import orchestration.dvc_repro  # noqa: F401

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
