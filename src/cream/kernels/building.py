"""Compiling the kernels with the machine's own C++ compiler, once, into Cream's cache.

The sources in ``native/`` use no header of PyTorch, so compiling them takes about two seconds and
the result fits every version of it. Its name carries a digest of the sources, the flags and the
compiler's version: whatever changes, a new library is built beside the old one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"),
    *("-mamx-tile", "-mamx-bf16"),
)
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_SECONDS = 300


class BuildError(Exception):
    """The kernels could not be compiled; the text says why and what to do."""


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

    Two processes may build at once: each writes its own file and renames it when it is whole.

    Raises:
        BuildError: The compiler refused, or the folder cannot be written.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    digest = hashlib.sha256(repr((compiler, FLAGS, _output([*compiler, "--version"]))).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    unfinished = library.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _output([*compiler, *FLAGS, *map(str, sources), "-o", str(unfinished)])
            unfinished.replace(library)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error.strerror}") from error
    return library


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
