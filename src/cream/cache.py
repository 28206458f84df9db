"""Where Cream keeps what it fetches and compiles."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cream.errors import RunError


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return Cream's cache: ``$CREAM_CACHE``, ``$XDG_CACHE_HOME/cream`` or ``~/.cache/cream``.

    A user number without an account and without ``HOME`` (as containers are started with) has a
    folder of its own under the temporary folder, which only that user may write to.

    Raises:
        RunError: That folder belongs to somebody else, or others may write to it.
    """
    if given := environ.get("CREAM_CACHE"):
        return expanded(given)
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    if os.path.isabs(base):
        return Path(base) / "cream"
    home = expanded("~")
    return home / ".cache" / "cream" if home.is_absolute() else _homeless_dir()


def expanded(path: str) -> Path:
    """A path with ``~`` replaced by the home folder; as it is where there is none."""
    return Path(os.path.expanduser(path))


def _homeless_dir() -> Path:
    folder = Path(tempfile.gettempdir()) / f"cream-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RunError(
            f"there is no home folder and {folder} cannot be used ({error.strerror}); set the "
            "environment variable CREAM_CACHE to a folder for fetched and compiled files"
        ) from error
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not own or found.st_mode & 0o022:
        raise RunError(
            f"there is no home folder and {folder} is not yours alone; set the environment "
            "variable CREAM_CACHE to a folder for fetched and compiled files"
        )
    return folder
