"""Run a stage's command on another machine: two small frames around a launcher such as srun or ssh.

`NEEDLEWORK_RUN_gpu="srun --gpus 8 --nodes 1"` names the launcher for the stages of the pool `gpu`.
The stage's process becomes this file, `here`, which starts the launcher with this file, `there`,
and that starts the stage again on the other machine, in the same folder. DVC sees the command that
it knows, so dvc.lock is the same wherever a stage ran.

A signal at an ssh or kubectl client doesn't reach the other machine. But both carry standard input,
as srun does. So `here` keeps the launcher's input open and closes it to have the stage end; a lost
client or connection closes it too. `there` then sends SIGTERM to the stage, once, waits until it
has ended (a trainer writes a snapshot), and SIGKILL follows after NEEDLEWORK_SECONDS_TO_STOP. The
launcher leads a session of its own, so a signal to the session of `here` doesn't end the client
before the stage.

srun hands arguments on as they are; ssh joins them, and a shell splits them again. So each word is
written in letters, digits and `_./:,+@=-`, with every other character encoded as in a URL. Then
both give the same. The cost: the paths of the folder and of Python must be such words, and the same
on both machines.

This file imports nothing of the project: both frames start it by its path, without site-packages.
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer
from types import FrameType
from urllib.parse import quote, unquote

VARIABLE = "NEEDLEWORK_RUN_"
"""The variable's name begins so and ends with a pool: the launcher of the pool's stages."""
INSIDE = "NEEDLEWORK_ELSEWHERE"
"""In the environment of a stage that runs on the other machine: its pool."""
PATIENCE = "NEEDLEWORK_SECONDS_TO_STOP"
"""Always passed on: its default is in core/environment.py, which is not at hand over there."""
ALSO = ("PYTHONPATH", "PYTHONUNBUFFERED", "TQDM_DISABLE", "HF_HUB_OFFLINE")
"""Variables that are passed on beside those of this project."""
SECRET = re.compile(r"URL|KEY|TOKEN|SECRET|PASSWORD")
"""A variable named so is not passed on: everyone on a machine can read its command lines."""
SAFE = "/_.:,+@-"
# Without =, which ends the name in NAME=VALUE.
PLAIN = re.compile(r"[A-Za-z0-9/_.:,+@-]+")
HELLO = b"needlework\n"
"""The first line of the launcher's input. Without it the launcher carries none."""
NO_INPUT = (
    "needlework: standard input does not reach this machine, so a stop will not either. "
    "End the job by its launcher's own command. (kubectl exec carries it with -i.)"
)
PR_SET_PDEATHSIG = 1
"""Linux: <sys/prctl.h>."""


def prefixes(environment: Mapping[str, str]) -> dict[str, str]:
    """By pool, the launcher; empty where this process was started by one."""
    if environment.get(INSIDE):
        return {}
    return {
        name.removeprefix(VARIABLE): value
        for name, value in environment.items()
        if name.startswith(VARIABLE) and value.strip()
    }


def variable_of(pool: str) -> str:
    """The end of the variable's name: the pool's, with _ for what no variable's name may have."""
    return re.sub(r"\W", "_", pool, flags=re.ASCII)


def command(
    prefix: str, pool: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """The words that run `python -m module arguments` behind the prefix, in the current folder.

    This process becomes them. Raises ValueError if the prefix or a path will not do.
    """
    try:
        launcher = shlex.split(prefix)
    except ValueError as error:
        raise ValueError(f"{error}. Write it as in a shell.") from None
    if shutil.which(launcher[0]) is None:
        raise ValueError(f"no program {launcher[0]!r} on this machine. Install it, or unset it.")

    frame, folder = Path(__file__).resolve(), Path.cwd()
    for path in (sys.executable, frame, folder):
        if not PLAIN.fullmatch(str(path)):
            raise ValueError(
                f"the path {str(path)!r} would be read as something else by a shell on the other "
                f"machine. Move it to one of letters, digits and {SAFE}"
            )

    # Sorted, so that the same environment gives the same command line.
    passed = {INSIDE: pool, **_passed_on(environment)}
    words = ["there", str(folder), *(f"{name}={_written(passed[name])}" for name in sorted(passed))]
    # -I and -S: the frame needs the standard library alone, and starts in a third of the time.
    python = [sys.executable, "-I", "-S", str(frame)]
    return [*python, "here", *launcher, *python, *words, "--", module, *map(_written, arguments)]


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith("NEEDLEWORK_") or name in ALSO)
        and not name.startswith(VARIABLE)
        and not SECRET.search(name)
    }


