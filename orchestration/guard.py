"""`python guard.py PARENT SECONDS COMMAND...`: run a command that ends with the process PARENT.

A killed process leaves its children running. A killed run would leave a trainer that writes while
the next run starts a second one, and no handler in the killed process can prevent it. So each
command has a guard as its parent. The kernel signals the guard when PARENT has ended for any reason
(PR_SET_PDEATHSIG, Linux only). The guard then ends the command's session, with SIGTERM first. It
also ends processes that a finished command left in its session, because a reader of its output
would wait for them. Orphans inside the session become children of the guard, so the guard knows
when all have ended. The cost is one small Python for each running item. It starts in about 35 ms,
without site-packages, so it cannot use psutil.

SECONDS (NEEDLEWORK_SECONDS_TO_STOP) pass between SIGTERM and SIGKILL. In that time a trainer ends
its micro-batch and writes a snapshot. A command that ends sooner costs no wait.

The guard must be the leader of a session. It is started by its path, so at the top it imports
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

# From <sys/prctl.h> of Linux.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Between two counts of the children: short beside the time that a command needs to end.
SECONDS_BETWEEN_COUNTS = 0.05


class Orphaned(Exception):
    """The process that started the command has ended."""


def environment() -> dict[str, str]:
    """This process's environment for a command. In it, `python -m ...` starts this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def guarded(command: Sequence[str]) -> list[str]:
    """The command with a guard. This process must start it, as the leader of a session.

    Raises ValueError for an invalid NEEDLEWORK_SECONDS_TO_STOP.
    """
    # Here and not at the top: the guard itself runs without the project.
    from core.environment import SECONDS_TO_STOP, number_of

    frame = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    return [*frame, str(os.getpid()), f"{number_of(SECONDS_TO_STOP):g}", *command]


def adopt_orphans() -> None:
    """Make this process the new parent of orphans below it."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    # Elsewhere a command outlives a killed run, as without a guard.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def watch(parent: int, seconds_to_stop: float, start: Callable[[], Callable[[], int]]) -> int:
    """Run a command that does not outlive `parent`.

    Returns its exit code; for a signal, 128 plus the number of the signal. start: starts the
    command and returns a function that waits for its exit code.
    """
    # A blocked SIGTERM would be inherited, and the command could not be asked to end.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # The command gets these signals too. It would inherit SIG_IGN, but inherits no handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)
    adopt_orphans()

    try:
        signal.signal(signal.SIGHUP, _orphaned)
        _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
        # The parent may have ended before prctl, and then no signal comes.
        if os.getppid() != parent:
            return 1
        code = start()()
        # From here on the session is ended anyway.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except Orphaned:
        code = 1

    end_session(seconds_to_stop)
    return code if code >= 0 else 128 - code


def end_session(seconds_to_stop: float) -> None:
    """End the other processes of this session."""
    deadline = time.monotonic() + seconds_to_stop
    while left := children_left():
        # Once: torch's launcher leaves its workers if a second signal comes while it ends them.
        # The signal reaches the guard too, and `_note` records it.
        if not _asked:
            os.killpg(0, signal.SIGTERM)

        if time.monotonic() > deadline:
            # Their own children become this process's children, for the next round.
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_COUNTS)


def children_left() -> list[int]:
    """The running children of this process in its session.

    A child that has left the session is not among them, so it is not ended.
    """
    # Reap first: a dead child stays in the kernel's list until someone waits for it.
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
    # The kernel signals the end of each thread of the parent, so more such signals may come.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise Orphaned


if __name__ == "__main__":
    command = sys.argv[3:]
    sys.exit(watch(int(sys.argv[1]), float(sys.argv[2]), lambda: subprocess.Popen(command).wait))
