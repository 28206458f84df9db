"""The stages of a run before they are made: what each is called, and how much work it is.

Counts only. What they cost on a machine is found out elsewhere (`cream.inspect.plan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StageKind = Literal[
    "evaluate", "fine_tune", "sample", "score", "text_score", "bookkeeping", "train"
]
"""``text_score``: a judge or a reward model reads completions. ``bookkeeping``: no model runs."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a run."""

    name: str
    """Its folder in the run, as in ``iteration-1/sample``."""
    label: str
    """The same in words, as progress shows it."""
    kind: StageKind
    source: str
    """Which prompts it works on, a key of the run's token counts."""
    prompts: int
    """How many of them; seed examples of ``fine_tune``."""
    completions: int
    """Completions drawn, read or trained on; of ``train`` the most there can be."""
    model: str | None = None
    """The model of the run that is loaded; of a training, the one it starts from."""
    max_completion_tokens: int | None = None
    """Limit of what is drawn."""
    epochs: int = 1


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How long prompts and completions are, on average."""

    prompt: float
    """Tokens of a prompt, template included."""
    completion: float | None
    """Tokens of a completion that the data have for it; None if they have none."""
