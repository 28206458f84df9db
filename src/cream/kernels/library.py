"""The compiled kernels: built once into Cream's cache, loaded once per process, or why not.

The sources in ``native/`` use no header of PyTorch, so compiling them with the machine's own C++
compiler takes about two seconds and the result fits every version of it. Its name carries a digest
of the sources, the flags and the compiler's version: whatever changes, a new library is built
beside the old one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cream.cache import cache_dir

SOURCES = Path(__file__).parent / "native"
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"),
    *("-mamx-tile", "-mamx-bf16"),
)
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_SECONDS = 300
SWITCH = "CREAM_KERNELS"
"""Environment variable; ``off`` leaves everything to PyTorch."""
CPU_INFO = Path("/proc/cpuinfo")
REQUIRED_UNITS = frozenset(
    ("amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma")
)
"""As Linux spells what ``FLAGS`` in this file lets the compiler use."""


class BuildError(Exception):
    """The kernels could not be compiled; the text says why and what to do."""


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


def find_compiler(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, else the first that is installed.

    Raises:
        BuildError: There is none.
    """
    named = shlex.split(environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise BuildError("no C++ compiler was found (install g++, or set CXX)")


def build(folder: Path, compiler: list[str]) -> Path:
    """Return the compiled library in ``folder``, compiling it if it is not there.

    Two processes may build at once: each writes its own file and renames it when it is whole. What
    is loaded runs with the user's rights, so the folder is the user's alone: what lies in one that
    others could write to is compiled again, and so is a library that is not what was compiled.

    Raises:
        BuildError: The compiler refused, or the folder cannot be written or is somebody else's.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    digest = hashlib.sha256(repr((compiler, FLAGS, _output([*compiler, "--version"]))).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    seal = library.with_suffix(".sha256")
    unfinished = library.with_suffix(f".{os.getpid()}.tmp")
    try:
        if _is_private(folder) and _is_whole(library, seal):
            return library
        try:
            _output([*compiler, *FLAGS, *map(str, sources), "-o", str(unfinished)])
            written = _sha256(unfinished)
            unfinished.replace(library)
            unfinished.write_text(written, encoding="ascii")
            unfinished.replace(seal)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error.strerror}") from error
    return library


def _is_private(folder: Path) -> bool:
    """Make a folder the user's alone; whether it was before, so that what lies in it is theirs.

    Raises:
        BuildError: It is somebody else's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise BuildError(
            f"{folder} is not this user's own folder (set CREAM_CACHE to one for compiled files)"
        )
    if found.st_mode & 0o022:
        folder.chmod(0o700)
        return False
    return True


def _is_whole(library: Path, seal: Path) -> bool:
    """Whether a library is what was compiled: the user's own file, of the content recorded."""
    try:
        found = library.lstat()
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
        return own and seal.read_bytes() == _sha256(library).encode()
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise BuildError(f"{command[0]} could not compile the kernels: {said.strip()[:200]}")
    return done.stdout


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
