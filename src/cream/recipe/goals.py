"""Goals: scores told to the policy in its prompt (reward-augmented data, arXiv 2410.08067)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from cream.recipe.base import Section, usual

if TYPE_CHECKING:
    from cream.types import Goal

PLACEHOLDER = "{goal}"
Score = Annotated[int, Field(ge=1, le=10)]
"""A goal as it is told."""


class QuantileScale(Section):
    """Scores of the iteration's pairs by rank, so that a drift of the scores does not matter."""

    kind: Literal["quantile"] = "quantile"


class GivenScale(Section):
    """Scores of a known range, drawn linearly to 1 to 10."""

    kind: Literal["given"]
    lowest: float
    """Score that is told as 1."""
    highest: float
    """Score that is told as 10; a score out of the range stops the run."""

    @model_validator(mode="after")
    def _is_a_range(self) -> GivenScale:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) is not below highest ({self.highest:g})")
        return self


GoalScale = Annotated[
    Annotated[QuantileScale | GivenScale, Field(discriminator="kind")], usual("kind", "quantile")
]
"""``kind`` left out is ``quantile``."""


class Goals(Section):
    """How scores become goals, how goals are told, and where."""

    text: str = (
        "Answer so that your answer would be given an overall score of {goal} on a scale of 1 to "
        "10, where 1 is the lowest."
    )
    """What the policy is told; ``{goal}`` becomes a whole number from 1 to 10. The paper's text
    says the same in other words."""
    place: Literal["system", "user"] = "system"
    """``system``: in the system message, which a template may refuse. ``user``: before the first
    user message, with a blank line between (three of the paper's four recipes)."""
    scale: GoalScale = QuantileScale()
    """How a score becomes a number from 1 to 10. The paper's scores are on that scale already."""
    min_gap: int = Field(default=1, ge=1, le=9)
    """Smallest difference of the two goals of a pair, as they are told. Equal goals would ask for
    both orders under one text."""
    rows: Literal["both", "high"] = "both"
    """``high``: only the row under the high goal, which is DPO with a longer prompt. A control."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the pairs that are told goals, in [0, 1]; the others train under the plain prompt
    (the paper's ``half``: 0.5). 0 is plain DPO, evaluated under goals: the control."""
    sample: Literal["none", "top"] = "none"
    """What M_t is told when it answers the prompts of an iteration, from t = 2 on; M1 knows no
    goals. ``top``: the goal 10, under which the answers are also scored, by every model."""
    evaluate: list[Score] = Field(default=[10])
    """Goals under which every model is evaluated, beside the evaluation without a goal."""

    @model_validator(mode="after")
    def _names_the_goal_once(self) -> Goals:
        if self.text.count(PLACEHOLDER) != 1:
            raise ValueError(
                f"text must name {PLACEHOLDER} once, where the number goes; it names it "
                f"{self.text.count(PLACEHOLDER)} times"
            )
        if len(set(self.evaluate)) != len(self.evaluate):
            raise ValueError("evaluate names a goal twice")
        if not self.share and not self.evaluate:
            raise ValueError("share 0 and no goal in evaluate: no goal would ever be told")
        return self

    def told(self, goal: int) -> Goal:
        """What the policy is told to ask for a goal."""
        from cream.types import Goal

        return Goal(self.text.replace(PLACEHOLDER, str(goal)), self.place)
