"""A trained reranker on the disk: two float32 heads, and a folder of the model if it was adapted.

    DIR/config.json         what it reads (`RerankerConfig`), which model, by fingerprint
    DIR/heads.safetensors   list.weight, list.bias, point.weight, point.bias
    DIR/model/              the model with its adapters merged, where there were any

Loading is strict: another version, other tensors or shapes, a number that is not finite, or another
model than the one the heads were trained on is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cream.errors import ModelError
from cream.models.saving import first_not_finite
from cream.recipe.load import validate_section
from cream.recipe.reranking import RerankerConfig
from cream.runs.files import read_sealed, replacing_file, write_sealed
from cream.runs.integrity import digest

CONFIG, HEADS, MODEL = "config.json", "heads.safetensors", "model"
FORMAT = 1


class Heads(nn.Module):
    """Two linear maps of hidden states, float32: the list view and the point view.

    They begin at zero, so that an untrained head says nothing.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.list = nn.Linear(hidden_size, 1)
        self.point = nn.Linear(hidden_size, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, ends: Float[Tensor, "candidate hidden"], readouts: Float[Tensor, "candidate hidden"]
    ) -> tuple[Float[Tensor, " candidate"], Float[Tensor, " candidate"]]:
        """List and point scores."""
        return self.list(readouts)[:, 0], self.point(ends)[:, 0]


@dataclass(frozen=True, slots=True)
class Reranker:
    """What a folder holds."""

    config: RerankerConfig
    fingerprint: str
    """Of the model that the heads read, adapters merged."""
    heads: Heads
    heads_digest: str
    """Of the heads' file."""
    model_folder: Path | None
    """Of the model, where it was adapted; None: it is that of the config."""


def is_reranker(folder: Path) -> bool:
    """Whether a folder is one, whole or not."""
    return (folder / HEADS).exists()


def save_reranker(
    folder: Path, heads: Heads, config: RerankerConfig, *, fingerprint: str, what: dict[str, Any]
) -> None:
    """Write heads and configuration; a model is saved before, at ``folder / MODEL``.

    Args:
        folder: Where to.
        heads: The heads.
        config: What they read.
        fingerprint: Of the model they read.
        what: JSON values that tell how they were trained.
    """
    tensors = {n: p.detach().float().cpu().contiguous() for n, p in heads.state_dict().items()}
    bad = first_not_finite(tensors.items())
    if bad is not None:
        raise ModelError(f"the heads for {folder} were not saved: {bad} is not finite")
    with replacing_file(folder / HEADS) as temporary:
        save_file(tensors, temporary)
    record = {
        "format": FORMAT,
        "hidden_size": heads.list.in_features,
        "model_fingerprint": fingerprint,
        "config": config.model_dump(mode="json"),
        "trained": what,
    }
    write_sealed(folder / CONFIG, record)


def load_reranker(folder: Path) -> Reranker:
    """Read heads and configuration.

    Raises:
        ModelError: Something is missing, changed, of another version or shape, or not finite.
    """
    if not (folder / CONFIG).is_file() or not is_reranker(folder):
        raise ModelError(
            f"{folder} is no reranker: {CONFIG} or {HEADS} is missing. `cream rerank fit` writes "
            "one"
        )
    record = read_sealed(folder / CONFIG)
    if record.get("format") != FORMAT:
        raise ModelError(
            f"{folder / CONFIG} is of format {record.get('format')!r} and this version reads "
            f"{FORMAT}; fit the reranker again"
        )
    heads = Heads(record["hidden_size"])
    expected = {name: tuple(p.shape) for name, p in heads.state_dict().items()}
    try:
        tensors = load_file(folder / HEADS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / HEADS} cannot be read ({error}); fit it again") from error
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    floats = all(tensor.dtype == torch.float32 for tensor in tensors.values())
    if found != expected or not floats:
        raise ModelError(
            f"{folder / HEADS} holds {found}, and {folder / CONFIG} describes {expected} in "
            "float32; the two do not belong together. Fit the reranker again"
        )
    bad = first_not_finite(tensors.items())
    if bad is not None:
        raise ModelError(f"{folder / HEADS}: {bad} is not finite; fit the reranker again")
    heads.load_state_dict(tensors)
    config = validate_section(record["config"], RerankerConfig, source=str(folder / CONFIG))
    adapted = folder / MODEL
    return Reranker(
        config,
        record["model_fingerprint"],
        heads.eval(),
        digest(folder / HEADS),
        adapted if adapted.exists() else None,
    )
