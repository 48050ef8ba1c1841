"""What the machine is, and what its processors were busy with. Linux: all of it comes from ``/proc``."""

import os
import platform
import random
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

from .children import BenchmarkFailed

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROCESSORS = os.cpu_count() or 1
FIRST_PORT, END_PORT = 20_000, 32_000
"""Below the range from which the system takes ports for outgoing connections, so that none is taken meanwhile."""


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback interface that nobody listens on. Raises BenchmarkFailed."""
    ports: list[int] = []
    for port in random.sample(range(FIRST_PORT, END_PORT), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BenchmarkFailed(f"no {count} free ports between {FIRST_PORT} and {END_PORT}")


def file_system(directory: Path) -> str:
    """What kind of file system holds the directory: on tmpfs a sync costs nothing, and the figures mean nothing."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "file system unknown"
    found = {Path(words[1]): words[2] for words in map(str.split, mounts.read_text().splitlines())}
    here = directory.resolve()
    return next((found[parent] for parent in [here, *here.parents] if parent in found), "file system unknown")


def description(directory: Path) -> str:
    """The machine in one line, for whoever reads the figures later."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = models[0] if models else platform.machine()
    return (
        f"{PROCESSORS} × {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{file_system(directory)}"
    )


def processor_seconds(process: int) -> float:
    """What one process has used so far, all its threads; nothing once it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_bytes(process: int) -> int:
    """The memory that a process occupies."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _busy_seconds() -> float:
    """What all processors together have spent on work so far; waiting for a disk is none."""
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = (
        int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + interrupt + soft_interrupt + stolen) / TICKS_PER_SECOND


@attrs.frozen
class Spent:
    """Where the processors' time went between two moments."""

    seconds: float
    by_process: dict[int, float]
    others_share: float
    """How much of the machine was busy with anything but the measured processes and this one: 0 to 1."""


class Meter:
    """Measures what the processors do from now until ``read``."""

    def __init__(self, processes: Iterable[int]) -> None:
        self._processes = tuple(processes)
        self._before = self._look()
        self._busy_before = _busy_seconds()
        self._own_before = processor_seconds(os.getpid())
        self._began = time.monotonic()

    def read(self) -> Spent:
        """What happened since."""
        seconds = time.monotonic() - self._began
        used = {process: after - self._before[process] for process, after in self._look().items()}
        ours = sum(used.values()) + processor_seconds(os.getpid()) - self._own_before
        others = (_busy_seconds() - self._busy_before - ours) / (seconds * PROCESSORS)
        return Spent(seconds=seconds, by_process=used, others_share=min(1.0, max(0.0, others)))

    def _look(self) -> dict[int, float]:
        return {process: processor_seconds(process) for process in self._processes}
