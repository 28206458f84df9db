"""Policy gradient in a recipe: how rewards become advantages, and the objective they weigh.

The formulas are in `cream.algorithms.advantages` and `cream.algorithms.policy_gradient`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cream.errors import RecipeError
from cream.recipe.base import Section
from cream.recipe.likelihood import ObjectiveSection
from cream.recipe.pairing import PairingConfig, Penalise

if TYPE_CHECKING:
    from cream.algorithms.objective import Objective


class RewardKl(Section):
    """A divergence from the loss reference that is paid by the samples, without a gradient."""

    place: Literal["reward", "advantage"]
    """``reward``: taken off before the baseline, so that the group's mean divergence costs nothing.
    ``advantage``: taken off after it, so that it costs what it is (S2R's code)."""
    beta: float = Field(gt=0)
    """Factor, > 0, on the sum over a completion's tokens, nats: another scale than in the loss."""
    estimator: Literal["k1"] = "k1"
    """``log pi - log ref``, summed over the completion."""

    @model_validator(mode="before")
    @classmethod
    def _only_sums_are_stored(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("estimator", "k1") != "k1":
            raise ValueError(
                f"estimator {values['estimator']} is of single tokens and the score matrix holds "
                "sums of log-probabilities; off the reward, k1 is the unbiased one"
            )
        return values


class LossKl(Section):
    """A divergence from the loss reference as a term of the loss, with its gradient."""

    beta: float = Field(gt=0)
    """Factor, > 0, on the mean over a completion's tokens, nats per token."""
    estimator: Literal["k2", "k3"] = "k3"
    """``k3`` is never negative and unbiased as a value (GRPO); ``k2`` has, on average, the gradient
    of KL(pi || ref)."""

    @model_validator(mode="before")
    @classmethod
    def _k1_has_no_gradient(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("estimator") == "k1":
            raise ValueError(
                "estimator k1 has, on average, no gradient, so in the loss it would do nothing but "
                "add noise; take k2 or k3, or take it off the reward (method.advantage.kl)"
            )
        return values


class Advantage(Section):
    """Every sample of a group is trained on, with its reward against the others' as a factor."""

    truncated: Literal["keep", "drop"] | Penalise = "keep"
    """What to do with completions cut off at the token limit: take them like others, leave them
    out of the baseline too, or lower their reward (``{penalty: 1.0}``)."""
    baseline: Literal["leave_one_out", "group_mean", "none"] = "leave_one_out"
    """What is taken off a reward: the mean of the other samples, of all samples, or nothing."""
    scale: Literal["none", "group_std"] = "none"
    """``group_std`` divides by the sample standard deviation of the group's rewards (GRPO)."""
    without_variance: Literal["drop", "keep"] = "drop"
    """Groups whose rewards are all alike: left out, or kept in the mean of a step, where they pull
    by a divergence alone."""
    kl: RewardKl | None = None
    """Divergence taken off rewards or advantages."""

    @model_validator(mode="after")
    def _a_kept_group_can_be_scaled(self) -> Advantage:
        if self.baseline == "none" and self.without_variance == "drop":
            raise ValueError(
                "without a baseline a group of equal rewards is trained on like any other; set "
                "without_variance: keep"
            )
        if self.scale == "group_std" and self.without_variance == "keep":
            raise ValueError(
                "scale: group_std divides by zero where all rewards are alike; set "
                "without_variance: drop"
            )
        return self


class TokenKl(Section):
    """A divergence from the loss reference that is paid token by token, without a gradient."""

    place: ClassVar[Literal["reward"]] = "reward"
    beta: float = Field(gt=0)
    """Factor, > 0, on ``log pi - log ref`` of each token, nats (k1, of either sign)."""


class TokenAdvantage(Section):
    """Every token of a sample has an advantage of its own, made of a reward of every token."""

    scale: ClassVar[Literal["none"]] = "none"
    without_variance: ClassVar[Literal["keep"]] = "keep"

    truncated: Literal["keep", "drop"] = "keep"
    """What to do with completions cut off at the token limit: take them like others, or not."""
    baseline: Literal["none", "leave_one_out"] = "none"
    """What is taken off what is still to come at a token: nothing, or its mean at the same place of
    the prompt's other samples (0 where they have ended)."""
    discount: float = Field(default=0.0, ge=0, le=1)
    """gamma: how far a token answers for the rewards after it. 0: not at all; 1: for all of them
    (AlpacaFarm and TLCR)."""
    decay: float = Field(default=1.0, ge=0, le=1)
    """lambda of generalised advantages, on top of gamma, with V = 0. TLCR: 0.95."""
    clip: float | None = Field(default=None, gt=0)
    """Rewards are held in [-clip, clip] before the divergence; null: not. TLCR: 5."""
    whiten: bool = False
    """Whether all advantages of an iteration are brought to mean 0 and deviation 1 (PPO)."""
    kl: TokenKl | None = None
    """Divergence taken off the rewards."""


GroupRule = PairingConfig | Advantage | TokenAdvantage
"""What is said of a group of completions: how pairs are made of them, or how they are weighed."""


def refuse_silent_divergence(rule: Advantage | TokenAdvantage | None, loss_reference: str) -> None:
    """A divergence of the policy from itself is zero at every sample.

    Raises:
        RecipeError: That would be taken off rewards or advantages.
    """
    if rule and rule.kl and loss_reference == "policy_at_start":
        raise RecipeError(
            f"method.advantage.kl takes a divergence from the loss reference off the "
            f"{rule.kl.place}, and training.loss_reference: policy_at_start is the policy that "
            "sampled, so it would be zero; set it to sft or seed"
        )


class PolicyGradient(ObjectiveSection):
    """The clipped surrogate over all samples of a prompt, its mean over samples, then prompts."""

    name: Literal["policy_gradient"] = "policy_gradient"
    optimism: ClassVar[None] = None
    ratio: Literal["product", "geometric", "token"] = "product"
    """What of pi / pi_start is clipped: that of the whole completion (its exact importance weight),
    its T-th root (T tokens; S2R's code, GSPO), or each token's own (GRPO). The last two have 1 / T
    of the first one's gradient."""
    clip: float | None = Field(default=0.2, gt=0, lt=1)
    """Distance from 1 at which the ratio stops pulling, in (0, 1); null: never. It acts from the
    second step on."""
    kl: LossKl | None = None
    """Divergence from the loss reference in the loss."""

    @property
    def trains_chosen_alone(self) -> bool:
        """See `ObjectiveSection`; it has no chosen completion."""
        return False

    def build_for(
        self, num_completions: int, *, reads_reference: bool, per_action: bool = False
    ) -> Objective:
        """The objective over so many samples per prompt.

        Args:
            num_completions: The most that a prompt has.
            reads_reference: Whether the loss reference is another model than the policy at the
                start, so that examples bring its token log-probabilities.
            per_action: Whether examples say which action of a completion a token is part of.
        """
        from cream.algorithms import policy_gradient as pg

        forms = {
            "product": pg.product_ratio,
            "geometric": pg.geometric_ratio,
            "token": pg.token_ratio,
        }
        estimators = {"k2": pg.k2, "k3": pg.k3}
        return pg.policy_gradient(
            self.model_dump_json(),
            num_completions,
            ratio=forms[self.ratio],
            clip=self.clip,
            kl=None if self.kl is None else (estimators[self.kl.estimator], self.kl.beta),
            reads_reference=reads_reference,
            per_action=per_action,
        )


class TokenRatio(PolicyGradient):
    """GRPO's objective (arXiv 2402.03300), by default without a divergence."""

    ratio: Literal["product", "geometric", "token"] = "token"
    """What of pi / pi_start is clipped; GRPO: each token's own."""
