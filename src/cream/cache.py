"""Where Cream keeps what it fetches and compiles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return Cream's cache: ``$CREAM_CACHE``, ``$XDG_CACHE_HOME/cream`` or ``~/.cache/cream``."""
    if given := environ.get("CREAM_CACHE"):
        return Path(given).expanduser()
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cream"
