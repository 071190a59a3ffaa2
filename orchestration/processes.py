"""Name a process so that it is recognised after a restart. psutil reads the process table.

A number alone does not name a process: numbers are reused, at the latest after a reboot, and each
container counts from 1. So a name has six parts: machine, host name, boot, namespace of process
numbers, number and start time. A process with such a name is surely running, surely gone, or on
another machine or in another container:

- Boot and namespace are ours: the process table decides. The host name is not compared, because a
  laptop's name changes.
- The boot is another: gone if the machine is ours (/etc/machine-id, or the host name without it),
  because it was rebooted. Otherwise the process is on another machine, and unknown here.
- The boot is ours, the namespace is another: another container on this machine. With our host name
  it is this container, restarted, and the process is gone. Otherwise two containers may share one
  folder, and a second run must not start beside the first.

The cost: a container that is recreated under another name never learns that the run of the first
one is gone. Give it a name (`docker run --hostname`), or terminate that run with force. Without
/proc nothing is ever known.
"""

import os
import socket
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
MACHINE = Path("/etc/machine-id")
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True, slots=True)
class Place:
    """Where process numbers count."""

    machine: str
    host: str
    boot: str
    namespace: str


def here() -> Place | None:
    """The place of this process; None without /proc."""
    if not BOOT.exists():
        return None

    host = socket.gethostname()
    known = MACHINE.read_text().strip() if MACHINE.is_file() else ""
    # machine-id(5) asks programs to publish only a hash of it.
    machine = sha256(known.encode()).hexdigest()[:16] if known else host
    return Place(machine, host, BOOT.read_text().strip(), str(NAMESPACE.readlink()))


def process(pid: int) -> psutil.Process | None:
    """The running process with this number. None if there is none or it is a zombie."""
    try:
        found = psutil.Process(pid)
        return None if found.status() in ENDED else found
    except psutil.NoSuchProcess:
        return None


def _started(found: psutil.Process) -> str:
    """The start of a process in clock ticks since boot. "" if it has ended meanwhile."""
    # Not the time since the epoch: it changes whenever the system clock is set.
    try:
        since_boot = found.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return ""
    # The kernel counts in ticks, so rounding to them undoes the error of the two floats.
    return str(round(since_boot * os.sysconf("SC_CLK_TCK")))


def identity(pid: int) -> str:
    """The name of a process. "" if it is gone or there is no /proc."""
    place, found = here(), process(pid)
    started = _started(found) if found else ""
    return "/".join((*astuple(place), str(pid), started)) if place and started else ""


def pid_of(named: str) -> int | None:
    """The number of a named process. None if it is gone or its number counts in another place."""
    place, (noted, pid, started) = here(), _parts(named)
    if place is None or noted is None:
        return None
    if (noted.boot, noted.namespace) != (place.boot, place.namespace):
        return None

    # The start time shows whether another process has the number now.
    found = process(pid)
    return pid if found and _started(found) == started else None


def gone(named: str) -> bool:
    """Whether a named process has surely ended. False for a process elsewhere and for ""."""
    place, (noted, _, _) = here(), _parts(named)
    if place is None or noted is None:
        return False

    # The order matters: a namespace has a meaning only within one boot.
    if noted.boot != place.boot:
        return noted.machine == place.machine
    if noted.namespace != place.namespace:
        return noted.host == place.host
    return pid_of(named) is None


def _parts(named: str) -> tuple[Place | None, int, str]:
    """Place, number and start time of a name. The place is None if the name is malformed."""
    parts = named.split("/")
    if len(parts) != 6 or not parts[4].isdecimal():
        return None, 0, ""
    return Place(*parts[:4]), int(parts[4]), parts[5]
