"""What a figure was measured on, and how busy that was with something else, from ``/proc``.

Two processes of two threads each slow each other tenfold on two cores, since threads that wait spin
at their barriers. So a benchmark must know that the cores are its own: busy time of all processors
(time stolen by other virtual machines included) less that of this process and its descendants.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cream.errors import BusyMachineError
from cream.models.devices import threads
from cream.runs.manifest import describe_environment

CPU_INFO = Path("/proc/cpuinfo")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory and versions, as JSON values."""
    used = threads()
    return {
        "cpu": _cpu_name(),
        "device": _device_name(device),
        "threads": used.torch,
        "usable_cores": used.usable_cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "trl": _installed("trl"),
        **describe_environment(),
    }


def _cpu_name() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


PROC = Path("/proc")
LIMIT_CORES = 0.2
"""Foreign work, in cores, from which a benchmark is refused. An idle desktop takes about 0.05."""
CHECK_SECONDS = 1.0
"""How long the load is measured before a case."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time since boot, in clock ticks."""

    busy: int
    """Of all processors: neither idle nor waiting for a disk."""
    own: int
    """Of this process and its descendants, the ended ones included."""


@dataclass
class LoadWatch:
    """Measures foreign load before and during the cases of a benchmark."""

    allowed: bool = False
    """Whether to go on all the same (``--allow-load``)."""
    read: Callable[[], Usage | None] = field(default_factory=lambda: read_usage)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    ticks_per_second: int = field(default_factory=lambda: os.sysconf("SC_CLK_TCK"))

    def check(self, what: str) -> float | None:
        """Measure the foreign load for a second, before `what`.

        Returns:
            Foreign work in cores; None where the system does not tell.

        Raises:
            BusyMachineError: It is above the limit, and not allowed.
        """
        with self.during(f"before {what}") as measured:
            self.sleep(CHECK_SECONDS)
        return measured.cores

    @contextmanager
    def during(self, what: str) -> Iterator[MeasuredLoad]:
        """Measure the foreign load while the block runs; it is filled in at the end.

        Raises:
            BusyMachineError: It was above the limit, and not allowed.
        """
        measured = MeasuredLoad()
        before, started = self.read(), self.clock()
        yield measured
        after, seconds = self.read(), self.clock() - started
        if before is None or after is None:
            return
        measured.cores = foreign_cores(before, after, seconds * self.ticks_per_second)
        if measured.cores > LIMIT_CORES and not self.allowed:
            raise BusyMachineError(
                f"other processes used {measured.cores:.2f} cores {what}, above the limit of "
                f"{LIMIT_CORES}: figures would not be of this program. End them and run again, or "
                "give --allow-load, which marks every figure"
            )


@dataclass
class MeasuredLoad:
    """Foreign work in cores, once it is known; None where the system does not tell."""

    cores: float | None = None


def foreign_cores(before: Usage, after: Usage, ticks: float) -> float:
    """Cores that others kept busy over `ticks` of wall-clock time; never below 0 (rounding)."""
    busy, own = after.busy - before.busy, after.own - before.own
    return max(0.0, (busy - own) / ticks)


def read_usage(proc: Path = PROC) -> Usage | None:
    """Read the processor time of the machine and of this process tree; None without ``/proc``."""
    if not (proc / "stat").exists():
        return None
    stats = [
        text
        for folder in proc.iterdir()
        if folder.name.isdigit() and (text := _read(folder / "stat")) is not None
    ]
    return Usage(busy_ticks(_read(proc / "stat") or ""), tree_ticks(stats, os.getpid()))


def busy_ticks(text: str) -> int:
    """Busy time of all processors, from the text of ``/proc/stat``.

    The fields are user, nice, system, idle, iowait, irq, softirq, steal; guest time, which follows,
    is within user time already.
    """
    for line in text.splitlines():
        name, *fields = line.split()
        if name == "cpu":
            user, nice, system, _, _, irq, softirq, steal = map(int, [*fields, *"0" * 8][:8])
            return user + nice + system + irq + softirq + steal
    return 0


def tree_ticks(stats: list[str], root: int) -> int:
    """Time of a process and its living descendants, from texts of ``/proc/<pid>/stat``.

    Each counts its own time and that of the children it has waited for.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for text in stats:
        head, _, tail = text.rpartition(")")  # the name in parentheses may contain anything
        fields = tail.split()
        pid = int(head.split()[0])
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))
    total = 0
    for pid in ticks:
        ancestor: int | None = pid
        while ancestor not in (None, root):
            ancestor = parents.get(ancestor)
        total += ticks[pid] if ancestor == root else 0
    return total


def _read(path: Path) -> str | None:
    """Text of a file; None if its process has just ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
