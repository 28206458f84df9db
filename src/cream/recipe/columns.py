"""Names of the columns of a score matrix that hold no log-probabilities."""

from __future__ import annotations

VERIFIER = "verifier"
"""Score column: 1 right, 0 wrong. Every run has it, since reports say how many pairs are right."""
JUDGE = "judge"
"""Score column: what the method's judge gives a completion."""
REWARD_MODEL = "reward_model"
"""Score column: what the method's reward model gives a completion."""
VERDICT = "verdict"
"""Score column: how probable M_t, or M0, holds it that a completion is better than another of its
group, asked for one letter; see ``scoring.verdicts``."""
FROM_DATA = "from_data"
"""Score column of groups that hold completions of a data set: 1 for them, 0 for the policy's."""
SELF_CERTAINTY = "self_certainty"
"""Score column: how far M_t's next-token distributions are from uniform (arXiv 2502.18581)."""
BUILT_IN_COLUMNS = (VERIFIER, JUDGE, REWARD_MODEL, VERDICT, FROM_DATA, SELF_CERTAINTY)
"""Score columns whose names nothing else can take."""
EXTRACTED = "extracted"
"""Label column: the answer found in a completion."""


def answer_column(witness: str) -> str:
    """Score column: 1 for completions that are a witness' own greedy answer, 0 for others."""
    return f"answer_{witness}"
