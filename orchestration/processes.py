"""Which processes there are, and which of them is which, as Linux tells it in /proc.

A number alone does not name a process: numbers come back, after a restart of the machine at the latest. So a process is
noted by host, boot, number and start time, and one that is noted so is gone for sure, there for sure, or, on another
host, not ours to judge. The cost: without /proc nothing is ever known to be gone.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BOOT = PROC / "sys" / "kernel" / "random" / "boot_id"
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


def process(pid: int) -> Process | None:
    """The process of that number; None where there is none, or it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = Process(pid, int(fields[1]), fields[0], fields[19])
    return None if found.state in ENDED else found


def children(parent: int) -> Iterator[Process]:
    """The processes at work that `parent` started, or that became its own when whoever started them ended."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (found := process(int(folder.name))) is not None and found.parent == parent:
            yield found


def identity(pid: int) -> str:
    """Names that process among all there ever were; "" where it is gone or there is no /proc."""
    found = process(pid) if BOOT.exists() else None
    return f"{socket.gethostname()}/{BOOT.read_text().strip()}/{pid}/{found.started}" if found else ""


def pid_of(named: str) -> int | None:
    """The number of a process by its identity; None where it is not on this host or is gone."""
    parts = named.split("/")
    pid = int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else None
    return pid if pid is not None and identity(pid) == named else None


def gone(named: str) -> bool:
    """Whether it is certain that no such process is left. Not so for one on another host, or one without a name."""
    here = named.split("/")[0] == socket.gethostname() and BOOT.exists()
    return here and pid_of(named) is None


def leads_session(pid: int) -> bool:
    """Whether the process leads a session, so that its group is all its own."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
