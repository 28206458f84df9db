"""What this machine has of what a run needs: facts, two measured rates, and a verdict on each."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from rich.console import Console

from cream.engines.engine import choose_engine
from cream.kernels.library import kernels
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.embedded import BYTES_NEEDED, is_cached
from cream.recipe.engine import AutoEngine
from cream.records import Count, Record
from cream.report.table import Table, terminal
from cream.report.terminal import size
from cream.runs.files import free_bytes

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
"""Vector units that speed depends on, as Linux spells them."""
SHOWN_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pyarrow")
DISTRIBUTION = "cream-align"
TASKS, TASKS_VERSION = "reasoning-gym", "0.1.25"
GEMM_SIZE, COPY_BYTES, MEASURE_SECONDS = 1024, 1 << 28, 0.3
LITTLE_DISK = 5_000_000_000
"""Free bytes below which even a small run fills the disk."""

State = Literal["ok", "note", "missing"]


class Processor(Record):
    """The processor."""

    name: str
    features: list[str]
    """Vector units that speed depends on."""
    cores: Count
    usable_cores: Count
    threads: Count
    """That torch uses."""


class EngineFound(Record):
    """What would sample here."""

    name: str
    device: str
    compute_dtype: str
    reason: str


class KernelsFound(Record):
    """Whether the compiled kernels are used, and why (not)."""

    used: bool
    reason: str


class Speed(Record):
    """Two measured rates."""

    gemm: dict[str, float]
    """Floating-point operations per second of a square matrix product, by number format."""
    copying: Annotated[float, Field(serialization_alias="copy")]
    """Bytes per second."""


class MemoryFound(Record):
    """Memory."""

    available_bytes: Count | None


class DiskFound(Record):
    """The disk under the current folder."""

    folder: str
    free_bytes: Count


class CacheFound(Record):
    """Cream's cache."""

    folder: str
    embedded_model: bool


class Check(Record):
    """One thing that a run needs: what was found, and what to do."""

    name: str
    state: State
    found: str
    remedy: str


class Machine(Record):
    """This machine, and what it has of what a run needs."""

    python: str
    platform: str
    cpu: Processor
    gpus: list[str]
    engine: EngineFound
    kernels: KernelsFound
    speed: Speed | None
    memory: MemoryFound
    disk: DiskFound
    cache: CacheFound
    libraries: dict[str, str]
    checks: list[Check]


def examine_machine(cache_dir: Path, *, measure: bool = True) -> Machine:
    """Everything `cream doctor` tells.

    Args:
        cache_dir: Cream's cache.
        measure: Also time a matrix product and a copy (about a second).
    """
    device = pick_device("auto")
    dtype, choice = pick_compute_dtype(device), choose_engine(AutoEngine(), device)
    return Machine(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        engine=EngineFound(
            name=choice.settings.name,
            device=str(device),
            compute_dtype=str(dtype.dtype).removeprefix("torch."),
            reason=f"samples with {choice.settings.name}: {choice.reason}; {dtype.reason}",
        ),
        kernels=KernelsFound(used=kernels().library is not None, reason=kernels().reason),
        speed=measure_speed(device) if measure else None,
        memory=MemoryFound(available_bytes=available_memory(_text_of(MEMORY_INFO))),
        disk=DiskFound(folder=str(Path.cwd()), free_bytes=free_bytes(Path.cwd())),
        cache=CacheFound(folder=str(cache_dir), embedded_model=is_cached(cache_dir)),
        libraries={name: version(name) for name in SHOWN_LIBRARIES},
        checks=checks(cache_dir, requires(DISTRIBUTION) or []),
    )


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing that a run needs is missing."""
    return all(check.state != "missing" for check in checks)


def cpu_features(cpu_info: str) -> list[str]:
    """Those of `FEATURES` that the text of ``/proc/cpuinfo`` lists."""
    for line in cpu_info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return [name for name in FEATURES if name in value.split()]
    return []


def available_memory(memory_info: str) -> int | None:
    """Bytes that the text of ``/proc/meminfo`` calls available; None if it does not say."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", memory_info, flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def measure_speed(device: torch.device) -> Speed:
    """Rates of a square matrix product (flop/s per number format) and of a copy (bytes/s)."""
    gemm = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=dtype, device=device)
        seconds = _seconds_each(lambda left=left: torch.mm(left, left))
        gemm[str(dtype).removeprefix("torch.")] = 2 * GEMM_SIZE**3 / seconds
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy = COPY_BYTES / _seconds_each(lambda: target.copy_(source))
    return Speed(gemm=gemm, copying=copy)


def checks(cache_dir: Path, requirements: list[str]) -> list[Check]:
    """What a run needs, one entry each: name, state, what was found, what to do.

    Args:
        cache_dir: Cream's cache.
        requirements: Requirements of the package, as its metadata lists them.
    """
    needed = [text for text in requirements if "extra ==" not in text]
    return [
        *(_package(text) for text in needed),
        _tasks(),
        _cache(cache_dir),
        _embedded(cache_dir),
        _disk(Path.cwd()),
    ]


