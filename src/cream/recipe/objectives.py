"""The preference objectives that a recipe can name, each with its own fields only.

An option that an objective would ignore cannot be written. The formulas are in
`cream.algorithms.objectives`; they need torch, which a recipe loads without, so each section
imports its own when it is asked for its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cream.errors import TrainingError
from cream.recipe.base import Section, usual
from cream.recipe.degree import PreferenceDegree
from cream.recipe.likelihood import AddingSection, Consistency, Nll, ObjectiveSection
from cream.recipe.likelihood import ChosenNll as ChosenNll
from cream.recipe.likelihood import ConsistencyNll as ConsistencyNll
from cream.recipe.likelihood import ConstantNll as ConstantNll
from cream.recipe.optimism import Optimism as Optimism
from cream.recipe.policy_gradient import PolicyGradient as PolicyGradient
from cream.recipe.scir import Scir as Scir

if TYPE_CHECKING:
    from cream.algorithms.consistency import StageScale
    from cream.algorithms.objective import Objective, PerExample
    from cream.algorithms.preference import PairInputs
    from cream.types import SetConsistency

Beta = Annotated[float, Field(gt=0)]
TERMS = ("nll", "degree", "optimism")
"""Sections that may stand beside a preference. One that is younger than `nll` is not written where
it is none (``exclude_if``), so that runs made before it keep their fingerprints."""


class PreferenceSection(ObjectiveSection):
    """What every preference objective has: a loss per pair, and terms that may stand beside it."""

    beta: float
    """Scale of the rewards that are reported."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none (the papers' choice)."""
    degree: PreferenceDegree | None = Field(default=None, exclude_if=lambda value: value is None)
    """How much key content an answer lost, told beside the preference (SPO), or none."""
    optimism: Optimism | None = Field(default=None, exclude_if=lambda value: value is None)
    """Exploration beyond what the policy answers (SELM), or none."""
    reads_start: ClassVar[bool] = False
    """Whether the loss compares with the policy at the start of the stage, token by token."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms beside the preference, as a recipe has them."""
        return tuple(name for name in TERMS if getattr(self, name) is not None)

    @property
    def additions(self) -> tuple[AddingSection, ...]:
        """See `ObjectiveSection`."""
        return (self.degree,) if self.degree else ()

    def trained_consistency(self, stored: Consistency) -> Consistency | float | None:
        """C that a pair with that stored C is trained with; None: every order is trusted fully."""
        if isinstance(self, ConservativeDpo | RobustDpo):
            return 1 - self.label_smoothing
        return stored if isinstance(self, Cream | WeightedDpo) else None

    @property
    def trains_chosen_alone(self) -> bool:
        """See `ObjectiveSection`."""
        return self.nll is not None

    @property
    def is_mixture(self) -> bool:
        """See `ObjectiveSection`.

        Then, and only then, the margin has the fixed point logit C, and plain DPO on pairs turned
        with probability 1 - C has the same expected loss.
        """
        return isinstance(self, Dpo | ConservativeDpo | Cream) and not self.terms

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """One value per pair, without the terms beside it."""
        raise NotImplementedError

    def build(self) -> Objective:
        """See `ObjectiveSection`."""
        from cream.algorithms.preference import preference

        plain = objective = preference(
            self.name,
            self.model_dump_json(),
            self.pair_loss,
            beta=self.beta,
            start_logps=self.reads_start,
        )
        if self.nll is not None:
            objective += self.nll.build(self)
        if self.degree is not None:
            objective += self.degree.build()
        if self.optimism is not None:
            objective += self.optimism.build(plain, beta=self.beta)
        return objective


