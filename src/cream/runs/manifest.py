"""What made a run: versions, machine, seeds and the fingerprints of its inputs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from cream import __version__

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "pyarrow", "reasoning-gym")


def describe_environment() -> dict[str, Any]:
    """Versions of Cream and the libraries that decide results, and the kind of machine."""
    return {
        "cream": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def build_manifest(recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a run.

    Args:
        recipe: The resolved recipe.
        inputs: Fingerprints of what came from outside: seed model, data files.
    """
    return {
        "command": ["cream", *sys.argv[1:]],
        "seed": recipe["seed"],
        "inputs": dict(inputs),
        "environment": describe_environment(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
