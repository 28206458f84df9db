"""Where a model runs and in which arithmetic. Each choice comes with its reason, to be printed.

bfloat16 pays only where the hardware multiplies it natively; elsewhere it is emulated, slower than
float32 and less exact. This module looks at the machine and at nothing else.
"""

from __future__ import annotations

import gc
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cream.errors import ModelError

CPU_INFO = Path("/proc/cpuinfo")
NATIVE_BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "Arm"}
"""Feature flags of processors that multiply bfloat16, as Linux spells them."""


@dataclass(frozen=True, slots=True)
class ComputeDtype:
    """Arithmetic of sampling and scoring, and why."""

    dtype: torch.dtype
    reason: str
    """A phrase without a full stop, e.g. ``the CPU multiplies bfloat16 natively (AMX)``."""


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads torch uses, and how many cores this process may use."""

    torch: int
    usable_cores: int


def pick_device(device: str = "auto") -> torch.device:
    """Turn the recipe's ``model.device`` into a device that exists.

    Args:
        device: ``auto`` (first CUDA GPU, else CPU), or a torch device name. Apple's ``mps`` is
            taken only when asked for: bfloat16 and float64 are incomplete there.

    Raises:
        ModelError: The device named is not on this machine.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"model.device: {device!r} is no device. Use auto, cpu, mps, cuda or cuda:N."
        ) from error
    if wanted.type == "cuda":
        count = torch.cuda.device_count()
        if (wanted.index or 0) >= count:
            raise ModelError(
                f"model.device: {device!r} was asked for, but this machine has {count} usable CUDA "
                "devices. Set model.device to auto or cpu, or install a CUDA build of torch."
            )
        return torch.device("cuda", wanted.index or 0)
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"model.device: {device!r} is not available. Set it to auto or cpu.")
    return wanted


def pick_compute_dtype(
    device: torch.device, requested: Literal["auto", "float32", "bfloat16"] = "auto"
) -> ComputeDtype:
    """Choose float32 or bfloat16 for sampling and scoring on `device`."""
    if requested != "auto":
        dtype = torch.float32 if requested == "float32" else torch.bfloat16
        return ComputeDtype(dtype, f"model.compute_dtype is {requested}")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return ComputeDtype(torch.bfloat16, "the GPU multiplies bfloat16 natively")
        return ComputeDtype(torch.float32, "the GPU is older than native bfloat16 (Ampere)")
    if device.type == "cpu":
        unit = native_bfloat16_unit(_cpu_info())
        if unit is not None:
            return ComputeDtype(torch.bfloat16, f"the CPU multiplies bfloat16 natively ({unit})")
        return ComputeDtype(torch.float32, "no native bfloat16 was found in the CPU")
    return ComputeDtype(torch.float32, f"bfloat16 is incomplete on {device.type}")


def native_bfloat16_unit(cpu_info: str) -> str | None:
    """Name the unit that multiplies bfloat16, from the text of ``/proc/cpuinfo``; None if none."""
    for line in cpu_info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            return next((unit for flag, unit in NATIVE_BFLOAT16.items() if flag in flags), None)
    return None


def _cpu_info() -> str:
    # Elsewhere than on Linux there is no such file, and float32 is the choice that is never wrong.
    if platform.system() != "Linux" or not CPU_INFO.is_file():
        return ""
    return CPU_INFO.read_text(encoding="utf-8", errors="replace")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no room, rather than that something is wrong."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def give_memory_back(device: torch.device) -> None:
    """Free what the process holds and does not use, so that smaller pieces find room."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def threads() -> Threads:
    """Report the threads torch uses and the cores this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return Threads(torch=torch.get_num_threads(), usable_cores=cores)
