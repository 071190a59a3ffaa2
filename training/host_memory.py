"""The host's memory: what a training needs of it, and what is there.

A process that asks for too much is killed by the kernel without a word, perhaps after hours. So a
training that needs more than is available is refused before its first step. The need is planned,
not measured: the cost is that a training which would just have fit may be refused.
"""

from pathlib import Path

from core.environment import SWITCHES
from training.hardware import CHECKPOINT
from training.memory import GIB, MOMENT_BYTES, Load, on_device

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container: its limit and what it uses


def planned(load: Load, on_cpu: bool) -> float:
    """Bytes that each process holds in the host's memory at the highest point of a step."""
    if on_cpu:
        return sum(on_device(load).values())

    hardware, shape = load.hardware, load.shape
    total = 0.0
    if hardware.offload_weights:
        # Weights and their gradients are pinned, a matrix at a time. The moments are not.
        for count, elements in shape.matrices:
            total += 2 * count * pinned(4 * elements / load.processes)
        total += MOMENT_BYTES[load.optimizer] * shape.parameters / load.processes
    if hardware.checkpoint_activations and hardware.offload_activations:
        total += shape.layers * pinned(load.here * load.element * shape.width)
    return total


def pinned(size: float) -> float:
    """Bytes that PyTorch takes for a pinned block of `size` bytes: the next power of two.

    https://github.com/pytorch/pytorch/issues/95823
    """
    return float(1 << max(int(size) - 1, 0).bit_length())


def available(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> float | None:
    """Bytes that processes here may still take; None where that can't be read."""
    found = []
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            found.append(1024.0 * int(line.split()[1]))
    limit, used = _lines(cgroup / "memory.max"), _lines(cgroup / "memory.current")
    # "max" is no limit.
    if limit and used and limit[0].isdigit():
        found.append(float(limit[0]) - float(used[0]) + _cache(cgroup))
    return min(found) if found else None


def why_too_much(needed: float, there: float | None, processes: int) -> str | None:
    """Why a training can't be started on this host; None if it can.

    needed: bytes of each process. there: bytes available. processes: on this host.
    """
    if there is None or needed * processes <= there:
        return None
    each = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"this training needs about {needed / GIB:.1f} GiB of the host's memory{each}, and "
        f"{there / GIB:.1f} GiB are available, so the kernel would kill it. Lower "
        f"optimizer.micro_batch_tokens, set {SWITCHES}={CHECKPOINT} (a third more work), "
        "or use shorter rows or fewer processes."
    )


def _cache(cgroup: Path) -> float:
    """Bytes of files that the container has read, which the kernel gives back when asked."""
    for line in _lines(cgroup / "memory.stat"):
        if line.startswith("inactive_file "):
            return float(line.split()[1])
    return 0.0


def _lines(path: Path) -> list[str]:
    """The lines of a file of the kernel; none where there is no such file."""
    try:
        return path.read_text().split("\n")
    except OSError:
        return []
