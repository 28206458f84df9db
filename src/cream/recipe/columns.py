"""Names of the columns of a score matrix that hold no log-probabilities."""

from __future__ import annotations

VERIFIER = "verifier"
"""Score column: 1 right, 0 wrong. Every run has it, since reports say how many pairs are right."""
JUDGE = "judge"
"""Score column: what the method's judge gives a completion."""
REWARD_MODEL = "reward_model"
"""Score column: what the method's reward model gives a completion."""
STEER = "steer"
"""Score column: what a reward steered by one user's choices gives a completion."""
VERDICT = "verdict"
"""Score column: how probable M_t, or M0, holds it that a completion is better than another of its
group, asked for one letter; see ``scoring.verdicts``."""
FROM_DATA = "from_data"
"""Score column of groups that hold completions of a data set: 1 for them, 0 for the policy's."""
EDITED = "edited"
"""Score column of groups that hold edits: 1 for an edited completion, 0 for a sampled one."""
SELF_CERTAINTY = "self_certainty"
"""Score column: how far M_t's next-token distributions are from uniform (arXiv 2502.18581)."""
LISTWISE = "listwise"
"""Score column: what the method's reranker gives a completion that has seen the others."""
POINTWISE = "pointwise"
"""Score column: what the method's reranker gives a completion by itself."""
LABELS = "labels"
"""Column of token rewards: -1 for a token that an edit replaced, 1 for a new one, else 0."""
IMPLICIT = "implicit"
"""Column of token rewards: log-ratio of M_t against M0, nats."""
HEAD = "head"
"""Column of token rewards: those of a head on M0's states, trained on the iteration's edits."""
TOKEN_REWARDS = (HEAD, LABELS, IMPLICIT)
"""Score columns that are sums of token rewards, which stand beside them (`token_column`). Of those
that a run has, texts are coloured by the first."""
LAST_ANSWER = "last_answer"
"""Score column: +1 if the last answer of a trajectory is right, -1 if not (arXiv 2502.12853). The
stage that fills it keeps the actions."""
OF_COMPLETIONS = (
    VERIFIER,
    JUDGE,
    REWARD_MODEL,
    STEER,
    VERDICT,
    FROM_DATA,
    EDITED,
    SELF_CERTAINTY,
    LISTWISE,
    POINTWISE,
)
BUILT_IN_COLUMNS = (*OF_COMPLETIONS, LAST_ANSWER, *TOKEN_REWARDS)
"""Score columns whose names nothing else can take."""
FILLED_WITH = {POINTWISE: LISTWISE}
"""Score columns that the stage of another column fills."""
EXTRACTED = "extracted"
"""Label column: the answer found in a completion."""
EDIT_OF = "edit_of"
"""Label column: id of the original, for the original and for its edit; absent elsewhere."""
EDIT_OUTCOME = "edit_outcome"
"""Column of texts: what became of a sampled completion that might have been edited."""
OF_TOKENS = "token_logps"
"""Column of lists: log-probabilities of a completion's tokens, nats."""
TOUCHED = "touched"
"""Column of lists of an original and its edit: which tokens were replaced, or are new."""


def answer_column(witness: str) -> str:
    """Score column: 1 for completions that are a witness' own greedy answer, 0 for others."""
    return f"answer_{witness}"


def token_column(reward: str) -> str:
    """Column of lists beside a token reward's sums: entry t judges token t."""
    return f"{reward}_tokens"


def ends_column(reward: str) -> str:
    """Column of lists beside it: where each token ends in the text, in characters."""
    return f"{reward}_ends"
