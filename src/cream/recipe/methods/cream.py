"""CREAM: self-rewarding whose pairs are trusted as far as two rankings of a group agree.

Source: Wang et al., arXiv 2410.12735. J is the ranking by M_t, K by M_{t-1}; C is the mean of
(tau + 1) / 2 over prompts; the loss is C * DPO(chosen > rejected) + (1 - C) * DPO(reversed).
The methods differ in what C is a property of (the set, the prompt, the pair) and in whose K is.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.errors import RecipeError
from cream.recipe.columns import LISTWISE, POINTWISE
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import AgreementObjective
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst, PairingConfig, RewardPairing
from cream.recipe.parts import (
    AGAINST_SHARED,
    Agreement,
    BelowHalf,
    Compare,
    Level,
    LogpQuantity,
    MethodParts,
    PairFilter,
    ScoreQuantity,
    Statistic,
    TwoGaussian,
    Unit,
)
from cream.recipe.reranking import RerankerSource
from cream.recipe.witness import (
    PreviousModel,
    WitnessChoice,
    compared_rankings,
    opposed,
)


class WitnessedMethod(MethodSection):
    """What the methods have in common that compare M_t with a witness of one's choice."""

    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs. The paper uses ``implicit``."""
    witness: WitnessChoice = PreviousModel()
    """Whose ranking is compared with that of M_t. The paper asks M_{t-1}."""
    compare: Compare = "like_for_like"
    """Which rankings are compared where the witness is M0. ``like_for_like``: mean log-likelihoods
    of both models (M0's implicit reward is identically zero). ``reference_code``: the implicit
    reward of M_t against the mean log-likelihood of M0, which share log pi_0 with opposite signs
    and so bias tau downwards. ``implicit``: implicit rewards always, refused where it meets M0."""
    filter: PairFilter = "none"
    """``agreeing`` trains only on pairs that the witness orders the same way. The ranking that is
    compared with the witness then picks them, which matters where the witness is M0: there
    ``like_for_like`` compares mean log-likelihoods, and pairs are picked by that of M_t."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss; the reported C is never floored."""
    objective: AgreementObjective = CreamObjective()

    def _parts(
        self,
        t: int,
        level: Level | TwoGaussian,
        pairing: PairingConfig,
        statistic: Statistic = "kendall",
    ) -> MethodParts:
        first, second = compared_rankings(self.reward, t, self.compare, self.witness)
        asked_about_pairs = self.filter == "agreeing" or isinstance(level, TwoGaussian)
        if asked_about_pairs and opposed(first, second):
            raise RecipeError(
                "method.compare: reference_code asks M0's likelihood about pairs that M_t's "
                "log-ratio against M0 picked, two quantities that hold log pi_0 with opposite "
                "signs; set compare: like_for_like, filter: none, or another witness"
            )
        if statistic in AGAINST_SHARED and opposed(first, second):
            raise RecipeError(
                f"method.statistic: {statistic} takes log pi_0 out of both rankings, and under "
                "compare: reference_code one of them is log pi_0; set compare: like_for_like, "
                "statistic: kendall, or another witness"
            )
        return MethodParts(
            reward=first if asked_about_pairs else LogpQuantity(unit=self.reward, model=f"M{t}"),
            agreement=Agreement(
                first=first,
                second=second,
                statistic=statistic,
                level=level,
                below_half=self.below_half,
                filter=self.filter,
            ),
            pairing=pairing,
            objective=self.objective,
        )


class CreamMethod(WitnessedMethod):
    """CREAM (arXiv 2410.12735): pairs are trusted as far as rankings of successive models agree."""

    name: Literal["cream"] = "cream"
    level: Literal["set", "sample", "shrunken"] = "set"
    """``set``: one C per iteration (the paper's main method); ``sample``: one per prompt;
    ``shrunken``: one per prompt, drawn to the set's as far as it is sampling noise."""
    statistic: Statistic = "kendall"
    """How two rankings of a group are compared. The paper's main choice is Kendall's tau; under it
    noise gives C = 2/3 from t = 2 on, under ``residual_kendall`` 1/2."""
    pairing: RewardPairing = BestWorst()

    @model_validator(mode="after")
    def _options_that_fit(self) -> CreamMethod:
        _refuse_set_level_action(self.objective, self.level)
        if self.level == "shrunken" and self.statistic not in ("kendall", "residual_kendall"):
            raise ValueError(
                "level: shrunken rests on the sampling noise of Kendall's tau; set statistic: "
                f"kendall or residual_kendall (it is {self.statistic}), or level: set or sample"
            )
        return self

    def parts(self, t: int) -> MethodParts:
        """The same pairs as SRLM, C where `cream.recipe.witness` says what it compares."""
        return self._parts(t, self.level, self.pairing, self.statistic)


class CreamSampleMethod(WitnessedMethod):
    """CREAM at the sample level (``dyn`` in the paper's code): each prompt has its own C."""

    name: Literal["cream_sample"] = "cream_sample"
    level: Literal["sample", "shrunken"] = "sample"
    """``sample``: C_j as measured. ``shrunken``: drawn to the mean over prompts as far as the
    spread of the C_j is sampling noise (ours)."""
    pairing: RewardPairing = BestWorst()

    @model_validator(mode="after")
    def _there_is_no_set_level(self) -> CreamSampleMethod:
        _refuse_set_level_action(self.objective, self.level)
        return self

    def parts(self, t: int) -> MethodParts:
        """C of each prompt from its own group."""
        return self._parts(t, self.level, self.pairing)


class CreamPairMethod(WitnessedMethod):
    """C is that of the pair that is trained on, not the mean over all orders of its group.

    The ranking that is compared with the witness picks the pairs, in every iteration.
    """

    name: Literal["cream_pair"] = "cream_pair"
    probability: TwoGaussian = TwoGaussian()
    """Where C of a pair comes from."""
    statistic: Literal["kendall", "residual_kendall"] = "kendall"
    """tau of the two raters. ``residual_kendall`` leaves out the log pi_0 that they share."""
    filter: PairFilter = "agreeing"
    """``agreeing`` trains only on pairs that the witness orders the same way."""
    pairing: BestWorst = BestWorst()
    """Best against worst: the pair that the probability is about."""

    @model_validator(mode="after")
    def _there_is_no_set_level(self) -> CreamPairMethod:
        _refuse_set_level_action(self.objective, "pair")
        return self

    def parts(self, t: int) -> MethodParts:
        """C of the trained pair."""
        return self._parts(t, self.probability, self.pairing, self.statistic)


class CreamReferenceMethod(MethodSection):
    """CREAM as its authors' code decides it (commit de1d04b), as far as that can be had.

    At t = 1 the implicit reward of M1 is compared with the mean likelihood of M0; equal values are
    ranked by their place in the list and copies count; truncated completions are paired; a C below
    1/2 is used as it is. What still differs is listed in ``docs/methods/cream_reference.md``.
    """

    name: Literal["cream_reference"] = "cream_reference"
    level: Literal["set", "sample"] = "set"
    """``set`` is ``avg`` in that code, ``sample`` is ``dyn``."""
    objective: CreamObjective = CreamObjective()
    """``set_level_action`` left out is ``train`` at either level, as in that code."""

    @model_validator(mode="after")
    def _set_level_action_needs_a_set_level(self) -> CreamReferenceMethod:
        _refuse_set_level_action(self.objective, self.level)
        return self

    def parts(self, t: int) -> MethodParts:
        """The rules of that code."""
        first, second = compared_rankings("implicit", t, "reference_code")
        return MethodParts(
            reward=LogpQuantity(unit="implicit", model=f"M{t}"),
            agreement=Agreement(
                first=first,
                second=second,
                statistic="kendall_by_position",
                level=self.level,
                below_half="allow",
            ),
            pairing=BestWorst(truncated="keep"),
            objective=self.objective.model_copy(
                update={"set_level_action": self.objective.set_level_action or "train"}
            ),
        )


class CreamViewsMethod(MethodSection):
    """C from two views of one reranker: a completion among the others, and by itself (ours)."""

    name: Literal["cream_views"] = "cream_views"
    reranker: RerankerSource = RerankerSource()
    """What scores the completions of a prompt, in one pass."""
    level: Literal["set", "sample", "shrunken"] = "set"
    """As in ``cream``."""
    filter: PairFilter = "none"
    """``agreeing`` trains only on pairs that the point view orders the same way."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss."""
    pairing: RewardPairing = BestWorst()
    objective: AgreementObjective = CreamObjective()

    @model_validator(mode="after")
    def _options_that_fit(self) -> CreamViewsMethod:
        _refuse_set_level_action(self.objective, self.level)
        return self

    @property
    def scorer(self) -> RerankerSource:
        """The reranker."""
        return self.reranker

    @property
    def scorer_section(self) -> str:
        """Where its settings stand."""
        return "method.reranker"

    def parts(self, t: int) -> MethodParts:
        """Pairs by the list view, C from its agreement with the point view."""
        listwise, pointwise = ScoreQuantity(column=LISTWISE), ScoreQuantity(column=POINTWISE)
        return MethodParts(
            reward=listwise,
            agreement=Agreement(
                first=listwise,
                second=pointwise,
                **self.model_dump(include={"level", "below_half", "filter"}),
            ),
            pairing=self.pairing,
            objective=self.objective,
        )


METHODS = (
    CreamMethod,
    CreamSampleMethod,
    CreamPairMethod,
    CreamReferenceMethod,
    CreamViewsMethod,
)


def _refuse_set_level_action(objective: AgreementObjective, level: str) -> None:
    """Refuse an action on one C for the whole set where there is none."""
    if not isinstance(objective, CreamObjective) or objective.set_level_action in (None, "train"):
        return
    if level != "set":
        raise ValueError(
            f"objective.set_level_action: {objective.set_level_action} acts on one C for the whole "
            f"set, and level is {level}; set level: set, or set_level_action: train"
        )