def _written(word: str) -> str:
    return quote(word, safe=SAFE)


def here(launcher: Sequence[str]) -> int:
    """Run the launcher and return its exit code, 128 + n for a signal n as in a shell.

    The first signal closes the launcher's input. A second one is sent to the launcher itself.
    """
    reads, writes = os.pipe()
    # Before the launcher starts: if the other side then reads nothing, input is not carried.
    os.write(writes, HELLO)
    held_open = [writes]

    def end(number: int, frame: FrameType | None) -> None:
        if held_open:
            os.close(held_open.pop())
        elif started:
            started[0].terminate()

    started = list[subprocess.Popen[bytes]]()
    # Before the start, so that no signal falls between the two.
    _on_signals(end)
    started.append(_start(launcher, stdin=reads))
    os.close(reads)
    return _code(started[0])


def there(words: Sequence[str]) -> int:
    """Run the stage on this machine and return its exit code, 128 + n for a signal n."""
    folder, *rest = words
    split = rest.index("--")
    variables = dict(word.split("=", 1) for word in rest[:split])
    module, *arguments = map(unquote, rest[split + 1 :])
    passed = {name: unquote(text) for name, text in variables.items()}
    environment = {**os.environ, **passed}
    # ssh and srun start without the activated environment; stages call its programs by name.
    own = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    patience = float(environment[PATIENCE])

    started, asked = list[subprocess.Popen[bytes]](), list[str]()

    def end(why: str) -> None:
        asked.append(why)
        # Once: a trainer that gets a second signal while it writes a snapshot may give up.
        if started and len(asked) == 1:
            _stop(started[0], patience)

    _on_signals(lambda number, frame: end("signal"))
    start = [sys.executable, "-m", module, *arguments]
    started.append(
        _start(start, stdin=subprocess.DEVNULL, folder=_folder(folder), environment=environment)
    )
    # A signal may have come before there was a process to stop.
    if asked:
        _stop(started[0], patience)
    # A daemon, because it blocks in read() for as long as the launcher lives.
    Thread(target=_listen, args=(end,), daemon=True).start()
    return _code(started[0])


def _folder(path: str) -> str:
    """The folder. Ends the process if it isn't there."""
    if not Path(path).is_dir():
        sys.exit(
            f"needlework: {path}: no such folder on {os.uname().nodename}. "
            "Mount the project's folder there, at the same path."
        )
    return path


def _listen(end: Callable[[str], None]) -> None:
    """End the stage when the input closes, if the launcher carries input at all."""
    with os.fdopen(0, "rb", closefd=False) as source:
        if source.readline() != HELLO:
            print(NO_INPUT, file=sys.stderr, flush=True)
            return
        source.read()
    end("input closed")


def _start(
    words: Sequence[str],
    stdin: int,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a session. It gets SIGTERM if this process dies."""
    return subprocess.Popen(
        words,
        stdin=stdin,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """SIGTERM to the session of a process, and SIGKILL after `patience` seconds."""
    _send(process, signal.SIGTERM)
    timer = Timer(patience, _send, (process, signal.SIGKILL))
    timer.daemon = True  # or this process would outlive the stage by the patience
    timer.start()


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.wait()
    # Popen gives -n for a signal n.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit({"here": here, "there": there}[sys.argv[1]](sys.argv[2:]))
