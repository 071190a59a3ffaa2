"""`python -m orchestration.repro [TARGETS] [OPTIONS]`: a `dvc repro` that loses no work.

It takes the arguments of `dvc repro`. dvc_repro.py describes the differences. This module adds a
guard (guard.py): all child processes end with it, however it ends. If plain DVC is killed, the
trainer continues and writes while the next run starts a second one. The first SIGTERM or Ctrl-C
asks the command to end within NEEDLEWORK_SECONDS_TO_STOP; a second one kills it. The cost is two
small Python processes next to DVC's.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.environment import SECONDS_TO_STOP, number_of
from orchestration.guard import environment, guarded

COMMAND = [sys.executable, "-m", "orchestration.dvc_repro"]
PROJECT_FILE = "dvc.yaml"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns DVC's exit code."""
    if not Path(PROJECT_FILE).is_file():
        print(
            f"{Path.cwd()}: no {PROJECT_FILE} here. Run from the project's root.", file=sys.stderr
        )
        return 1

    # A wrong value is one line here; `guarded` would end with a traceback.
    try:
        number_of(SECONDS_TO_STOP)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return guarded_run([*COMMAND, *arguments])


def guarded_run(command: Sequence[str]) -> int:
    """Run a command that ends with this process. Returns its exit code.

    The first signal asks it to end, the second kills it.
    """
    asked = list[int]()

    def end(number: int, frame: object) -> None:
        asked.append(number)
        os.killpg(process.pid, signal.SIGTERM if len(asked) == 1 else signal.SIGKILL)

    # A signal that comes before there is a process waits for it. guard.py unblocks its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for number in ENDING:
        signal.signal(number, end)
    process = subprocess.Popen(guarded(command), env=environment(), start_new_session=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    code = process.wait()
    # A shell's convention: 128 and the number of the signal.
    if asked:
        return 128 + asked[0]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
