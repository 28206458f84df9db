"""A reward of every token as a linear map of a model's last hidden states, on the disk.

    DIR/config.json           which model it reads, by fingerprint, and how it was trained
    DIR/weights.safetensors   weight, shift, size, level

The reward of token t is read off the state after it. Loading is strict
(`cream.models.artifacts`), and another model than the one it was trained on is refused.

Source: the token reward model of Xu et al., arXiv 2406.02756, on frozen states.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cream.algorithms.token_rewards import graded
from cream.errors import ModelError
from cream.models.artifacts import CONFIG, read_artifact, save_artifact

KIND, FORMAT = "token_head", 1
MADE_BY = "cream run"


class TokenHead(nn.Module):
    """``r_t = f(w . (h_t - shift) / size) - level``, f the identity or `graded`.

    Args:
        hidden_size: Width of the states.
        graded: Whether rewards are 2 p - 1 of the map as a logit.
    """

    def __init__(self, hidden_size: int, *, graded: bool) -> None:
        super().__init__()
        self.graded = graded
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.shift: Tensor
        self.size: Tensor
        self.level: Tensor
        self.register_buffer("shift", torch.zeros(hidden_size))
        self.register_buffer("size", torch.ones(hidden_size))
        self.register_buffer("level", torch.zeros(()))

    def trained_on(self, states: Float[Tensor, "*token hidden"]) -> Float[Tensor, "*token"]:
        """What losses are taken of: the map itself."""
        return ((states - self.shift) / self.size) @ self.weight

    def forward(self, states: Float[Tensor, "*token hidden"]) -> Float[Tensor, "*token"]:
        """Rewards of the tokens that the states come after."""
        found = self.trained_on(states)
        return (graded(found) if self.graded else found) - self.level


def save_token_head(
    folder: Path, head: TokenHead, *, fingerprint: str, what: Mapping[str, Any]
) -> None:
    """Write a head.

    Args:
        folder: Where to.
        head: The head.
        fingerprint: Of the model whose states it reads.
        what: JSON values that tell how it was trained.

    Raises:
        ModelError: A number of it is not finite.
    """
    record = {
        "hidden_size": len(head.weight),
        "graded": head.graded,
        "model_fingerprint": fingerprint,
        "trained": dict(what),
    }
    save_artifact(folder, head, record, kind=KIND, version=FORMAT)


def load_token_head(folder: Path, *, fingerprint: str) -> TokenHead:
    """Read a head.

    Args:
        folder: What `save_token_head` wrote.
        fingerprint: Of the model whose states it is to read.

    Raises:
        ModelError: It is none, was changed, or reads another model.
        RunError: Its configuration was changed.
    """
    found = read_artifact(folder, kind=KIND, version=FORMAT, made_by=MADE_BY)
    if found.record["model_fingerprint"] != fingerprint:
        raise ModelError(
            f"{folder / CONFIG}: the head was trained on the states of another model; fit it again"
        )
    head = TokenHead(found.record["hidden_size"], graded=found.record["graded"])
    found.fill(head)
    return head.eval()
