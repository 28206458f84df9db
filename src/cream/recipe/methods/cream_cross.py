"""Cross-fitted CREAM: a witness made from other seed data confirms the pairs. Ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cream.recipe.base import Section, usual
from cream.recipe.methods import MethodSection
from cream.recipe.model import NonBlank
from cream.recipe.objectives import ChosenNll
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.other_models import SameAnswer, SameAnswers, model_at
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import (
    Agreement,
    BelowHalf,
    Calibrated,
    LogpQuantity,
    MethodParts,
    TwoGaussian,
    Unit,
)


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
    witness_training: Literal["frozen", "along"] = Field(
        default="frozen", exclude_if=lambda value: value == "frozen"
    )
    """``frozen``: the same witness in every iteration. ``along``: in every iteration the witness is
    trained too, by the same rule with the roles exchanged, and the next one asks what it became."""
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
        self._one_that_can_learn_along()
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

    def _one_that_can_learn_along(self) -> None:
        if self.witness_training == "frozen":
            return
        name, *others = self.witness
        if others:
            raise ValueError(
                "witness_training: along exchanges the roles of M_t and one witness; with several "
                "it is not said who confirms whom: name one, or leave them frozen"
            )
        if not name.islower():
            raise ValueError(
                f"witness_training: along trains a model of its own, and {name} is one "
                "of the policy; name a model under witnesses"
            )
        if self.use == "smooth":
            raise ValueError(
                "witness_training: along with use: smooth: C is counted on what M1 answers, which "
                "says nothing of the witness' pairs; take filter or two_gaussian, or leave the "
                "witness frozen"
            )

    def parts(self, t: int) -> MethodParts:
        """The reward of M_t and its witness; where that learns along, its parts beside them."""
        policy = model_at(t)
        if self.witness_training == "frozen":
            return self._parts(policy, self.witness)
        (name,) = self.witness
        witness = model_at(t, name)
        along = self._parts(witness, (policy,)).model_copy(update={"learner": name})
        return self._parts(policy, (witness,)).model_copy(update={"along": along})

    def _parts(self, learner: str, witnesses: tuple[str, ...]) -> MethodParts:
        """One model learns by its own ranking, as far as the others agree."""
        reward = LogpQuantity(unit=self.reward, model=learner)
        second = LogpQuantity(unit=self.witness_reward, model=witnesses[0])
        if isinstance(self.agreement, ByAnswer):
            asked = SameAnswers(
                witnesses=witnesses, same=self.agreement.same, by=self.agreement.witnesses
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


METHODS = (CreamCrossMethod,)
