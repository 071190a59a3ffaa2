"""`python guard.py PARENT SECONDS COMMAND...`: run a command that does not outlive the process that asked
for it.

Killing a process leaves its children running: a killed run would leave a trainer that writes while
the next run starts a second one, and no handler in the killed process can prevent it. So each
command has this parent. The kernel signals it when the process above has ended, however that
happened (PR_SET_PDEATHSIG, Linux only). Then it ends the command's session, SIGTERM first. It does
the same with what a command leaves behind in its session, because whoever reads its output would
wait for that. Orphans inside the session become children of the guard, so it knows when all have
ended. The cost is one small Python for every running item, started without site-packages in about
35 ms. Hence no psutil here: it is in site-packages.

Between SIGTERM and SIGKILL lie SECONDS (NEEDLEWORK_SECONDS_TO_STOP), in which a trainer ends its
micro-batch and writes a snapshot. Nobody waits for a command that ends sooner.

It must be started as the leader of a session. It is started by its path, so at the top it imports
nothing of the project.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Linux: <sys/prctl.h>."""
SECONDS_BETWEEN_LOOKS = 0.05


class Orphaned(Exception):
    """The process that asked for the command has ended."""


def environment() -> dict[str, str]:
    """This process's environment for a command, in which `python -m ...` is this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def guarded(command: Sequence[str]) -> list[str]:
    """The command, guarded; to be started by this process as the leader of a session. Raises
    ValueError for NEEDLEWORK_SECONDS_TO_STOP."""
    from core.environment import SECONDS_TO_STOP, number_of  # not at hand in the guard itself

    frame = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    return [*frame, str(os.getpid()), f"{number_of(SECONDS_TO_STOP):g}", *command]


def adopt_orphans() -> None:
    """Let processes below this one that lose their parent become its children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def watch(parent: int, seconds_to_stop: float, start: Callable[[], Callable[[], int]]) -> int:
    """Run a command that does not outlive `parent`. Returns its exit code, 128 more than the number
    of a signal.

    start: starts the command and returns a function that waits for its exit code.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # The command gets these signals too. A handler is not inherited, as SIG_IGN would be.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)
    adopt_orphans()
    try:
        signal.signal(signal.SIGHUP, _orphaned)
        _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
        if os.getppid() != parent:
            return 1
        code = start()()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except Orphaned:
        code = 1
    end_session(seconds_to_stop)
    return code if code >= 0 else 128 - code


def end_session(seconds_to_stop: float) -> None:
    """End the other processes of this session."""
    deadline = time.monotonic() + seconds_to_stop
    while left := children_left():
        # once: torch's launcher leaves its workers if a second signal comes while it ends them
        if not _asked:
            os.killpg(0, signal.SIGTERM)
        if time.monotonic() > deadline:
            # their own children become this process's, for the next round
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def children_left() -> list[int]:
    """The running children of this process in its session. One that has left the session is not
    ended.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = map(int, listed.read_text().split()) if listed.exists() else ()
    return [pid for pid in pids if os.getsid(pid) == os.getsid(0)]


_asked = list[int]()
"""The signals that came: all processes of the session got them too."""


def _note(number: int, frame: FrameType | None) -> None:
    _asked.append(number)


def _orphaned(number: int, frame: FrameType | None) -> None:
    # the kernel signals the end of each thread of the process above
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise Orphaned


if __name__ == "__main__":
    command = sys.argv[3:]
    sys.exit(watch(int(sys.argv[1]), float(sys.argv[2]), lambda: subprocess.Popen(command).wait))
