"""Preference degree: how much key content an answer lost, told from the policy's own states (SPO).

A small head reads the hidden state after the last token of an answer of which some key phrases were
removed (`cream.algorithms.keyphrases`) and tells how many. Its cross-entropy is added to any loss
over pairs. The label says nothing of which answer is better: two heads, one per side, and no order
between sides.

Source: Li et al., arXiv 2409.17791, of which the abstract alone could be read, and whose code was
never published; labels, heads, weights and initial values are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cream.algorithms.objective import Auxiliary, Needs, Objective, ObjectiveInputs, PerExample

HEADS = "degree"
"""Name of the module, and of its gradient norm."""
STUCK_SHARE = 0.01
"""A loss that stays this near ln K has learnt nothing."""


def role_of(side: str, degree: int) -> str:
    """Role of the version of a side with that degree: the label is the name."""
    return f"degree_{side}_{degree}"


def degree_cross_entropy(logits: Float[Tensor, "answer degree"], degree: int) -> PerExample:
    """-log softmax(logits)[degree], nats; ``d/dlogits = p - e_degree``; ln K at equal logits."""
    return torch.logsumexp(logits, -1) - logits[:, degree]


def zero_heads(hidden_size: int, degrees: int, sides: Sequence[str], *, shared: bool) -> nn.Module:
    """A linear head per side, or one for all, of zeros: no gradient reaches the states at first."""
    names = ["all"] if shared else sides
    heads = nn.ModuleDict({name: nn.Linear(hidden_size, degrees) for name in names})
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    return heads


def preference_degree(
    fingerprint: str,
    *,
    gamma: float,
    degrees: int,
    sides: Sequence[str],
    shared_head: bool,
    stop_gradient: bool,
    learning_rate: float,
    weight_decay: float,
) -> Objective:
    """The term ``gamma * mean over an example's derived answers of their cross-entropy``.

    An example weighs the same however many derived answers it has; one without any gets 0.

    Args:
        fingerprint: What the term computes.
        gamma: Weight, > 0.
        degrees: K >= 2.
        sides: ``chosen``, ``rejected`` or both.
        shared_head: One head for both sides.
        stop_gradient: The heads learn and the model does not hear of them: a probe.
        learning_rate: Of the heads, > 0.
        weight_decay: Of the heads, >= 0.
    """
    roles = {role_of(side, k): (side, k) for side in sides for k in range(degrees)}

    def logits(inputs: ObjectiveInputs) -> Mapping[str, Float[Tensor, "example degree"]]:
        heads, found = inputs.auxiliary[HEADS], {}
        assert isinstance(heads, nn.ModuleDict)
        for role, (side, _) in roles.items():
            states = inputs[role].hidden
            if states is not None and inputs[role].present.any():
                states = states.detach() if stop_gradient else states
                found[role] = heads["all" if shared_head else side](states)
        return found

    def mean(
        inputs: ObjectiveInputs, values: Mapping[str, PerExample], *, absent: float
    ) -> PerExample:
        present = {role: inputs[role].present for role in values}
        count = sum(known.float() for known in present.values())
        total = sum(torch.where(present[role], value, 0.0) for role, value in values.items())
        if not isinstance(total, Tensor) or not isinstance(count, Tensor):
            return torch.full_like(inputs[next(iter(roles))].present, absent, dtype=torch.float32)
        return torch.where(count > 0, total / count.clamp_min(1.0), absent)

    def entropies(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        return {r: degree_cross_entropy(z, roles[r][1]) for r, z in logits(inputs).items()}

    def loss(inputs: ObjectiveInputs) -> PerExample:
        return gamma * mean(inputs, entropies(inputs), absent=0.0)

    @torch.no_grad()
    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        told = {r: (z.argmax(-1) == roles[r][1]).float() for r, z in logits(inputs).items()}
        return {
            "degree/loss": mean(inputs, entropies(inputs), absent=math.nan),
            "degree/accuracy": mean(inputs, told, absent=math.nan),
        }

    def heads(hidden_size: int) -> Mapping[str, Auxiliary]:
        module = zero_heads(hidden_size, degrees, sides, shared=shared_head)
        return {HEADS: Auxiliary(module, learning_rate, weight_decay)}

    return Objective(
        HEADS,
        fingerprint,
        Needs((), read=tuple(roles), optional=tuple(roles), hidden=dict.fromkeys(roles, "last")),
        loss,
        metrics=metrics,
        auxiliary=heads,
        warnings=lambda steps: stuck(steps, degrees=degrees),
    )


def stuck(steps: Sequence[Mapping[str, float]], *, degrees: int) -> tuple[str, ...]:
    """A sentence if the heads of a training of ten steps or more learnt nothing."""
    chance = math.log(degrees)
    losses = [step["degree/loss"] for step in steps if "degree/loss" in step]
    if len(losses) < 10 or any(abs(loss - chance) > STUCK_SHARE * chance for loss in losses):
        return ()
    return (
        f"the degree heads stayed at chance (loss ln {degrees} = {chance:.3f} in all "
        f"{len(losses)} steps): raise objective.degree.head_learning_rate, or train longer.",
    )
