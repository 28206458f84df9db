"""A steered reward put to texts: what is known of a user, read once, and a score for every text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cream.engines.embedder import Embedder
from cream.engines.texts import Text, TextScore
from cream.models.steered_reward import SteeredReward


@dataclass(frozen=True, slots=True)
class KnownChoices:
    """Features of the choices of one user."""

    winners: Float[Tensor, "choice feature"]
    losers: Float[Tensor, "choice feature"]
    unread: int
    """Choices left out, because a completion of theirs has no embedding."""


def read_choices(
    module: SteeredReward, embedder: Embedder, choices: Sequence[tuple[Text, Text]]
) -> KnownChoices:
    """Features of winners and losers; a text that occurs twice is read once."""
    texts = {text.text_id: text for pair in choices for text in pair}
    vectors = {e.text_id: e.vector for e in embedder.embed(list(texts.values()))}
    sides = [(vectors[winner.text_id], vectors[loser.text_id]) for winner, loser in choices]
    read = [(w, n) for w, n in sides if w is not None and n is not None]
    found = np.array(read, dtype=np.float32).reshape(len(read), 2, len(module.mean))
    with torch.no_grad():
        features = module.features(torch.from_numpy(found))
    return KnownChoices(features[:, 0], features[:, 1], len(sides) - len(read))


class SteeredScorer:
    """A `TextScorer`: the reward of a text for the user of a context.

    Args:
        module: The reward.
        embedder: Embeddings of the model that the reward was fitted on.
        context: Winner and loser of each of the user's choices; empty: nobody is known.
    """

    def __init__(
        self, module: SteeredReward, embedder: Embedder, context: Sequence[tuple[Text, Text]]
    ) -> None:
        self._module, self._embedder = module, embedder
        with torch.no_grad():
            known = read_choices(module, embedder, context)
            self._latent = module.told(known.winners, known.losers)

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield one score per text; absent where the text has no embedding.

        Raises:
            ModelError: The template refuses a prompt.
        """
        for found in self._embedder.embed(texts):
            if found.vector is None:
                yield TextScore(found.text_id, None, found.reason, 0)
                continue
            with torch.no_grad():
                features = self._module.features(torch.from_numpy(found.vector)[None])
                value = self._module.score(features, self._latent).item()
            yield TextScore(found.text_id, value, None, 1)
