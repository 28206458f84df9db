"""Whether the compiled kernels can be used here, and why not; loading them once per process."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cream.kernels.building import BuildError, build, find_compiler
from cream.runs.cache import cache_dir

SWITCH = "CREAM_KERNELS"
"""Environment variable; ``off`` leaves everything to PyTorch."""
CPU_INFO = Path("/proc/cpuinfo")
REQUIRED_UNITS = frozenset(
    ("amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma")
)
"""As Linux spells what ``FLAGS`` in `cream.kernels.building` lets the compiler use."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The loaded library, or why there is none."""

    library: Any
    """A ``ctypes.CDLL``; None if there is none."""
    reason: str
    """A phrase without a full stop: what is used, or what is missing."""


@cache
def kernels() -> Kernels:
    """Load the kernels, compiling them at first use (about two seconds)."""
    reason = _obstacle()
    if reason:
        return Kernels(None, reason)
    try:
        path = build(cache_dir() / "kernels", find_compiler())
        library = ctypes.CDLL(str(path))
    except (BuildError, OSError) as error:
        return Kernels(None, str(error))
    if library.cream_ask_for_tiles():
        return Kernels(None, "the system does not let this process use the tile registers")
    return Kernels(library, "compiled for this processor's matrix tiles (AMX)")


def fit(*tensors: torch.Tensor) -> bool:
    """Whether the kernels take these tensors: bfloat16, on a CPU that they were compiled for."""
    return (
        all(t.dtype == torch.bfloat16 and t.device.type == "cpu" for t in tensors)
        and kernels().library is not None
    )


def padded(count: int) -> int:
    """Round up to whole blocks of rows (``BLOCK`` in ``native/tiles.h``)."""
    return -(-count // 32) * 32


def call(name: str, *arguments: torch.Tensor | Sequence[int] | int | float | None) -> None:
    """Call a kernel: tensors as the address of their first number, None as null, ints in 64 bits.

    The caller answers for shapes, dtypes and contiguity; C does not know them.
    """
    getattr(kernels().library, name)(*map(_argument, arguments))


def _argument(value: torch.Tensor | Sequence[int] | int | float | None) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return None if value is None else (ctypes.c_int64 * len(value))(*value)


def _obstacle() -> str:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return f"{SWITCH} is off"
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not CPU_INFO.is_file():
        return "they are for Linux on x86-64"
    for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            missing = REQUIRED_UNITS - set(line.split())
            return f"the processor has no {', '.join(sorted(missing))}" if missing else ""
    return "the processor does not say what it can do"
