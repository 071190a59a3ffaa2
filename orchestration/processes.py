"""Which processes there are, and which of them is which, as Linux tells it in /proc.

A number alone does not name a process: numbers come back, after a restart of the machine at the
latest, and each container counts from 1. So a process is noted with the machine, the host's name,
the boot, the namespace of process numbers, number and start time. One noted so is there for sure,
gone for sure, or not ours to judge:

- The boot and the namespace are ours: /proc tells. What the host is called has no say, for a
  laptop's name changes.
- The boot is another: gone if the machine is ours (/etc/machine-id, or the name where there is
  none), for it was restarted; else the process is on another machine, of which nothing is known
  here.
- The boot is ours, the namespace is another: another container on this machine, which cannot be
  looked into. If the host's name is the same it is this container, started again, and the process
  is gone. Else two containers may well work in one folder, and a run taken for dead would be
  started beside the living one.

The cost: a container that is made anew under another name never learns that its predecessor's run
is gone. Give it a name (`docker run --hostname`), or end that run by *Terminate* with force. And
without /proc nothing is ever known.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

PROC = Path("/proc")
BOOT = PROC / "sys" / "kernel" / "random" / "boot_id"
NAMESPACE = PROC / "self" / "ns" / "pid"
MACHINE = Path("/etc/machine-id")
ENDED = "ZX"
"""States of a process that has ended and that no one has asked about yet."""


@dataclass(frozen=True, slots=True)
class Process:
    """A line of /proc."""

    pid: int
    parent: int
    state: str
    started: str
    """In ticks since the machine started."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where process numbers count."""

    machine: str
    host: str
    boot: str
    namespace: str


def here() -> Place | None:
    """Where this process is; None without /proc."""
    if not BOOT.exists():
        return None
    host, known = socket.gethostname(), MACHINE.read_text().strip() if MACHINE.is_file() else ""
    # its manual asks not to show it as it is
    machine = sha256(known.encode()).hexdigest()[:16] if known else host
    return Place(machine, host, BOOT.read_text().strip(), str(NAMESPACE.readlink()))


def process(pid: int) -> Process | None:
    """The process of that number; None where there is none, or it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = Process(pid, int(fields[1]), fields[0], fields[19])
    return None if found.state in ENDED else found


def children(parent: int) -> Iterator[Process]:
    """The processes at work that `parent` started, or that became its own when whoever started them
    ended.
    """
    for folder in PROC.iterdir():
        if (
            folder.name.isdigit()
            and (found := process(int(folder.name))) is not None
            and found.parent == parent
        ):
            yield found


def first_child(pid: int) -> int | None:
    """The number of a process that this one has started; None where there is none.

    The kernel's own list is asked, where it keeps one. To look at every process of the machine once
    a second costs a second of CPU in a minute.
    """
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            for found in (task / "children").read_text().split():
                return int(found)
    except (FileNotFoundError, ProcessLookupError):
        return next((found.pid for found in children(pid)), None)
    return None


def identity(pid: int) -> str:
    """Names that process among all there ever were; "" where it is gone or there is no /proc."""
    place = here()
    found = process(pid) if place else None
    return "/".join((*astuple(place), str(pid), found.started)) if place and found else ""


def pid_of(named: str) -> int | None:
    """The number of a process by its identity; None where it does not count here or is gone."""
    place, noted, pid, started = here(), *_parts(named)
    if (
        place is None
        or noted is None
        or (noted.boot, noted.namespace) != (place.boot, place.namespace)
    ):
        return None
    found = process(pid)
    return pid if found is not None and found.started == started else None


def gone(named: str) -> bool:
    """Whether it is certain that no such process is left. Not so for one elsewhere, or one without
    a name.
    """
    place, noted, _, _ = here(), *_parts(named)
    if place is None or noted is None:
        return False
    if noted.boot != place.boot:
        return noted.machine == place.machine
    if noted.namespace != place.namespace:
        return noted.host == place.host
    return pid_of(named) is None


def _parts(named: str) -> tuple[Place | None, int, str]:
    """Place, number and start time in an identity; no place if it is none."""
    parts = named.split("/")
    if len(parts) != 6 or not parts[4].isdigit():
        return None, 0, ""
    return Place(*parts[:4]), int(parts[4]), parts[5]


def leads_session(pid: int) -> bool:
    """Whether the process leads a session, so that its group is all its own."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
