"""Self-certainty: how far a model's next-token distributions are from uniform, along a completion.

Read off the logits in the pass that would give log-probabilities (`cream.engines.scorer`); what
token was sampled plays no part.

Source: Kang et al., arXiv 2502.18581; as the reward of Intuitor, arXiv 2505.19590 eq. 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cream.engines.batching import Say
from cream.engines.logsumexp import log_normalisers
from cream.engines.scorer import TorchScorer
from cream.types import ScoringRequest


def token_certainty(
    logits: Float[Tensor, "row vocab"],
    rows: Int64[Tensor, " judged"],
    targets: Int64[Tensor, " judged"],
) -> Float32[Tensor, " judged"]:
    """``KL(uniform || p) = logsumexp(z) - mean(z) - log V`` of each row: 0 if p is uniform, nats.

    The mean is over the whole vocabulary in float32; padding ids of the embedding are part of it,
    as in the published code.
    """
    certainty = log_normalisers(logits) - logits.float().mean(-1) - math.log(logits.shape[-1])
    return certainty[rows]


class SelfCertainty:
    """The mean over a completion's tokens of `token_certainty` under one model.

    Args:
        model: Causal language model in eval mode, on one device.
        token_budget: Tokens per forward.
        say: Told when memory does not hold so many.
    """

    def __init__(self, model: Any, *, token_budget: int, say: Say | None = None) -> None:
        self._scorer = TorchScorer(
            model, token_budget=token_budget, say=say, reading=token_certainty
        )

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[tuple[str, list[float]]]:
        """Prompt id, and nats per token of each of its completions, in any order of prompts."""
        for group in self._scorer.score(requests):
            means = [float(np.mean(values, dtype=np.float64)) for values in group.token_logps]
            yield group.prompt_id, means
