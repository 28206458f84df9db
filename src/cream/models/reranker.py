"""A trained reranker on the disk: two float32 heads, and a folder of the model if it was adapted.

    DIR/config.json           what it reads (`RerankerConfig`), which model, by fingerprint
    DIR/weights.safetensors   list.weight, list.bias, point.weight, point.bias
    DIR/model/                the model with its adapters merged, where there were any

Loading is strict (`cream.models.artifacts`), and another model than the one the heads were trained
on is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cream.models.artifacts import WEIGHTS, read_artifact, save_artifact
from cream.recipe.load import validate_section
from cream.recipe.reranking import RerankerConfig

MODEL = "model"
KIND, FORMAT = "reranker", 1


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
    return (folder / WEIGHTS).exists()


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
    record = {
        "hidden_size": heads.list.in_features,
        "model_fingerprint": fingerprint,
        "config": config.model_dump(mode="json"),
        "trained": what,
    }
    save_artifact(folder, heads, record, kind=KIND, version=FORMAT)


def load_reranker(folder: Path) -> Reranker:
    """Read heads and configuration.

    Raises:
        ModelError: It is none, or was changed.
        RunError: Its configuration was changed.
    """
    found = read_artifact(folder, kind=KIND, version=FORMAT, made_by="cream rerank fit")
    config = validate_section(found.record["config"], RerankerConfig, source=str(folder))
    heads = Heads(found.record["hidden_size"])
    found.fill(heads)
    adapted = folder / MODEL
    return Reranker(
        config,
        found.record["model_fingerprint"],
        heads.eval(),
        found.fingerprint,
        adapted if adapted.exists() else None,
    )
