"""The objective of SCIR: unlabelled pairs before two judges of one model (arXiv 2502.08922)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from cream.recipe.likelihood import AddingSection, ObjectiveSection

if TYPE_CHECKING:
    from cream.algorithms.objective import Objective
    from cream.types import AddedTokens


class Scir(ObjectiveSection, AddingSection):
    """Two judges of one model pulled together, and DPO where they agree (arXiv 2502.08922).

    Trains on pairs without a label (``pairing.rule: random``).
    """

    key: ClassVar[str] = "scir"
    nll: ClassVar[None] = None
    optimism: ClassVar[None] = None

    name: Literal["scir"] = "scir"
    beta: float = Field(default=0.1, gt=0)
    """Strength of the loss reference, > 0."""
    reward_beta: float = Field(default=0.1, gt=0)
    """Scale of the implicit judge's log-ratio against M0, > 0."""
    consistency_weight: float = Field(default=1.0, ge=0)
    """lambda, weight of the consistency between the judges, >= 0; 0 leaves the agreement filter."""
    preference_weight: float = Field(default=1.0, ge=0)
    """Weight of DPO on what both judges prefer, >= 0; 0 leaves consistency alone."""
    entropy_weight: float = Field(default=0.1, ge=0)
    """gamma, weight of the judges' entropies, >= 0."""
    entropy_cap: float = Field(default=0.95, gt=0.5, lt=1)
    """Probability beyond which the entropy no longer pulls, in (1/2, 1)."""
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    """delta: least distance of either judge from 1/2 for a pair to be labelled, in [0, 1/2)."""
    judge_temperature: float = Field(default=1.0, gt=0)
    """T_j: what the verdict's log-odds are divided by, > 0. The divergence pulls the larger of the
    two scales down."""
    label_mass: float = Field(default=0.5, ge=0, le=1)
    """Probability of the two labels, in the worse order, below which a pair has no judge."""
    gradient: Literal["both", "implicit", "judge"] = "both"
    """Which judge the consistency moves."""
    labels: Literal["agreed", "judge"] = "agreed"
    """What orders a pair: both judges where they agree, or the verdict alone (SRLM with a pairwise
    judge)."""
    frozen_labels: bool = False
    """Take the labels of the policy at the start, and report how many have turned since; costs one
    more forward pass over the pairs."""

    @model_validator(mode="after")
    def _does_something(self) -> Scir:
        if self.consistency_weight == self.preference_weight == 0:
            raise ValueError("consistency_weight and preference_weight are both 0: nothing trains")
        return self

    @property
    def trains_chosen_alone(self) -> bool:
        """See `ObjectiveSection`."""
        return False

    @property
    def orders_pairs(self) -> bool:
        """See `ObjectiveSection`."""
        return False

    @property
    def additions(self) -> tuple[AddingSection, ...]:
        """See `ObjectiveSection`."""
        return (self,)

    @property
    def added_tokens(self) -> AddedTokens:
        """See `AddingSection`: in either order the question with prompt and both answers."""
        from cream.types import AddedTokens

        return AddedTokens(prompts=2.0, completions=4.0, verdicts=2.0)

    def build(self) -> Objective:
        """See `ObjectiveSection`."""
        from cream.algorithms.scir import scir

        return scir(
            self.model_dump_json(),
            beta=self.beta,
            reward_beta=self.reward_beta,
            consistency_weight=self.consistency_weight,
            preference_weight=self.preference_weight,
            entropy_weight=self.entropy_weight,
            entropy_cap=self.entropy_cap,
            margin=self.margin,
            temperature=self.judge_temperature,
            label_mass=self.label_mass,
            gradient=self.gradient,
            frozen_labels=self.frozen_labels,
            all_judged=self.labels == "judge",
        )
