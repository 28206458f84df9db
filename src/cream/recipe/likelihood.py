"""What every objective says of itself; the likelihood of what was chosen, as a term or alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from cream.recipe.base import Section

if TYPE_CHECKING:
    from cream.algorithms.consistency import StageScale
    from cream.algorithms.objective import Objective
    from cream.types import AddedTokens, SetConsistency

Consistency = TypeVar("Consistency")
"""C of a pair: a number or an array of them."""


class AddingSection(Section):
    """An option whose sequences join the example of a pair before training.

    `cream.stages.additions` makes them; `key` names the option.
    """

    key: ClassVar[str]
    scored: ClassVar[bool] = False
    """Whether sequences that it adds need sums under the loss reference."""

    @property
    def added_tokens(self) -> AddedTokens:
        """What runs through the model beside the pair, at most; one prompt's sequences share it."""
        raise NotImplementedError


class ObjectiveSection(Section):
    """What every objective says of itself."""

    name: Any
    """Which objective."""

    @property
    def is_mixture(self) -> bool:
        """Whether a pair's loss is C l(x) + (1 - C) l(-x) alone, l the DPO loss of the margin."""
        return False

    @property
    def trains_chosen_alone(self) -> bool:
        """Whether an example without a rejected completion is trained on: by its likelihood."""
        return True

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms beside the loss, as a recipe has them."""
        return ()

    @property
    def orders_pairs(self) -> bool:
        """Whether ``chosen`` is what the pair prefers; else the two are in a drawn order."""
        return True

    @property
    def additions(self) -> tuple[AddingSection, ...]:
        """Options that add sequences to the example of every pair, in order."""
        return ()

    def at_level(self, level: str | None) -> ObjectiveSection:
        """This objective with what depends on the level of C decided: by default nothing does."""
        return self

    def trained_consistency(self, stored: Consistency) -> Consistency | float | None:
        """C that a pair with that stored C is trained with; None: every order is trusted fully."""
        return None

    def build(self) -> Objective:
        """The objective that training takes."""
        raise NotImplementedError

    def stage_scale(self, consistency: SetConsistency | None) -> StageScale:
        """What a C of the whole set does to the stage, beyond the loss: by default nothing."""
        from cream.algorithms.consistency import StageScale

        return StageScale()


class ConstantNll(Section):
    """Add the mean negative log-likelihood of the chosen completion with one weight for all."""

    kind: Literal["constant"] = "constant"
    weight: float = Field(gt=0)
    """Weight of the per-token mean, > 0. IRPO (arXiv 2404.19733) uses 1."""

    def build(self, beside: ObjectiveSection) -> Objective:
        """The term as an objective, to be added to another."""
        from cream.algorithms.preference import constant_nll

        return constant_nll(self.weight)


class ConsistencyNll(Section):
    """The same, each pair weighted by ``weight * max(0, 2C - 1)``, so that C softens it too."""

    kind: Literal["2C-1"] = "2C-1"
    weight: float = Field(gt=0)
    """Weight at C = 1, > 0. Pairs with C <= 1/2 get none."""

    def build(self, beside: ObjectiveSection) -> Objective:
        """The term as an objective, to be added to another, with the C that that one trains."""
        from cream.algorithms.preference import trusted_nll

        def trained(stored: Any) -> Any:
            c = beside.trained_consistency(stored)
            return stored if c is None else 0 * stored + c

        return trusted_nll(self.weight, trained)


Nll = Annotated[ConstantNll | ConsistencyNll, Field(discriminator="kind")]


class ChosenNll(ObjectiveSection):
    """The likelihood of the chosen completion alone; what is rejected plays no part."""

    name: Literal["nll"] = "nll"
    nll: ClassVar[None] = None
    optimism: ClassVar[None] = None

    def build(self) -> Objective:
        """See `ObjectiveSection`."""
        from cream.algorithms.preference import chosen_likelihood

        return chosen_likelihood(self.model_dump_json())