class Dpo(PreferenceSection):
    """DPO (arXiv 2305.18290 eq. 7); as the objective of SRLM it trusts every pair fully."""

    name: Literal["dpo"] = "dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0. CREAM's reference code: 0.1."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.dpo`."""
        from cream.algorithms.objectives import dpo

        return dpo(pairs.policy, pairs.reference, beta=self.beta)


class ConservativeDpo(PreferenceSection):
    """DPO with one fixed probability that an order is wrong (CREAM with a hand-picked C)."""

    name: Literal["conservative_dpo"] = "conservative_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    label_smoothing: float = Field(ge=0, le=0.5)
    """Probability that the order of a pair is wrong, in [0, 0.5]; 1 - C in CREAM's terms."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.conservative_dpo`."""
        from cream.algorithms.objectives import conservative_dpo

        return conservative_dpo(
            pairs.policy, pairs.reference, beta=self.beta, label_smoothing=self.label_smoothing
        )


class Cream(PreferenceSection):
    """C * DPO + (1 - C) * reversed DPO (arXiv 2410.12735), C from the pairs."""

    name: Literal["cream"] = "cream"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0. Reference code: 0.1."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none (the paper's choice).
    ``constant`` is not softened by C: with C near 1/2 it trains on unreliable pairs at full
    weight."""
    set_level_action: Literal["scale_lr", "skip", "train"] | None = None
    """What a C of the whole set does beyond the loss, in which Adam hides it. ``scale_lr``: the
    learning rate is multiplied by 2C - 1, and the stage is skipped where the interval of C reaches
    down to 1/2. ``skip``: the latter alone. ``train``: nothing (the paper). Left out: ``scale_lr``
    where C is that of the set, ``train`` elsewhere, where no other value is allowed."""

    def at_level(self, level: str | None) -> Cream:
        """This objective with `set_level_action` decided."""
        if self.set_level_action is not None:
            return self
        action = "scale_lr" if level == "set" else "train"
        return self.model_copy(update={"set_level_action": action})

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.cream`."""
        from cream.algorithms.objectives import cream

        return cream(pairs.policy, pairs.reference, beta=self.beta, consistency=pairs.consistency)

    def stage_scale(self, consistency: SetConsistency | None) -> StageScale:
        """See `cream.algorithms.consistency.stage_scale`.

        Raises:
            TrainingError: The action needs one C of the whole set and there is none.
        """
        from cream.algorithms.consistency import StageScale, stage_scale

        level = None if consistency is None else consistency.level
        action = self.at_level(level).set_level_action
        if action is None or action == "train":
            return StageScale()
        if consistency is None or consistency.level != "set":
            raise TrainingError(
                f"objective.set_level_action: {action!r} needs one C for the whole "
                "set of pairs, and these pairs carry C per prompt or pair. Set it to train."
            )
        return stage_scale(action, consistency)


class Ipo(PreferenceSection):
    """IPO (arXiv 2310.12036 eq. 17) on sums of token log-probabilities."""

    name: Literal["ipo"] = "ipo"
    beta: Beta = 0.1
    """tau of the paper, > 0: the log-ratio gap is drawn to 1 / (2 beta) nats."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.ipo`."""
        from cream.algorithms.objectives import ipo

        return ipo(pairs.policy, pairs.reference, beta=self.beta)


class LengthNormalisedIpo(PreferenceSection):
    """IPO on log-ratios divided by the number of completion tokens (as TRL has it)."""

    name: Literal["length_normalised_ipo"] = "length_normalised_ipo"
    beta: Beta = 0.1
    """tau of the paper, > 0: the gap per token is drawn to 1 / (2 beta) nats."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.length_normalised_ipo`."""
        from cream.algorithms.objectives import length_normalised_ipo

        return length_normalised_ipo(
            pairs.policy,
            pairs.reference,
            beta=self.beta,
            chosen_lengths=pairs.chosen.lengths,
            rejected_lengths=pairs.rejected.lengths,
        )


class WeightedDpo(PreferenceSection):
    """DPO with each pair weighted by max(0, 2C - 1)."""

    name: Literal["weighted_dpo"] = "weighted_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.weighted_dpo`."""
        from cream.algorithms.objectives import trust, weighted_dpo

        return weighted_dpo(
            pairs.policy, pairs.reference, beta=self.beta, weight=trust(pairs.consistency)
        )


