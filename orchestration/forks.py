"""`python -m orchestration.forks SOCKET`: a server that starts DVC once and forks it for each item.

DVC needs a second of CPU to start, and a tenth of a second to check and record an item. So each run
starts one server. The cost is a process of 60 MB beside the run, which keeps the DVC code from the
start of the run. Each fork opens the project itself, so it reads dvc.yaml and params.yaml as they
are when its item starts.

A request is a module, the arguments of its function `main`, an environment, and two files. The
first gets the item's output. The second gets its process number and, at the end, its exit code.
Each fork leads a session and has a guard (guard.py). A fork ends with this server. The server ends
when the run closes its end of the socket or is killed.

The server must have one thread only: a fork of several threads may deadlock. Between two forks it
imports the modules that commands asked for (warm.py).
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
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.environment import SECONDS_TO_STOP, number_of
from orchestration import guard

if TYPE_CHECKING:
    from orchestration.warm import Wanted

# Of a request, which is one message, mostly its environment. Linux's default is 208 KiB.
MOST_BYTES = 1 << 20
# The exit code of a fork that could not write one.
KILLED = -signal.SIGKILL


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """A running item."""

    pid: int
    """The leader of its session."""
    lines: IO[str]
    """Its output: stdout and stderr."""
    status: IO[str]

    def wait(self) -> int:
        """Wait for the end of the item. Returns its exit code."""
        with self.status:
            return int(self.status.readline() or KILLED)


class Forks:
    """Starts forks. Not thread-safe: one thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
        """Start a module's `main`. Raises ChildProcessError if DVC does not start."""
        # A killed server is replaced: the run loses the items of that moment, not the others.
        if self._server is None or self._server.poll() is not None:
            self._start(environment)
        assert self._socket is not None

        lines, lines_end = os.pipe()
        status, status_end = os.pipe()
        request = json.dumps([module, list(arguments), dict(environment)]).encode()
        try:
            socket.send_fds(self._socket, [request], [lines_end, status_end])
        finally:
            # An end that stays open here would keep the reader from seeing the item's end.
            os.close(lines_end)
            os.close(status_end)

        answers = os.fdopen(status)
        pid = answers.readline()
        if not pid:
            answers.close()
            os.close(lines)
            raise ChildProcessError("DVC did not start. Its output is in the log of the run.")
        return Fork(pid=int(pid), lines=os.fdopen(lines, errors="replace"), status=answers)

    def _start(self, environment: Mapping[str, str]) -> None:
        self.close()
        # SEQPACKET keeps the bounds of messages, so one receive is one request.
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
                # Ctrl-C reaches the run alone, which then ends its items in order.
                start_new_session=True,
            )

    def close(self) -> None:
        """End the server and its running forks."""
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.wait()
        self._server = self._socket = None


def serve(requests: socket.socket) -> None:
    """Fork for each request, until the other end is closed."""
    from orchestration.warm import Wanted

    wanted = Wanted()
    # The kernel then reaps the forks. Nobody waits for them: their exit codes come by file.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, files, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
        if not request:
            return

        # Before the fork, so that the next items have these modules too.
        wanted.bring()
        if os.fork() == 0:
            requests.close()
            item(wanted, *json.loads(request), *files)
        for file in files:
            os.close(file)


def item(
    wanted: "Wanted",
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    lines: int,
    status: int,
) -> None:
    """Run one item, guarded, in the fork. Does not return."""
    server = os.getppid()
    code = 1
    try:
        # The guard waits for its children, which the server's SIG_IGN would make impossible.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()

        # A command's own children must not hold the status file open.
        os.set_inheritable(status, False)
        os.dup2(lines, 1)
        os.dup2(lines, 2)
        os.close(lines)
        os.environ.clear()
        os.environ.update(environment)

        os.write(status, f"{os.getpid()}\n".encode())
        patience = number_of(SECONDS_TO_STOP)
        code = guard.watch(server, patience, lambda: forked(wanted, module, arguments, status))
    except BaseException:
        # Nobody above would print it.
        sys.excepthook(*sys.exc_info())
    finally:
        # OSError: the run has ended, so nobody reads the code.
        with suppress(OSError):
            os.write(status, f"{code}\n".encode())
        # Not sys.exit: the stack below belongs to the server, which must not go on in the fork.
        os._exit(code)


def forked(
    wanted: "Wanted", module: str, arguments: Sequence[str], status: int
) -> Callable[[], int]:
    """Start a module's `main` in a fork of this process. Returns a function that waits for its exit
    code.
    """
    pid = os.fork()
    if pid:
        return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    code = 1
    try:
        os.close(status)
        # The guard's handlers are inherited by a fork, unlike by a started program.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        from orchestration.warm import fork_commands

        fork_commands(wanted)
        code = import_module(module).main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        # As Python does it: `sys.exit("why")` prints its text.
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # _exit flushes nothing.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def warm_up(root: Path) -> None:
    """Import everything that `dvc repro` imports, and read the project once."""
    import dvc.repo.reproduce  # noqa: F401
    from dvc.cli.parser import get_main_parser
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    import orchestration.dvc_repro
    import orchestration.warm  # noqa: F401

    get_main_parser()
    # Each fork reads the project again, and reports a project that can't be read.
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
