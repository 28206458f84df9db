"""The parts a method is made of, as plain declarations: quantities, agreement, pairing.

A method (see `cream.methods`) turns its options and an iteration number into `MethodParts`; the
stage `pair` computes them from the score matrix. Nothing here runs anything.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.objectives import ObjectiveConfig

Unit = Literal["implicit", "implicit_per_token", "likelihood", "mean_likelihood"]
"""``implicit``: log pi - log pi_M0, token sum, nats (the paper's reward, no beta).
``implicit_per_token``: the same divided by the number of completion tokens.
``likelihood`` / ``mean_likelihood``: log pi, token sum / per token."""

Statistic = Literal["kendall", "spearman", "weighted_tau", "top_order"]
"""How two rankings of one group are compared. The first three are correlations in [-1, 1], of which
C = (x + 1) / 2; ``top_order`` is a rate in [0, 1] already. Kendall is the paper's choice."""

Compare = Literal["like_for_like", "reference_code"]
"""What C compares at t = 1, where M0's implicit reward is identically zero."""

BelowHalf = Literal["floor", "allow", "drop"]
"""What happens to a C below 1/2, which is outside the theory (it would train on reversed pairs):
raise it to 1/2, use it as it is, or drop the pairs it would apply to."""


class LogpQuantity(Section):
    """A number per completion, computed from log-probability columns of the score matrix."""

    kind: Literal["logp"] = "logp"
    unit: Unit
    model: str
    """Column of the model, ``M0``, ``M1``, ..."""
    reference: str = "M0"
    """Column subtracted by the implicit units. The paper rewards against M0 throughout."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Log-probability columns this quantity reads."""
        return (self.model, self.reference) if self.unit.startswith("implicit") else (self.model,)

    def __str__(self) -> str:
        return f"{self.unit}({self.model})"


class ScoreQuantity(Section):
    """A number per completion, read from a score column (``verifier``, ``judge``, ...)."""

    kind: Literal["score"] = "score"
    column: str

    def __str__(self) -> str:
        return self.column


Quantity = Annotated[LogpQuantity | ScoreQuantity, Field(discriminator="kind")]


class Agreement(Section):
    """Which two rankings are compared, how, and how the result enters the loss."""

    first: Quantity
    second: Quantity
    statistic: Statistic = "kendall"
    level: Literal["set", "sample"] = "set"
    """``set``: one C, the mean over prompts, for all pairs. ``sample``: each prompt its own."""
    below_half: BelowHalf = "floor"


class BestWorst(Section):
    """Chosen is the best completion of the group, rejected the worst (the paper's rule)."""

    rule: Literal["best_worst"] = "best_worst"
    min_gap: float = Field(default=0.0, ge=0.0)
    """Smallest difference between chosen and rejected, in the unit of the reward. Differences
    within the noise floor of scoring are ties whatever this says."""
    truncated: Literal["keep", "drop"] = "drop"
    """What to do with completions cut off at the token limit."""


class MethodParts(Section):
    """Everything iteration t of a method reads and does, with columns named."""

    reward: Quantity
    """Ranking that picks the pairs."""
    tie_break: Quantity | None = None
    """Orders completions whose rewards are equal (binary rewards)."""
    agreement: Agreement | None = None
    """None: C = 1 for every pair."""
    reported: Agreement | None = None
    """Compared for reports only, by methods that do not use C."""
    pairing: BestWorst
    objective: ObjectiveConfig

    @property
    def quantities(self) -> tuple[LogpQuantity | ScoreQuantity, ...]:
        """All quantities the pair stage computes."""
        agreement = (self.agreement.first, self.agreement.second) if self.agreement else ()
        tie_break = (self.tie_break,) if self.tie_break else ()
        return (self.reward, *tie_break, *agreement)

    @property
    def logp_columns(self) -> tuple[str, ...]:
        """Models whose log-probabilities are needed, each once, in order of first use."""
        logps = [q for q in self.quantities if isinstance(q, LogpQuantity)]
        return tuple(dict.fromkeys(column for q in logps for column in q.columns))

    @property
    def reported_columns(self) -> tuple[str, ...]:
        """Models needed only for what is reported."""
        if self.reported is None:
            return ()
        logps = [q for q in (self.reported.first, self.reported.second) if q.kind == "logp"]
        return tuple(dict.fromkeys(column for q in logps for column in q.columns))

    @property
    def score_columns(self) -> tuple[str, ...]:
        """Score columns that are needed, each once."""
        scores = [q for q in self.quantities if isinstance(q, ScoreQuantity)]
        return tuple(dict.fromkeys(q.column for q in scores))
