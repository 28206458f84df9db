"""Small trained modules on the disk: a sealed configuration and its float32 tensors.

    DIR/config.json           format, kind, and whatever says what the module is
    DIR/weights.safetensors   every tensor of it

Loading is strict: another kind or version, other names or shapes, a number that is not finite, or a
byte that was changed is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from cream.errors import ModelError
from cream.models.saving import first_not_finite
from cream.runs.files import read_sealed, replacing_file, write_sealed

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a folder holds, before a module is made of it."""

    folder: Path
    record: dict[str, Any]
    """What was said of it when it was saved."""
    tensors: Mapping[str, Tensor]
    fingerprint: str
    """Of record and tensors."""

    def fill(self, module: nn.Module) -> None:
        """Load the tensors into a module that has exactly these.

        Raises:
            ModelError: Names, shapes or types differ, or a number is not finite.
        """
        expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in self.tensors.items()}
        wrong = sorted(
            name for name in expected.keys() | found if expected.get(name) != found.get(name)
        )
        if wrong:
            raise ModelError(
                f"{self.folder / WEIGHTS} does not belong to its {CONFIG}: {wrong[0]} is "
                f"{found.get(wrong[0], 'missing')} in place of {expected.get(wrong[0], 'nothing')} "
                f"({len(wrong)} tensors differ). Fit it again."
            )
        if any(value.dtype != torch.float32 for value in self.tensors.values()):
            raise ModelError(f"{self.folder / WEIGHTS} is not float32; fit it again")
        bad = first_not_finite(self.tensors.items())
        if bad is not None:
            raise ModelError(f"{self.folder / WEIGHTS}: {bad} is not finite; fit it again")
        module.load_state_dict(dict(self.tensors))


def save_artifact(
    folder: Path, module: nn.Module, record: Mapping[str, Any], *, kind: str, version: int
) -> None:
    """Write a module and what it is.

    Raises:
        ModelError: A number of it is not finite.
    """
    tensors = {
        name: value.detach().float().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    bad = first_not_finite(tensors.items())
    if bad is not None:
        raise ModelError(f"{folder} was not written: {bad} is not finite")
    with replacing_file(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    weights = _digest((folder / WEIGHTS).read_bytes())
    write_sealed(
        folder / CONFIG, {**record, "kind": kind, "format": version, "weights_digest": weights}
    )


def read_artifact(folder: Path, *, kind: str, version: int, made_by: str) -> Artifact:
    """Read what `save_artifact` wrote.

    Args:
        folder: Where it is.
        kind: What it must be.
        version: Format that is read.
        made_by: The command that writes one.

    Raises:
        ModelError: It is no such thing, or not whole.
        RunError: Its configuration was changed.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} is no {kind}: it has no {missing[0]}. `{made_by}` writes one.")
    record = read_sealed(folder / CONFIG)
    if record.get("kind") != kind or record.get("format") != version:
        raise ModelError(
            f"{folder / CONFIG} says {record.get('kind')!r} of format {record.get('format')!r}, "
            f"and {kind!r} of format {version} is wanted. `{made_by}` writes one."
        )
    content = (folder / WEIGHTS).read_bytes()
    digest = _digest(content)
    if digest != record.get("weights_digest"):
        raise ModelError(
            f"{folder / WEIGHTS} is not what was saved with its {CONFIG}; fit it again"
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read ({error}); fit it again") from error
    return Artifact(folder, record, tensors, digest)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
