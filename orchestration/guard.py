"""`python guard.py PARENT COMMAND...`: run a command that does not outlive the process that asked for it.

Killing a process leaves its children at work: a killed run would leave a trainer that writes while the next run starts
a second one, and no handler in the killed process can prevent it. So each command has this parent, which the kernel
tells when the process above has ended (PR_SET_PDEATHSIG, Linux alone), however it did, and which then ends the
command's session, SIGTERM first. Orphans inside the session become the guard's, so it knows when all have gone. The
cost is one small Python, started without site-packages in about 35 ms, for every item at work.

It must be started as the leader of a session, and imports nothing of the project: it is started by its path.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Linux: <sys/prctl.h>."""
SECONDS_TO_STOP = 5.0
SECONDS_BETWEEN_LOOKS = 0.05


class Orphaned(Exception):
    """The process that asked for the command has ended."""


def guarded(command: Sequence[str]) -> list[str]:
    """The command, guarded; to be started by this process as the leader of a session."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), *command]


def adopt_orphans() -> None:
    """Have processes that lose their parent below this one become its children, so that it can see and end them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(parent: int, command: Sequence[str]) -> int:
    """Run the command and return its code, a signal as a shell has it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGINT):  # for the command, which gets them too; not inherited, as SIG_IGN is
        signal.signal(number, _leave_to_command)
    signal.signal(signal.SIGHUP, _orphaned)
    adopt_orphans()
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
        if os.getppid() != parent:
            return 1
        code = subprocess.Popen(command).wait()
        return code if code >= 0 else 128 - code
    except Orphaned:
        end_session()
        return 1


def end_session() -> None:
    """End every process of this session, this one last."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS_TO_STOP
    try:
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except ChildProcessError:
        return
    os.killpg(0, signal.SIGKILL)


def _leave_to_command(number: int, frame: FrameType | None) -> None:
    pass


def _orphaned(number: int, frame: FrameType | None) -> None:
    raise Orphaned


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
