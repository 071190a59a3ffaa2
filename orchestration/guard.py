"""`python guard.py PARENT SECONDS COMMAND...`: run a command that does not outlive the process that asked
for it.

Killing a process leaves its children at work: a killed run would leave a trainer that writes while
the next run starts a second one, and no handler in the killed process can prevent it. So each
command has this parent, which the kernel tells when the process above has ended (PR_SET_PDEATHSIG,
Linux alone), however it did, and which then ends the command's session, SIGTERM first. What a
command leaves behind in its session when it ends by itself is ended the same way, or whoever reads
its output would wait for that. Orphans inside the session become the guard's, so it knows when all
have gone. The cost is one small Python, started without site-packages in about 35 ms, for every
item at work.

Between SIGTERM and SIGKILL lie SECONDS (NEEDLEWORK_SECONDS_TO_STOP), in which a trainer ends the
pass at work and writes a snapshot. Nobody waits for a command that ends sooner.

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
    """Have processes that lose their parent below this one become its children, so that it can see
    and end them.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def watch(parent: int, seconds_to_stop: float, start: Callable[[], Callable[[], int]]) -> int:
    """Have a command started that does not outlive `parent`; returns its code, a signal as a shell
    has it. start: starts it, and returns what waits for its code.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # for the command, which gets them too; not inherited, as SIG_IGN is
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
    """End every other process of this session, those of its children that are still there."""
    deadline = time.monotonic() + seconds_to_stop
    while left := children_left():
        if not _asked:  # once: a launcher that is asked again while it ends its workers leaves them
            os.killpg(0, signal.SIGTERM)
        if time.monotonic() > deadline:
            for pid in left:  # their own children are the next to become this one's
                os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def children_left() -> list[int]:
    """The children of this process that are at work in its session. One that has left the session
    is on its own.
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
"""The signals to end that have come: everything in the session got them too."""


def _note(number: int, frame: FrameType | None) -> None:
    _asked.append(number)


def _orphaned(number: int, frame: FrameType | None) -> None:
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # each thread of the process above tells of its end
    raise Orphaned


if __name__ == "__main__":
    command = sys.argv[3:]
    sys.exit(watch(int(sys.argv[1]), float(sys.argv[2]), lambda: subprocess.Popen(command).wait))
