"""The preference objectives that a recipe can name, each with its own fields only.

An option that an objective would ignore cannot be written. Pure data: the formulas are in
`cream.algorithms.objectives`, and `cream.training.objective` joins the two, by type.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.unions import usual

Beta = Annotated[float, Field(gt=0)]


class ConstantNll(Section):
    """Add the mean negative log-likelihood of the chosen completion with one weight for all."""

    kind: Literal["constant"] = "constant"
    weight: float = Field(gt=0)
    """Weight of the per-token mean, > 0. IRPO (arXiv 2404.19733) uses 1."""


class ConsistencyNll(Section):
    """The same, each pair weighted by ``weight * max(0, 2C - 1)``, so that C softens it too."""

    kind: Literal["2C-1"] = "2C-1"
    weight: float = Field(gt=0)
    """Weight at C = 1, > 0. Pairs with C <= 1/2 get none."""


Nll = Annotated[ConstantNll | ConsistencyNll, Field(discriminator="kind")]


class Dpo(Section):
    """DPO (arXiv 2305.18290 eq. 7); as the objective of SRLM it trusts every pair fully."""

    name: Literal["dpo"] = "dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0. CREAM's reference code: 0.1."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none (the papers' choice)."""


class ConservativeDpo(Section):
    """DPO with one fixed probability that an order is wrong (CREAM with a hand-picked C)."""

    name: Literal["conservative_dpo"] = "conservative_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    label_smoothing: float = Field(ge=0, le=0.5)
    """Probability that the order of a pair is wrong, in [0, 0.5]; 1 - C in CREAM's terms."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class Cream(Section):
    """C * DPO + (1 - C) * reversed DPO (arXiv 2410.12735), C from the pairs."""

    name: Literal["cream"] = "cream"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0. Reference code: 0.1."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none (the paper's choice).
    ``constant`` is not softened by C: with C near 1/2 it trains on unreliable pairs at full
    weight."""
    set_level_action: Literal["train", "scale_lr", "skip"] = "train"
    """What a set-level C does beyond the loss. ``train``: nothing (the paper). ``scale_lr``: the
    learning rate is multiplied by max(0, 2C - 1), because Adam hides a constant factor of the
    loss. ``skip``: no training when the interval of C reaches down to 1/2. The last two need one C
    for the whole set."""


class Ipo(Section):
    """IPO (arXiv 2310.12036 eq. 17) on sums of token log-probabilities."""

    name: Literal["ipo"] = "ipo"
    beta: Beta = 0.1
    """tau of the paper, > 0: the log-ratio gap is drawn to 1 / (2 beta) nats."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class LengthNormalisedIpo(Section):
    """IPO on log-ratios divided by the number of completion tokens (as TRL has it)."""

    name: Literal["length_normalised_ipo"] = "length_normalised_ipo"
    beta: Beta = 0.1
    """tau of the paper, > 0: the gap per token is drawn to 1 / (2 beta) nats."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class WeightedDpo(Section):
    """DPO with each pair weighted by max(0, 2C - 1)."""

    name: Literal["weighted_dpo"] = "weighted_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class RobustDpo(Section):
    """Unbiased DPO under orders flipped at a known rate (arXiv 2403.00409 eq. 9)."""

    name: Literal["robust_dpo"] = "robust_dpo"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Probability that an order is flipped, in [0, 0.5)."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class LengthNormalisedDpo(Section):
    """DPO on log-ratios divided by the number of completion tokens."""

    name: Literal["length_normalised_dpo"] = "length_normalised_dpo"
    beta: Beta
    """Strength of the loss reference per token, > 0; about 0.1 times a completion's length."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class SimPo(Section):
    """SimPO (arXiv 2405.14734 eq. 6): mean log-probabilities, a target margin, no reference."""

    name: Literal["simpo"] = "simpo"
    beta: Beta = 2.0
    """Scale of the mean log-probabilities, > 0. Paper: 2.0 to 10."""
    target_margin: float = Field(default=1.0, ge=0)
    """gamma of the paper, >= 0, in the unit of the scaled margin. Paper: 0.3 to 1.6."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


class SrlmKl(Section):
    """DPO plus a per-token divergence from the policy at the start of the stage (SRLM + KL)."""

    name: Literal["srlm_kl"] = "srlm_kl"
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    kl_weight: float = Field(gt=0)
    """Weight of the k3 estimate of KL(policy || policy at the start), nats per token, averaged
    over both completions; > 0. The paper does not state its value."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""


ObjectiveConfig = Annotated[
    Dpo
    | ConservativeDpo
    | Cream
    | Ipo
    | LengthNormalisedIpo
    | WeightedDpo
    | RobustDpo
    | LengthNormalisedDpo
    | SimPo
    | SrlmKl,
    Field(discriminator="name"),
]
"""Every objective a recipe can name; ``name`` decides which fields may follow."""

AgreementObjective = Annotated[
    Annotated[Cream | WeightedDpo, Field(discriminator="name")], usual("name", "cream")
]
"""Objectives in which C acts; ``name`` left out is ``cream``."""

PlainObjective = Annotated[
    Annotated[
        Dpo
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
