"""What this machine has of what a run needs: facts, two measured rates, and a verdict on each."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import torch

from cream.engines.engine import choose_engine
from cream.kernels.library import kernels
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.embedded import BYTES_NEEDED, is_cached
from cream.recipe.engine import AutoEngine
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


def examine_machine(cache_dir: Path, *, measure: bool = True) -> dict[str, Any]:
    """Everything `cream doctor` tells, as JSON values (schema ``doctor.json``).

    Args:
        cache_dir: Cream's cache.
        measure: Also time a matrix product and a copy (about a second).
    """
    device = pick_device("auto")
    dtype, choice = pick_compute_dtype(device), choose_engine(AutoEngine(), device)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "engine": {
            "name": choice.settings.name,
            "device": str(device),
            "compute_dtype": str(dtype.dtype).removeprefix("torch."),
            "reason": f"samples with {choice.settings.name}: {choice.reason}; {dtype.reason}",
        },
        "kernels": {"used": kernels().library is not None, "reason": kernels().reason},
        "speed": measure_speed(device) if measure else None,
        "memory": {"available_bytes": available_memory(_text_of(MEMORY_INFO))},
        "disk": {"folder": str(Path.cwd()), "free_bytes": free_bytes(Path.cwd())},
        "cache": {"folder": str(cache_dir), "embedded_model": is_cached(cache_dir)},
        "libraries": {name: version(name) for name in SHOWN_LIBRARIES},
        "checks": checks(cache_dir, requires(DISTRIBUTION) or []),
    }


def healthy(machine: dict[str, Any]) -> bool:
    """Whether nothing that a run needs is missing."""
    return all(check["state"] != "missing" for check in machine["checks"])


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


def measure_speed(device: torch.device) -> dict[str, Any]:
    """Rates of a square matrix product (flop/s per number format) and of a copy (bytes/s)."""
    gemm = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=dtype, device=device)
        seconds = _seconds_each(lambda left=left: torch.mm(left, left))
        gemm[str(dtype).removeprefix("torch.")] = 2 * GEMM_SIZE**3 / seconds
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy = COPY_BYTES / _seconds_each(lambda: target.copy_(source))
    return {"gemm": gemm, "copy": copy}


def checks(cache_dir: Path, requirements: list[str]) -> list[dict[str, str]]:
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


def _package(requirement: str) -> dict[str, str]:
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


def _tasks() -> dict[str, str]:
    try:
        found = version(TASKS)
    except PackageNotFoundError:
        remedy = f"for generated tasks: pip install --no-deps {TASKS}=={TASKS_VERSION}"
        return _check(TASKS, "note", "not installed", remedy)
    return _check(TASKS, "ok", found)


def _cache(folder: Path) -> dict[str, str]:
    place = folder
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return _check("cache folder", "ok", str(folder))
    except OSError as error:
        remedy = "set CREAM_CACHE to a folder that can be written"
        return _check("cache folder", "missing", f"{place}: {error.strerror}", remedy)


def _embedded(folder: Path) -> dict[str, str]:
    if is_cached(folder):
        return _check("embedded model", "ok", "in the cache")
    if free_bytes(folder) < BYTES_NEEDED:
        remedy = f"free {BYTES_NEEDED / 1e9:.0f} GB or set CREAM_CACHE to another folder"
        return _check("embedded model", "missing", "not in the cache, and no room for it", remedy)
    remedy = "fetched by the first run that uses it, or now: cream models --fetch"
    return _check("embedded model", "note", "not in the cache", remedy)


def _disk(folder: Path) -> dict[str, str]:
    free = free_bytes(folder)
    words = f"{free / 1e9:.1f} GB free here"
    if free < LITTLE_DISK:
        return _check("disk", "note", words, "cream plan RECIPE says what a run needs")
    return _check("disk", "ok", words)


def _check(name: str, state: State, found: str, remedy: str = "") -> dict[str, str]:
    return {"name": name, "state": state, "found": found, "remedy": remedy}


def _cpu() -> dict[str, Any]:
    text = _text_of(CPU_INFO)
    name = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": name[1] if name else platform.machine(),
        "features": cpu_features(text),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable or 1,
        "threads": torch.get_num_threads(),
    }


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