class RobustDpo(PreferenceSection):
    """Unbiased DPO under orders flipped at a known rate (arXiv 2403.00409 eq. 9)."""

    name: Literal["robust_dpo"] = "robust_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Probability that an order is flipped, in [0, 0.5)."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.robust_dpo`."""
        from cream.algorithms.objectives import robust_dpo

        return robust_dpo(
            pairs.policy, pairs.reference, beta=self.beta, label_smoothing=self.label_smoothing
        )


class LengthNormalisedDpo(PreferenceSection):
    """DPO on log-ratios divided by the number of completion tokens."""

    name: Literal["length_normalised_dpo"] = "length_normalised_dpo"
    beta: Beta
    """Strength of the loss reference per token, > 0; about 0.1 times a completion's length."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.length_normalised_dpo`."""
        from cream.algorithms.objectives import length_normalised_dpo

        return length_normalised_dpo(
            pairs.policy,
            pairs.reference,
            beta=self.beta,
            chosen_lengths=pairs.chosen.lengths,
            rejected_lengths=pairs.rejected.lengths,
        )


class SimPo(PreferenceSection):
    """SimPO (arXiv 2405.14734 eq. 6): mean log-probabilities, a target margin, no reference."""

    name: Literal["simpo"] = "simpo"
    beta: Beta = 2.0
    """Scale of the mean log-probabilities, > 0. Paper: 2.0 to 10."""
    target_margin: float = Field(default=1.0, ge=0)
    """gamma of the paper, >= 0, in the unit of the scaled margin. Paper: 0.3 to 1.6."""

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.simpo`."""
        from cream.algorithms.objectives import simpo

        return simpo(
            pairs.policy,
            beta=self.beta,
            target_margin=self.target_margin,
            chosen_lengths=pairs.chosen.lengths,
            rejected_lengths=pairs.rejected.lengths,
        )


class SrlmKl(PreferenceSection):
    """DPO plus a per-token divergence from the policy at the start of the stage (SRLM + KL)."""

    name: Literal["srlm_kl"] = "srlm_kl"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    kl_weight: float = Field(gt=0)
    """Weight of the k3 estimate of KL(policy || policy at the start), nats per token, averaged
    over both completions; > 0. The paper does not state its value."""

    reads_start: ClassVar[bool] = True

    def pair_loss(self, pairs: PairInputs) -> PerExample:
        """See `cream.algorithms.objectives.srlm_kl`."""
        from cream.algorithms.objectives import srlm_kl

        chosen, rejected = pairs.start_kl
        return srlm_kl(
            pairs.policy,
            pairs.reference,
            beta=self.beta,
            kl_weight=self.kl_weight,
            chosen_kl=chosen,
            rejected_kl=rejected,
        )


class SmoothedObjective(Section):
    """DPO on orders that are wrong with a probability which the method itself decides."""

    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""
    degree: PreferenceDegree | None = Field(default=None, exclude_if=lambda value: value is None)
    """How much key content an answer lost, told beside the preference (SPO), or none."""
    optimism: Optimism | None = Field(default=None, exclude_if=lambda value: value is None)
    """Exploration beyond what the policy answers (SELM), or none."""

    @staticmethod
    def refuse_old_place(method: Any) -> Any:
        """Values of a method that has this objective, unless its settings stand beside it.

        Raises:
            ValueError: They do, as recipes had it until `objective` became a section.
        """
        for key in ("beta", "nll") if isinstance(method, Mapping) else ():
            if key in method:
                raise ValueError(
                    f"`{key}` stands in the objective: write `objective: {{{key}: ...}}`, or --set "
                    f"method.objective.{key}=..."
                )
        return method


ObjectiveConfig = Annotated[
    ChosenNll
    | Dpo
    | ConservativeDpo
    | Cream
    | Ipo
    | LengthNormalisedIpo
    | WeightedDpo
    | RobustDpo
    | LengthNormalisedDpo
    | Scir
    | SimPo
    | SrlmKl
    | PolicyGradient,
    Field(discriminator="name"),
]
"""Every objective a recipe can name; ``name`` decides which fields may follow."""

AnyObjective = Annotated[ObjectiveConfig, usual("name", "dpo")]
"""The same; ``name`` left out is ``dpo``."""

AgreementObjective = Annotated[
    Annotated[Cream | WeightedDpo, Field(discriminator="name")], usual("name", "cream")
]
"""Objectives in which C acts; ``name`` left out is ``cream``."""

PlainObjective = Annotated[
    Annotated[
        ChosenNll
        | Dpo
        | ConservativeDpo
        | Ipo
        | LengthNormalisedIpo
        | RobustDpo
        | LengthNormalisedDpo
        | SimPo
        | SrlmKl,
        Field(discriminator="name"),
    ],
    usual("name", "dpo"),
]
"""Objectives that trust all pairs alike; ``name`` left out is ``dpo``."""
