"""Policy gradient on completions: no pairs, every sample weighed by its reward against the others'.

Sources: RLOO, Ahmadian et al., arXiv 2402.14740, as in the outcome level of S2R, arXiv 2502.12853;
TTRL, Zuo et al., arXiv 2504.16084; Intuitor, Zhao et al., arXiv 2505.19590. The last two are
presets of it: votes, and the policy's own certainty, as the reward.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cream.recipe.columns import JUDGE, REWARD_MODEL, SELF_CERTAINTY
from cream.recipe.methods import MethodSection
from cream.recipe.parts import Advantage, AnyQuantity, Majority, MethodParts, ScoreQuantity, Votes
from cream.recipe.policy_gradient import LossKl, PolicyGradient, TokenRatio
from cream.recipe.scorers import AnyJudge, RewardModelConfig


class GroupNormalised(Advantage):
    """GRPO's advantages (arXiv 2402.03300)."""

    baseline: Literal["leave_one_out", "group_mean", "none"] = "group_mean"
    """What is taken off a reward; GRPO takes the mean of all samples."""
    scale: Literal["none", "group_std"] = "group_std"
    """What it is divided by then; GRPO: the standard deviation of the group's rewards."""


def weighed(reward: AnyQuantity, method: RlooMethod | TtrlMethod | IntuitorMethod) -> MethodParts:
    """Advantages of all samples by the reward; the same in every iteration."""
    return MethodParts(reward=reward, advantage=method.advantage, objective=method.objective)


class RlooMethod(MethodSection):
    """REINFORCE with the other samples as the baseline, on any reward."""

    name: Literal["rloo"] = "rloo"
    reward: str = Field(default="verifier", min_length=1)
    """``verifier`` (reads the answers), ``votes`` (share of the group with the same answer),
    ``majority`` (1 for the most frequent answer), ``self_certainty``, ``judge``, ``reward_model``,
    or the score column of a scorer that is given in Python."""
    advantage: Advantage = Advantage()
    """Baseline, scale, and what is left out."""
    objective: PolicyGradient = PolicyGradient()
    """Ratio, clipping, and a divergence in the loss."""
    judge: AnyJudge | None = None
    """Who judges, with ``reward: judge``."""
    reward_model: RewardModelConfig | None = None
    """Which reward model, with ``reward: reward_model``."""

    @model_validator(mode="after")
    def _a_section_goes_with_its_reward(self) -> RlooMethod:
        for name, section in ((JUDGE, self.judge), (REWARD_MODEL, self.reward_model)):
            if section is not None and self.reward != name:
                raise ValueError(f"{name} would be ignored: the reward is {self.reward}")
            if section is None and self.reward == name:
                raise ValueError(f"reward: {name} needs the section `{name}`")
        return self

    @property
    def scorer(self) -> AnyJudge | RewardModelConfig | None:
        """The judge or the reward model, if it is the reward."""
        return self.judge or self.reward_model

    def parts(self, t: int) -> MethodParts:
        """The reward is the column of that name, or is counted from the group's answers."""
        counted: dict[str, AnyQuantity] = {"votes": Votes(), "majority": Majority()}
        return weighed(counted.get(self.reward) or ScoreQuantity(column=self.reward), self)


class TtrlMethod(MethodSection):
    """TTRL (arXiv 2504.16084): the group's most frequent answer is taken for the right one."""

    name: Literal["ttrl"] = "ttrl"
    advantage: GroupNormalised = GroupNormalised()
    """Baseline, scale, and what is left out."""
    objective: TokenRatio = TokenRatio()
    """Ratio, clipping, and a divergence in the loss."""

    def parts(self, t: int) -> MethodParts:
        """The reward is 1 for the majority answer, else 0."""
        return weighed(Majority(), self)


class IntuitorObjective(TokenRatio):
    """GRPO's objective with the paper's divergence."""

    kl: LossKl | None = LossKl(beta=0.005)
    """Divergence from ``training.loss_reference`` in the loss; the paper's is from the model before
    any training (``loss_reference: sft`` or ``seed``)."""


class IntuitorMethod(MethodSection):
    """Intuitor (arXiv 2505.19590): the policy's own certainty is the reward."""

    name: Literal["intuitor"] = "intuitor"
    advantage: GroupNormalised = GroupNormalised()
    """Baseline, scale, and what is left out."""
    objective: IntuitorObjective = IntuitorObjective()
    """Ratio, clipping, and a divergence in the loss."""

    def parts(self, t: int) -> MethodParts:
        """The reward is the mean over tokens of KL(uniform || next-token distribution)."""
        return weighed(ScoreQuantity(column=SELF_CERTAINTY), self)


METHODS = (RlooMethod, TtrlMethod, IntuitorMethod)
