"""The models outside the loop that a method ranks by: its judge, its reward model.

Found and examined when a run is opened; loaded by their step only, and only while nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch

from cream.algorithms.judging import comparison_prompt, judge_prompt
from cream.engines.checkpoints import Checkpoints
from cream.models.chat import ChatEncoder
from cream.models.conversations import ConversationEncoder
from cream.models.loading import (
    load_reward_model,
)
from cream.recipe.scorers import JudgeConfig, PairwiseJudgeConfig


@dataclass(frozen=True, slots=True)
class ExternalJudge:
    """A judge that is no model of the run; its weights are M0 of checkpoints of its own."""

    checkpoints: Checkpoints
    encoder: ChatEncoder
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ExternalRewardModel:
    """A reward model that has been examined and not loaded."""

    folder: Path
    encoder: ConversationEncoder
    fingerprint: str
    context_length: int | None
    device: torch.device
    compute_dtype: torch.dtype
    trust_remote_code: bool

    def load(self) -> Any:
        """Load the weights."""
        return load_reward_model(
            self.folder,
            dtype=self.compute_dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True, slots=True)
class ScorerModels:
    """What a method needs beside the models of its run; mostly nothing."""

    judge: ExternalJudge | None = None
    """None also where a model of the run judges."""
    reward_model: ExternalRewardModel | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint per scorer, for the manifest."""
        found = {"judge": self.judge, "reward_model": self.reward_model}
        return {name: model.fingerprint for name, model in found.items() if model is not None}


def empty_question(judge: JudgeConfig | PairwiseJudgeConfig) -> str:
    """What a judge is asked, without prompt and responses."""
    match judge:
        case JudgeConfig():
            return judge_prompt("", "")
        case PairwiseJudgeConfig():
            return comparison_prompt("", "", "")
        case _:
            assert_never(judge)
