"""CREAM: self-rewarding whose pairs are trusted as far as two rankings of a group agree.

Source: Wang et al., arXiv 2410.12735. J is the ranking by M_t, K by M_{t-1}; C is the mean of
(tau + 1) / 2 over prompts; the loss is C * DPO(chosen > rejected) + (1 - C) * DPO(reversed).
The methods differ in what C is a property of (the set, the prompt, the pair) and in whose K is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cream.errors import RecipeError
from cream.recipe.base import Section, usual
from cream.recipe.columns import LISTWISE, POINTWISE
from cream.recipe.methods import MethodSection
from cream.recipe.model import NonBlank
from cream.recipe.objectives import AgreementObjective, ChosenNll
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst, PairingConfig, RewardPairing
from cream.recipe.parts import (
    AGAINST_SHARED,
    Agreement,
    BelowHalf,
    Calibrated,
    Compare,
    Level,
    LogpQuantity,
    MethodParts,
    PairFilter,
    SameAnswer,
    SameAnswers,
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


class ByOrder(Section):
    """The witness is asked how it would order the pair."""

    by: Literal["order"] = "order"


class ByAnswer(Section):
    """The witness answers the prompt greedily; used are prompts whose chosen completion it gives.

    A prompt whose completions all say the same is used too, if ``pairing.unanimous`` is ``nll``.
    """

    by: Literal["answer"] = "answer"
    same: SameAnswer = "text"
    """When two completions are one answer: ``ids`` (the same tokens), ``text`` (but for case and
    spacing), ``extracted`` (by the prompt's verifier)."""
    witnesses: Literal["all", "majority"] = "all"
    """Of several witnesses all must give the answer, or more than half."""


CrossAgreement = Annotated[
    Annotated[ByOrder | ByAnswer, Field(discriminator="by")], usual("by", "order")
]
"""``agreement: answer`` is short for ``agreement: {by: answer}``."""


def _in_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


WitnessNames = Annotated[
    tuple[NonBlank, ...],
    Field(min_length=1),
    BeforeValidator(_in_a_list, json_schema_input_type=str | list[str]),
]
CrossObjective = Annotated[
    Annotated[CreamObjective | ChosenNll, Field(discriminator="name")], usual("name", "cream")
]
"""``name`` left out is ``cream``."""


class CreamCrossMethod(MethodSection):
    """CREAM whose second ranking is that of a witness: an M1 made from other seed data. Ours.

    Agreement along one path (M_t with M_{t-1}) is agreement of a model with its own past; a witness
    fine-tuned on another part of the seed data makes its own mistakes. What it is asked is the
    order of the trained pair, not the order of the whole group.
    """

    name: Literal["cream_cross"] = "cream_cross"
    witness: WitnessNames
    """Name of a model under ``witnesses``, or several of them, if they answer. ``M1`` is a control:
    a witness without seed data of its own."""
    agreement: CrossAgreement = ByOrder()
    """``order``: the witness orders the pair. ``answer``: it answers the prompt itself."""
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    witness_reward: Unit = "mean_likelihood"
    """Quantity of the (first) witness that is asked about them; under ``agreement: answer`` it is
    only reported."""
    use: Literal["filter", "smooth", "two_gaussian"] = "filter"
    """``filter``: train only on pairs that the witness orders alike, and fully (C = 1).
    ``smooth``: on all pairs, with one C where the witness agrees and one where it does not, counted
    on the seed examples held out by ``calibration``. ``two_gaussian``: on all pairs, each with the
    C of two Gaussian raters whose rankings of its prompt agree as the two do."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 if ``use`` is not ``filter``."""
    pairing: RewardPairing = BestWorst()
    objective: CrossObjective = CreamObjective()

    @model_validator(mode="after")
    def _options_that_act(self) -> CreamCrossMethod:
        if self.agreement.by == "order" and len(self.witness) > 1:
            raise ValueError(
                "several witnesses answer (agreement: answer); of an order one is asked: name one"
            )
        if self.agreement.by == "answer" and self.use != "filter":
            raise ValueError(
                f"use: {self.use} is a C for an order; under agreement: answer a prompt is used or "
                "not, so leave use at filter"
            )
        if len(set(self.witness)) < len(self.witness):
            raise ValueError("a witness is named twice")
        if isinstance(self.objective, ChosenNll):
            return self
        if self.objective.set_level_action not in (None, "train"):
            raise ValueError(
                f"objective.set_level_action: {self.objective.set_level_action} acts on one C for "
                "the whole set, and cream_cross has one per pair; leave it at train"
            )
        if self.use == "filter" and self.below_half != "floor":
            raise ValueError(
                "below_half acts on a C below 1/2, and under use: filter every C is 1; leave it "
                "out, or set use: smooth"
            )
        return self

    def parts(self, t: int) -> MethodParts:
        """The same witness in every iteration, the reward of M_t."""
        reward = LogpQuantity(unit=self.reward, model=f"M{t}")
        second = LogpQuantity(unit=self.witness_reward, model=self.witness[0])
        if isinstance(self.agreement, ByAnswer):
            asked = SameAnswers(
                witnesses=self.witness, same=self.agreement.same, by=self.agreement.witnesses
            )
            return MethodParts(
                reward=reward,
                answered=asked,
                reported=Agreement(first=reward, second=second),
                pairing=self.pairing,
                objective=self.objective,
            )
        level = {"filter": "one", "smooth": Calibrated(), "two_gaussian": TwoGaussian()}[self.use]
        return MethodParts(
            reward=reward,
            agreement=Agreement(
                first=reward,
                second=second,
                level=level,
                filter="agreeing" if self.use == "filter" else "none",
                below_half=self.below_half,
            ),
            pairing=self.pairing,
            objective=self.objective,
        )


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


METHODS = (CreamMethod, CreamSampleMethod, CreamPairMethod, CreamCrossMethod)
METHODS += (CreamReferenceMethod, CreamViewsMethod)


def _refuse_set_level_action(objective: AgreementObjective, level: str) -> None:
    """Refuse an action on one C for the whole set where there is none."""
    if not isinstance(objective, CreamObjective) or objective.set_level_action in (None, "train"):
        return
    if level != "set":
        raise ValueError(
            f"objective.set_level_action: {objective.set_level_action} acts on one C for the whole "
            f"set, and level is {level}; set level: set, or set_level_action: train"
        )
