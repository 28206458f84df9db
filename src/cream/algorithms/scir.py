"""Self-consistent internal rewards (SCIR): two judges of one model, pulled together and trusted.

A self-rewarding model judges its answers twice: implicitly, by a log-ratio against a reference, and
in words, by what it answers to the question which of two is better. On pairs y1, y2 without a label

    a = beta_r {[log pi(y1) - log pi_R(y1)] - [same for y2]},   p_I = sigmoid(a)
    b = (d12 - d21) / (2 T),   c = (d12 + d21) / 2,             p_G = sigmoid(b)

with ``d(first, second) = log P(label "first") - log P(label "second")``, asked in both orders; c is
the judge's preference for a place. R is M0: against M_t, a would be 0 at the first step.

Source: Zhou et al., arXiv 2502.08922, of which the abstract, the first lines and a caption alone
could be read, and of which no code is public. The symmetric divergence and the entropy are as third
parties tell them; weights, mask, normalisation and the flow of the gradient are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from cream.algorithms.objective import (
    Needs,
    Objective,
    ObjectiveInputs,
    PerExample,
    reference_of,
    start_of,
)
from cream.algorithms.preference import PAIR

Logit = Float[Tensor, " pair"]


def verdict_logit(d12: Logit, d21: Logit, *, temperature: float = 1.0) -> Logit:
    """b: the judge's preference for y1, nats; a constant added to both orders changes nothing.

    Averaging the two probabilities would be another estimator.

    Args:
        d12: Log-odds of "the first is better" with y1 first, nats.
        d21: The same with y2 first.
        temperature: T_j > 0.
    """
    return (d12 - d21) / (2 * temperature)


def position_bias(d12: Logit, d21: Logit) -> Logit:
    """c: the judge's preference for what stands first, nats."""
    return (d12 + d21) / 2


def divergence(a: Logit, b: Logit) -> Logit:
    """J = KL(p_I || p_G) + KL(p_G || p_I) = (sigmoid(a) - sigmoid(b)) (a - b) >= 0, nats.

    0 if and only if a = b. ``dJ/da = sigmoid'(a) (a - b) + sigmoid(a) - sigmoid(b)``; J is about
    (a - b)^2 / 4 near 0. Nothing in it knows which answer is right.
    """
    return (a.sigmoid() - b.sigmoid()) * (a - b)


def entropy(z: Logit) -> Logit:
    """Entropy of (sigmoid(z), sigmoid(-z)), nats; ``d/dz = -z sigmoid'(z)``, ln 2 at 0."""
    return softplus(z) - z * z.sigmoid()


def capped_entropy(z: Logit, *, cap: float) -> Logit:
    """`entropy` up to a probability of `cap`, constant beyond: it has no finite minimum.

    Args:
        z: A logit.
        cap: In (1/2, 1).
    """
    limit = math.log(cap / (1 - cap))
    return entropy(z.clamp(-limit, limit))


@torch.no_grad()
def agreed_sign(a: Logit, b: Logit, *, margin: float) -> Logit:
    """1 or -1 where both judges prefer the same answer by at least `margin`, else 0.

    Args:
        a: Implicit preference.
        b: The judge's.
        margin: Least distance of either probability from 1/2, in [0, 1/2).
    """
    clear = torch.minimum((a.sigmoid() - 0.5).abs(), (b.sigmoid() - 0.5).abs()) >= margin
    return torch.where((a.sign() == b.sign()) & clear, a.sign(), torch.zeros_like(a))


def consistency_loss(a: Logit, b: Logit, *, entropy_weight: float, entropy_cap: float) -> Logit:
    """``J + gamma [H(a) + H(b)]``: the judges pulled together, and away from 1/2."""
    doubt = capped_entropy(a, cap=entropy_cap) + capped_entropy(b, cap=entropy_cap)
    return divergence(a, b) + entropy_weight * doubt


def labelled_loss(x: Logit, sign: Logit) -> Logit:
    """``m softplus(-s x)``: DPO with the pair's order given by a sign, 0 where that is 0.

    The caller takes the mean over all pairs, so the part fades out where few are labelled.
    """
    return torch.where(sign != 0, softplus(-sign * x), torch.zeros_like(x))