def _package(requirement: str) -> Check:
    name, least = parse_requirement(requirement)
    try:
        found = version(name)
    except PackageNotFoundError:
        return _check(name, "missing", "not installed", f"pip install '{name}>={least}'")
    if release(found) < release(least):
        return _check(name, "missing", found, f"pip install '{name}>={least}'")
    return _check(name, "ok", found)


def parse_requirement(requirement: str) -> tuple[str, str]:
    """Name and least version of ``name>=1.2``; 0 if none is given."""
    found = re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", requirement)
    assert found is not None, requirement
    return found[1], found[2] or "0"


def release(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at the end."""
    numbers = re.match(r"\d+(?:\.\d+)*", text)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _tasks() -> Check:
    try:
        found = version(TASKS)
    except PackageNotFoundError:
        remedy = f"for generated tasks: pip install --no-deps {TASKS}=={TASKS_VERSION}"
        return _check(TASKS, "note", "not installed", remedy)
    return _check(TASKS, "ok", found)


def _cache(folder: Path) -> Check:
    place = folder
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return _check("cache folder", "ok", str(folder))
    except OSError as error:
        remedy = "set CREAM_CACHE to a folder that can be written"
        return _check("cache folder", "missing", f"{place}: {error.strerror}", remedy)


def _embedded(folder: Path) -> Check:
    if is_cached(folder):
        return _check("embedded model", "ok", "in the cache")
    if free_bytes(folder) < BYTES_NEEDED:
        remedy = f"free {BYTES_NEEDED / 1e9:.0f} GB or set CREAM_CACHE to another folder"
        return _check("embedded model", "missing", "not in the cache, and no room for it", remedy)
    remedy = "fetched by the first run that uses it, or now: cream models --fetch"
    return _check("embedded model", "note", "not in the cache", remedy)


def _disk(folder: Path) -> Check:
    free = free_bytes(folder)
    words = f"{free / 1e9:.1f} GB free here"
    if free < LITTLE_DISK:
        return _check("disk", "note", words, "cream plan RECIPE says what a run needs")
    return _check("disk", "ok", words)


def _check(name: str, state: State, found: str, remedy: str = "") -> Check:
    return Check(name=name, state=state, found=found, remedy=remedy)


def _cpu() -> Processor:
    text = _text_of(CPU_INFO)
    name = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Processor(
        name=name[1] if name else platform.machine(),
        features=cpu_features(text),
        cores=os.cpu_count() or 1,
        usable_cores=usable or 1,
        threads=torch.get_num_threads(),
    )


def _text_of(path: Path) -> str:
    # Elsewhere than on Linux there is no such file.
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _seconds_each(work: Any) -> float:
    """Mean seconds of a call, after one that does not count."""
    work()
    _wait()
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < MEASURE_SECONDS:
        work()
        _wait()
        calls += 1
    return (time.perf_counter() - begun) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


MARKS = {"ok": "✓", "note": "·", "missing": "✗"}


def print_machine(console: Console, machine: Machine) -> None:
    """Print what was found."""
    console.print(
        terminal(Table("machine", ("what", "found"), tuple(machine_rows(machine)), words=2))
    )
    rows = [
        (
            f"{MARKS[check.state]} {check.name}",
            check.found + (f"; {check.remedy}" if check.remedy else ""),
        )
        for check in machine.checks
    ]
    console.print(terminal(Table("what a run needs", ("what", "found"), tuple(rows), words=2)))


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """Name and finding of each fact about a machine, in words."""
    cpu, engine, speed = machine.cpu, machine.engine, machine.speed
    kernels = machine.kernels
    rows = [
        ("processor", f"{cpu.name}; {', '.join(cpu.features) or 'no vector unit found'}"),
        ("cores", f"{cpu.usable_cores} of {cpu.cores} usable, {cpu.threads} threads"),
        ("GPU", ", ".join(machine.gpus) or "none"),
        ("engine", f"{engine.name}, {engine.compute_dtype} on {engine.device}"),
        ("", engine.reason),
        ("kernels", f"{'used' if kernels.used else 'not used'}: {kernels.reason}"),
    ]
    if speed is not None:
        gemm = ", ".join(f"{n} {r / 1e9:,.0f} Gflop/s" for n, r in speed.gemm.items())
        rows += [("matrix product", gemm), ("copy", f"{speed.copying / 1e9:.1f} GB/s")]
    free = machine.memory.available_bytes
    rows += [
        ("memory", "unknown" if free is None else f"{size(free)} available"),
        ("disk", f"{size(machine.disk.free_bytes)} free in {machine.disk.folder}"),
        ("libraries", ", ".join(f"{n} {v}" for n, v in machine.libraries.items())),
    ]
    return rows
