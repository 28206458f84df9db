"""The parts a method is made of, as plain declarations: quantities, agreement, pairing.

A method (see `cream.recipe.methods`) turns its options and an iteration number into `MethodParts`;
the stage `pair` computes them from the score matrix. Nothing here runs anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cream.recipe.base import Section
from cream.recipe.columns import EDIT_OF, EXTRACTED, LABELS
from cream.recipe.editing import Editing as Editing
from cream.recipe.editing import TokenHeadConfig as TokenHeadConfig
from cream.recipe.goals import Goals, Score
from cream.recipe.likelihood import ObjectiveSection
from cream.recipe.objectives import ChosenNll, ObjectiveConfig
from cream.recipe.other_models import PastAndFuture as PastAndFuture
from cream.recipe.other_models import SameAnswer as SameAnswer
from cream.recipe.other_models import SameAnswers as SameAnswers
from cream.recipe.other_models import model_at
from cream.recipe.pairing import BestWorst as BestWorst
from cream.recipe.pairing import EditedOriginal, PairingConfig
from cream.recipe.policy_gradient import Advantage as Advantage
from cream.recipe.policy_gradient import GroupRule, PolicyGradient
from cream.recipe.policy_gradient import TokenAdvantage as TokenAdvantage
from cream.recipe.trajectory import Trajectory

if TYPE_CHECKING:
    from cream.algorithms.objective import Objective

Unit = Literal["implicit", "implicit_per_token", "likelihood", "mean_likelihood"]
"""``implicit``: log pi - log pi_M0, token sum, nats (the paper's reward, no beta).
``implicit_per_token``: the same divided by the number of completion tokens.
``likelihood`` / ``mean_likelihood``: log pi, token sum / per token."""

Statistic = Literal[
    "kendall", "residual_kendall", "partial_kendall", "spearman", "weighted_tau", "top_order"
]
"""How two rankings of one group are compared. All but the last are correlations in [-1, 1], of
which C = (x + 1) / 2; ``top_order`` is a rate in [0, 1] already. Kendall is the paper's choice.
``residual_kendall`` takes out of both what the log pi_0 that they share explains, so that noise
gives C = 1/2; ``partial_kendall`` is Kendall's partial tau given log pi_0, where noise of equal
variances gives C = 5/9. Both are ``kendall`` where the rankings share nothing."""

AGAINST_SHARED = ("residual_kendall", "partial_kendall")
"""Statistics that look at what both rankings hold."""

Level = Literal["set", "sample", "shrunken", "one"]
"""``set``: one C, the mean over prompts, for all pairs. ``sample``: each prompt its own.
``shrunken``: between the two, as far as the spread of C_j exceeds its sampling noise.
``one``: every pair 1; C is measured and only ``filter`` acts."""

PairFilter = Literal["none", "agreeing"]
"""``agreeing`` keeps only pairs that the second ranking orders the same way."""

Compare = Literal["like_for_like", "reference_code", "implicit"]
"""What C compares with M0, whose implicit reward is identically zero. ``implicit`` refuses to."""

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


class LengthRegularised(Section):
    """``base - alpha * tokens`` with a fitted alpha (DICE, arXiv 2406.09760).

    alpha makes the best and the worst of a group equally long on average.
    """

    kind: Literal["length_regularised"] = "length_regularised"
    base: LogpQuantity

    def __str__(self) -> str:
        return f"length_regularised({self.base})"


class MeanMinusStds(Section):
    """Mean over models minus some standard deviations: a lower bound that disagreement lowers."""

    num_stds: float = Field(ge=0.0)
    """Population standard deviations over models, >= 0."""


class Ensemble(Section):
    """One quantity of several models, combined per completion."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[LogpQuantity, ...] = Field(min_length=1)
    combine: Literal["mean", "min"] | MeanMinusStds = "mean"

    def __str__(self) -> str:
        how = self.combine if isinstance(self.combine, str) else f"mean-{self.combine.num_stds:g}sd"
        return f"{how}({', '.join(map(str, self.members))})"


class Votes(Section):
    """Share of the group's completions that give the same extracted answer, copies counted."""

    kind: Literal["votes"] = "votes"
    column: str = EXTRACTED
    """Label column of the matrix; completions without an answer have no value."""

    def __str__(self) -> str:
        return f"votes({self.column})"


class Majority(Section):
    """1 for a completion that gives the most frequent extracted answer of its group, else 0.

    A completion without an answer gets 0. A group whose most frequent answer is not one, or that
    gives none, has no label, and so no values (TTRL, arXiv 2504.16084).
    """

    kind: Literal["majority"] = "majority"
    column: str = EXTRACTED
    """Label column of the matrix."""

    def __str__(self) -> str:
        return f"majority({self.column})"


AnyQuantity = LogpQuantity | ScoreQuantity | LengthRegularised | Ensemble | Votes | Majority
Quantity = Annotated[AnyQuantity, Field(discriminator="kind")]


def models_of(quantity: AnyQuantity) -> tuple[str, ...]:
    """Log-probability columns that a quantity reads, each once."""
    match quantity:
        case LogpQuantity():
            return quantity.columns
        case LengthRegularised():
            return quantity.base.columns
        case Ensemble():
            return tuple(dict.fromkeys(c for m in quantity.members for c in m.columns))
        case ScoreQuantity() | Votes() | Majority():
            return ()


class TwoGaussian(Section):
    """C of a pair: how likely two Gaussian raters with the observed tau order it alike.

    The trained pair, best against worst, is the easiest order of its group, so this C is nearer to
    0 or 1 than (tau + 1) / 2; see `cream.algorithms.pair_consistency.best_worst_agreement`. tau is
    shrunken towards that of the set. Ours.
    """

    source: Literal["two_gaussian"] = "two_gaussian"


class Calibrated(Section):
    """C of a pair: how often pairs of held-out seed items were right, given what the witness says.

    One C where the second ranking orders the pair like the first, another where it does not; see
    `cream.stages.witnesses`. Ours.
    """

    source: Literal["seed_items"] = "seed_items"


class Agreement(Section):
    """Which two rankings are compared, how, and how the result enters the loss."""

    first: Quantity
    second: Quantity
    """The witness: whose order of a trained pair ``filter`` asks for."""
    statistic: Statistic | Literal["kendall_by_position"] = "kendall"
    """``kendall_by_position`` is the reference code's: equal values are ranked by their place in
    the list and every copy of a completion counts."""
    level: Level | TwoGaussian | Calibrated = "set"
    below_half: BelowHalf = "floor"
    filter: PairFilter = "none"

    @property
    def speaks_of_pairs(self) -> bool:
        """Whether the witness or C is about the trained pair itself, not about its group."""
        return self.filter == "agreeing" or isinstance(self.level, TwoGaussian)

    @property
    def level_name(self) -> Literal["set", "sample", "pair"]:
        """``set`` if all pairs have one C, ``sample`` one per prompt, ``pair`` one per pair."""
        if isinstance(self.level, str):
            return "set" if self.level == "set" else "sample"
        return "pair"

    @model_validator(mode="after")
    def _sampling_noise_is_known_for_kendall_only(self) -> Agreement:
        rests_on_tau = self.level == "shrunken" or isinstance(self.level, TwoGaussian)
        if rests_on_tau and self.statistic not in ("kendall", "residual_kendall"):
            raise ValueError(
                "level: shrunken and the pair level rest on the distribution of Kendall's tau; set "
                "statistic: kendall or residual_kendall (it is "
                f"{self.statistic}), or level: set or sample"
            )
        return self


class LowConfidence(Section):
    """C = 1 - label_smoothing for the pairs with the smallest reward gaps, 1 for the others."""

    share: float = Field(ge=0.0, le=1.0)
    """Share of the pairs of an iteration that are taken to be noisy."""
    label_smoothing: float = Field(ge=0.0, le=0.5)
    """Probability that the order of such a pair is wrong."""


class MethodParts(Section):
    """Everything iteration t of a method reads and does, with columns named."""

    reward: Quantity
    """Ranking that picks the pairs."""
    tie_break: Quantity | None = None
    """Orders completions whose rewards are equal (binary rewards)."""
    agreement: Agreement | None = None
    """None: C = 1 for every pair."""
    answered: SameAnswers | None = None
    """Witnesses whose own answer must be the chosen one; None: none is asked to answer."""
    reported: Agreement | None = None
    """Compared for reports only, by methods that do not use C."""
    smoothing: LowConfidence | None = None
    """C by the size of the reward gap instead of by agreement."""
    pair_weight: Literal["one", "reward_gap"] = "one"
    """Factor on a pair's loss: 1, or chosen minus rejected reward (ScPO's vote margin)."""
    prompts: Literal["unlabelled", "seed"] = "unlabelled"
    """``seed``: M_t answers the seed prompts, whose own completions join its groups (origin
    ``data``, column ``from_data``). Decides the matrix, not what is made of it."""
    others: PastAndFuture | None = None
    """Other models whose completions join those of M_t; None: its own only."""
    editing: Editing | None = Field(default=None, exclude_if=lambda value: value is None)
    """How wrong completions are edited; the edits join the group. None: not at all."""
    head: TokenHeadConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """How a head learns rewards of tokens from the edits, for the column ``head``; None: none."""
    tokens: Literal["all", "edited"] = Field(default="all", exclude_if=lambda value: value == "all")
    """Of pairs of an edit and its original: which tokens count, under the loss reference too."""
    pairing: PairingConfig | None = None
    """How pairs are made; None: none are, and every sample is weighed by its `advantage`."""
    advantage: Advantage | TokenAdvantage | None = None
    """How every sample is weighed by its reward against the others'; None: pairs are made."""
    transform: str | None = None
    """What stands between pairs and training, by its name in ``cream.run(..., transforms=...)``.
    None: the pairs are the examples."""
    trajectory: Trajectory | None = Field(default=None, exclude_if=lambda value: value is None)
    """How completions are cut into solutions and checks; None: a completion is one answer."""
    goals: Goals | None = None
    """How scores are told to the policy; pairs are then trained under both. None: not at all."""
    sampled_goal: Score | None = None
    """The goal that M_t is told with the prompts, and under which its answers are scored."""
    objective: ObjectiveConfig
    asked: list[str] = Field(default_factory=list, exclude_if=lambda value: not value)
    """Score columns that the matrix has whatever the method reads: set by ``scoring``."""
    learner: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Witness that learns by these parts; None: the policy does."""
    along: MethodParts | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the same iteration does for a witness that learns along; None: none does."""

    @field_validator("objective")
    @classmethod
    def _act_by_level(cls, objective: ObjectiveSection, info: Any) -> ObjectiveSection:
        # Typed where it is used: the type of `info` cannot be checked at runtime.
        agreement: Agreement | None = info.data.get("agreement")
        return objective.at_level(agreement.level_name if agreement else None)

    @model_validator(mode="after")
    def _fits_together(self) -> MethodParts:
        from cream.recipe.misfits import refuse_misfits

        refuse_misfits(self)
        return self

    def model_at(self, t: int) -> str:
        """The model of the policy, or of the witness that learns, at the start of iteration t."""
        return model_at(t, self.learner)

    @property
    def answer(self) -> Literal["greedy", "sampled"] | None:
        """Which answer of M_t the objective reads beside the pairs, if it does."""
        return None if self.objective.optimism is None else self.objective.optimism.answer

    @property
    def shape(self) -> str | None:
        """What makes examples of another shape than pairs: a transform's name, or ``goals``."""
        return self.transform or (None if self.goals is None else "goals")

    def build_objective(self) -> Objective:
        """The objective that training takes."""
        built = self.objective.build()
        if self.goals is None or isinstance(self.objective, ChosenNll | PolicyGradient):
            return built
        from cream.algorithms.goals import goal_conditioned

        return goal_conditioned(built, beta=self.objective.beta)

    @property
    def rule(self) -> GroupRule:
        """What is said of groups, whether pairs are made of them or advantages."""
        rule = self.pairing or self.advantage
        assert rule is not None, "validated"
        return rule

    @property
    def paired_by(self) -> PairingConfig:
        """The pairing of a method that makes pairs."""
        assert self.pairing is not None, "stages of pairs are planned for methods with a pairing"
        return self.pairing

    @property
    def draft(self) -> MethodParts | None:
        """Parts by which the future model is trained, if the iteration has one."""
        if self.others is None or self.others.future is None:
            return None
        return self.model_copy(update={"others": PastAndFuture(past=self.others.past)})

    @property
    def quantities(self) -> tuple[AnyQuantity, ...]:
        """All quantities the pair stage computes."""
        agreement = (self.agreement.first, self.agreement.second) if self.agreement else ()
        tie_break = (self.tie_break,) if self.tie_break else ()
        return (self.reward, *tie_break, *agreement)

    @property
    def logp_columns(self) -> tuple[str, ...]:
        """Models whose log-probabilities are needed, each once, in order of first use."""
        return tuple(dict.fromkeys(name for q in self.quantities for name in models_of(q)))

    @property
    def reported_columns(self) -> tuple[str, ...]:
        """Models needed only for what is reported."""
        if self.reported is None:
            return ()
        both = (self.reported.first, self.reported.second)
        return tuple(dict.fromkeys(name for q in both for name in models_of(q)))

    @property
    def score_columns(self) -> tuple[str, ...]:
        """Score columns that are needed, each once."""
        scores = [q.column for q in self.quantities if isinstance(q, ScoreQuantity)]
        answers = self.answered.columns if self.answered else ()
        edited = [LABELS] if self.editing else []
        return tuple(dict.fromkeys((*scores, *answers, *self.asked, *edited)))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Label columns (extracted answers) that are needed, each once."""
        votes = [q for q in self.quantities if isinstance(q, Votes | Majority)]
        linked = [EDIT_OF] if isinstance(self.pairing, EditedOriginal) else []
        return tuple(dict.fromkeys([*(q.column for q in votes), *linked]))