def scir_pair_loss(
    a: Logit,
    b: Logit,
    x: Logit,
    *,
    consistency_weight: float = 1.0,
    entropy_weight: float = 0.1,
    entropy_cap: float = 0.95,
    margin: float = 0.0,
    judged: Bool[Tensor, " pair"] | None = None,
) -> Logit:
    """``m softplus(-s x) + lambda {J(a, b) + gamma [H(a) + H(b)]}``, one value per pair.

    Exchanging y1 and y2 changes the sign of a, b and x and nothing else.

    Args:
        a: Implicit preference for y1.
        b: The judge's.
        x: ``beta (policy gap - loss reference gap)`` of y1 over y2.
        consistency_weight: lambda >= 0.
        entropy_weight: gamma >= 0.
        entropy_cap: Probability beyond which the entropy no longer pulls.
        margin: delta in [0, 1/2), see `agreed_sign`.
        judged: Pairs for which the judge said something; the others get 0. None: all.
    """
    both = consistency_loss(a, b, entropy_weight=entropy_weight, entropy_cap=entropy_cap)
    total = labelled_loss(x, agreed_sign(a, b, margin=margin)) + consistency_weight * both
    return total if judged is None else torch.where(judged, total, torch.zeros_like(total))


SEED_LOGPS = {side: f"{side}_seed_logps" for side in PAIR}
"""Columns: log-prob sums of y1 (chosen) and y2 (rejected) under M0, nats."""
RIGHT = "right_side"
"""Column: 1 where y1 alone is right, -1 where y2 alone is, 0 where that is unknown."""
ORDERS = ("verdict", "swapped")
"""Questions: y1 shown first, y2 shown first."""
LABELS = ("first", "second")
VERDICTS = tuple(f"{order}_{label}" for order in ORDERS for label in LABELS)
"""Roles of the two answers to either question."""
SAME_LENGTH = 0.1
"""Answers whose lengths differ by no more than this share of the longer count as equally long."""

Flow = Literal["both", "implicit", "judge"]


@dataclass(frozen=True, slots=True)
class Judges:
    """What both judges say of the pairs of a micro-batch."""

    a: Logit
    b: Logit
    c: Logit
    mass: Float[Tensor, " pair"]
    """Smaller of the two probabilities, one per order, that the answer is one of the labels."""
    asked: Bool[Tensor, " pair"]
    """Whether the pair has its verdict questions."""
    turns: Bool[Tensor, " pair"]
    """Whether the verdict names the same place in both orders."""


def judges(
    inputs: ObjectiveInputs,
    logps: Mapping[str, PerExample],
    *,
    reward_beta: float,
    temperature: float,
) -> Judges:
    """Both judges' preferences.

    Args:
        inputs: Of the micro-batch.
        logps: Sums by role, of the model in training or of the policy at the start.
        reward_beta: beta_r > 0.
        temperature: T_j > 0.
    """
    ratios = [logps[side] - inputs.columns[SEED_LOGPS[side]] for side in PAIR]
    d12, d21 = (logps[f"{order}_first"] - logps[f"{order}_second"] for order in ORDERS)
    masses = [
        torch.logaddexp(logps[f"{order}_first"], logps[f"{order}_second"]).exp() for order in ORDERS
    ]
    return Judges(
        reward_beta * (ratios[0] - ratios[1]),
        verdict_logit(d12, d21, temperature=temperature),
        position_bias(d12, d21),
        torch.minimum(*masses).detach(),
        inputs[VERDICTS[0]].present & inputs[VERDICTS[2]].present,
        (d12.sign() == d21.sign()).detach(),
    )


def scir(
    fingerprint: str,
    *,
    beta: float,
    reward_beta: float,
    consistency_weight: float,
    preference_weight: float,
    entropy_weight: float,
    entropy_cap: float,
    margin: float,
    temperature: float,
    label_mass: float,
    gradient: Flow,
    frozen_labels: bool,
    all_judged: bool,
) -> Objective:
    """The loss of `scir_pair_loss` on a model's own verdicts.

    Args:
        fingerprint: What the loss computes.
        beta: Strength of the loss reference in the preference, > 0.
        reward_beta: Scale of the implicit judge, > 0.
        consistency_weight: lambda >= 0.
        preference_weight: Factor on the preference, >= 0.
        entropy_weight: gamma >= 0.
        entropy_cap: See `capped_entropy`.
        margin: delta, see `agreed_sign`.
        temperature: T_j > 0.
        label_mass: Probability of a label below which the judge said nothing.
        gradient: Which judge the consistency part moves.
        frozen_labels: Take the labels of the policy at the start, not those of the step.
        all_judged: Take the judge's sign for every pair, whether the implicit judge agrees or not.
    """

    def now(inputs: ObjectiveInputs) -> Judges:
        logps = {role: inputs[role].logps for role in (*PAIR, *VERDICTS)}
        return judges(inputs, logps, reward_beta=reward_beta, temperature=temperature)

    def at_start(inputs: ObjectiveInputs) -> Judges:
        logps = {role: start_of(inputs[role]).sum(-1) for role in (*PAIR, *VERDICTS)}
        return judges(inputs, logps, reward_beta=reward_beta, temperature=temperature)

    def known(both: Judges) -> Bool[Tensor, " pair"]:
        return both.asked & (both.mass >= label_mass)

    def labels(both: Judges) -> Logit:
        sign = both.b.detach().sign() if all_judged else agreed_sign(both.a, both.b, margin=margin)
        return torch.where(known(both), sign, torch.zeros_like(sign))

    def margins(inputs: ObjectiveInputs) -> Logit:
        one, other = (inputs[side].logps - reference_of(inputs[side]) for side in PAIR)
        return beta * (one - other)

    def loss(inputs: ObjectiveInputs) -> PerExample:
        both = now(inputs)
        a = both.a.detach() if gradient == "judge" else both.a
        b = both.b.detach() if gradient == "implicit" else both.b
        sign = labels(at_start(inputs) if frozen_labels else both)
        pulled = consistency_loss(a, b, entropy_weight=entropy_weight, entropy_cap=entropy_cap)
        pulled = torch.where(known(both), pulled, torch.zeros_like(pulled))
        preferred = labelled_loss(margins(inputs), sign)
        return preference_weight * preferred + consistency_weight * pulled

    @torch.no_grad()
    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        both, x = now(inputs), margins(inputs)
        judged, sign = known(both), labels(at_start(inputs) if frozen_labels else both)
        found = {**_figures(both, judged), **_truths(both, judged, inputs.columns[RIGHT])}
        lengths = torch.stack([inputs[side].lengths for side in PAIR])
        level = (lengths[0] - lengths[1]).abs() <= SAME_LENGTH * lengths.amax(0)
        found["scir/agreement_same_length"] = _of(judged & level, _agree(both))
        found["scir/kept"] = (sign != 0).float()
        found["rewards/margins"] = _of(sign != 0, sign * x)
        if frozen_labels:
            live = labels(both)
            found["scir/flip_rate"] = _of((sign != 0) & (live != 0), (live != sign).float())
        return found

    needs = Needs(
        (*PAIR, *VERDICTS),
        optional=VERDICTS,
        references=PAIR,
        columns=(*SEED_LOGPS.values(), RIGHT),
        start_logps=frozen_labels,
    )
    return Objective("scir", fingerprint, needs, loss, metrics=metrics, warnings=judge_warnings)


def _of(known: Bool[Tensor, " pair"], value: Tensor) -> Tensor:
    return torch.where(known, value, torch.nan)


def _agree(both: Judges) -> Tensor:
    return (agreed_sign(both.a, both.b, margin=0.0) != 0).float()


def _figures(both: Judges, judged: Bool[Tensor, " pair"]) -> dict[str, Tensor]:
    return {
        "scir/agreement": _of(judged, _agree(both)),
        "scir/divergence": _of(judged, divergence(both.a, both.b)),
        "scir/implicit_size": _of(judged, both.a.abs()),
        "scir/judge_size": _of(judged, both.b.abs()),
        "scir/position_bias": _of(judged, both.c.abs()),
        "scir/verdict_turns": _of(judged, both.turns.float()),
        "scir/label_mass": _of(both.asked, both.mass),
        "scir/judged": judged.float(),
    }


def _truths(both: Judges, judged: Bool[Tensor, " pair"], right: Tensor) -> dict[str, Tensor]:
    """What the verifier says of either judge, on pairs of a right and a wrong answer."""
    decided = judged & (right != 0)
    implicit, judge = both.a.sign() == right, both.b.sign() == right
    told = {
        "implicit_accuracy": implicit,
        "judge_accuracy": judge,
        "both_right": implicit & judge,
        "both_wrong": (both.a.sign() == -right) & (both.b.sign() == -right),
    }
    return {f"scir/{name}": _of(decided, value.float()) for name, value in told.items()}


def judge_warnings(metrics: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Sentences where the judge was hardly one: without labels, or answering by place."""
    said = []
    judged = [step["scir/judged"] for step in metrics if "scir/judged" in step]
    if judged and sum(judged) < 0.5 * len(judged):
        said.append(
            f"the model answered with a label on {sum(judged) / len(judged):.0%} of the pairs; the "
            "others were not trained on. Put verdicts into the seed data (data.seed.verdicts)."
        )
    turns = [step["scir/verdict_turns"] for step in metrics if "scir/verdict_turns" in step]
    if turns and sum(turns) > 0.5 * len(turns):
        said.append(
            f"{sum(turns) / len(turns):.0%} of the verdicts named the same place in both orders: "
            "the judge answers by position more than by content."
        )
    return tuple(said)
