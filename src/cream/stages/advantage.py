"""The score matrix to advantages: what each sample is worth against the others of its prompt.

Pure functions of stored numbers, like `cream.stages.pair`. Every sample counts, copies included;
what is not trained on is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from cream.algorithms.advantages import (
    group_deviation,
    group_mean,
    largest_vote,
    leave_one_out,
    varies,
)
from cream.algorithms.groups import Groups, pad
from cream.algorithms.policy_gradient import (
    ACTION,
    ADVANTAGE,
    REFERENCE,
    REWARD,
    VOTE_SHARE,
    sample_roles,
)
from cream.algorithms.token_rewards import (
    aligned_leave_one_out,
    centred,
    gae,
    less_divergence,
    whitened,
)
from cream.recipe.columns import EXTRACTED
from cream.recipe.parts import MethodParts
from cream.recipe.policy_gradient import Advantage, TokenAdvantage
from cream.stages.layout import Layout
from cream.types import Example, ScoreMatrix, Tally, TokenSequence

TRAINED = "trained"
TRUNCATED = "truncated"
"""Cut off at the token limit and left out for it; of a prompt: fewer than two samples are left."""
UNSCORED = "unscored"
"""No reward; of a prompt: fewer than two samples have one."""
NO_VARIANCE = "no_variance"
"""All rewards of the prompt are alike, so that no sample is better than another."""
ALONE = "alone"
"""The only sample of its prompt that could be trained on."""
OUTCOMES = (TRAINED, NO_VARIANCE, UNSCORED, TRUNCATED)
SAMPLE_OUTCOMES = (*OUTCOMES, ALONE)

Padded = Float64[np.ndarray, "prompt member"]


@dataclass(frozen=True, slots=True)
class WeighedAction:
    """A solution or a check within a sample that is trained on."""

    kind: str
    opened: int
    """Position of its first token after the phrase that opens it."""
    end: int
    """Position after its last token."""
    reward: float
    advantage: float
    compared_with: str
    """What the actions that its reward is compared with have in common with it."""


@dataclass(frozen=True)
class Advantages:
    """What became of the samples of an iteration."""

    layout: Layout
    reward: Padded
    """NaN where a sample has none."""
    kl: Padded | None
    """Log-ratio of M_t against the loss reference, nats per completion; None if none is paid."""
    advantage: Padded
    """NaN where a sample is not trained on; of advantages of tokens their mean."""
    outcome: np.ndarray
    """Per prompt, one of `OUTCOMES`."""
    sample_outcome: np.ndarray
    """``(prompt, member)``, one of `SAMPLE_OUTCOMES`; empty in padding."""
    vote_share: Float64[np.ndarray, " prompt"]
    """See `cream.algorithms.advantages.largest_vote`; NaN where no answer is found."""
    actions: Mapping[str, tuple[WeighedAction, ...]] | None = None
    """By completion id, of the samples that are trained on; None where samples are weighed whole,
    else the advantage of a sample is the mean of those of its actions."""

    @property
    def tally(self) -> Tally:
        """Prompts by outcome."""
        found = {name: int((self.outcome == name).sum()) for name in OUTCOMES}
        return Tally(len(self.outcome), found)

    @property
    def sample_tally(self) -> Tally:
        """Samples by outcome."""
        found = {name: int((self.sample_outcome == name).sum()) for name in SAMPLE_OUTCOMES}
        return Tally(int(self.layout.groups.present.sum()), found)


def weigh(matrix: ScoreMatrix, parts: MethodParts, *, policy: str, reference: str) -> Advantages:
    """Advantages of one iteration.

    Args:
        matrix: Scores of M_t's samples.
        parts: What the reward is, and how it becomes an advantage.
        policy: Name of M_t.
        reference: Name of the loss reference, for a divergence off the reward.

    Raises:
        KeyError: The matrix lacks a column that is read.
    """
    rule = parts.advantage
    assert rule is not None, "stages of advantages are planned for methods that have them"
    layout = Layout(matrix, rule, parts.reward)
    groups, quantity = layout.groups, layout.quantity(parts.reward)
    reward = _of_copies(quantity.values, groups)
    noise = np.nan_to_num(_of_copies(quantity.noise, groups))
    counted = layout.usable & ~np.isnan(reward)
    by_token = isinstance(rule, TokenAdvantage)
    least = 1 if by_token and rule.baseline == "none" else 2
    enough = counted & (counted.sum(1, keepdims=True) >= least)
    differs = varies(reward, noise, enough)
    trained = enough if rule.without_variance == "keep" else enough & differs[:, None]
    kl = None
    if rule.kl is not None:
        kl = pad(matrix.logps[policy] - matrix.logps[reference], groups)
    advantage = np.zeros_like(reward) if by_token else _advantage(rule, reward, kl, enough)
    sample_outcome = np.full(reward.shape, "", dtype=object)
    sample_outcome[groups.present] = UNSCORED
    sample_outcome[groups.present & ~layout.usable] = TRUNCATED
    sample_outcome[counted] = ALONE
    sample_outcome[enough] = NO_VARIANCE
    sample_outcome[trained] = TRAINED
    return Advantages(
        layout,
        reward,
        kl,
        np.where(trained, advantage, np.nan),
        _outcomes(layout, enough.any(1), trained.any(1), least),
        sample_outcome,
        _vote_share(layout),
    )


def _advantage(rule: Advantage, reward: Padded, kl: Padded | None, counted: np.ndarray) -> Padded:
    """``(R - b) / s``, the divergence taken off R or off the whole."""
    beta = 0.0 if rule.kl is None else rule.kl.beta
    paid = 0.0 if kl is None else beta * kl
    inside = rule.kl is not None and rule.kl.place == "reward"
    value = reward - paid if inside else reward
    baselines = {
        "leave_one_out": leave_one_out,
        "group_mean": group_mean,
        "none": lambda rewards, _: np.zeros_like(rewards),
    }
    found = value - baselines[rule.baseline](value, counted)
    if rule.scale == "group_std":
        with np.errstate(divide="ignore", invalid="ignore"):  # groups that are left out
            found = found / group_deviation(value, counted)
    return found if inside else found - paid


def of_tokens(
    found: Advantages,
    rule: TokenAdvantage,
    rewards: Mapping[str, Sequence[float]],
    logps: tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]] | None,
) -> tuple[Advantages, dict[str, list[float]]]:
    """Advantages of single tokens of the samples that are trained on.

    Args:
        found: Of `weigh`, which says what is trained on.
        rule: How a token's advantage comes about.
        rewards: Rewards of tokens by completion id.
        logps: Log-probabilities of tokens by completion id under M_t and under the loss reference;
            None where no divergence is paid.

    Returns:
        The same with each sample's mean, and the advantages by completion id, in order.

    Raises:
        KeyError: A completion is not there (a damaged run).
    """
    groups, ids = found.layout.groups, found.layout.matrix.completion_ids
    trained = found.sample_outcome == TRAINED
    credit: dict[str, np.ndarray] = {}
    for g in np.flatnonzero(trained.any(1)).tolist():
        keys = [str(ids[row]) for row in groups.rows[g, trained[g]]]
        own = [_reward_to_go(key, rule, rewards, logps) for key in keys]
        given = own if rule.baseline == "none" else aligned_leave_one_out(own)
        credit |= dict(zip(keys, given, strict=True))
    if rule.whiten:
        credit = dict(zip(credit, whitened(list(credit.values())), strict=True))
    means = found.advantage.copy()
    means[trained] = [credit[str(ids[row])].mean() for row in groups.rows[trained]]
    return replace(found, advantage=means), {key: v.tolist() for key, v in credit.items()}


def _reward_to_go(
    key: str,
    rule: TokenAdvantage,
    rewards: Mapping[str, Sequence[float]],
    logps: tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]] | None,
) -> np.ndarray:
    own = centred(np.array(rewards[key], dtype=np.float64), 0.0, rule.clip)
    if rule.kl is not None and logps is not None:
        policy, reference = (np.array(under[key], dtype=np.float64) for under in logps)
        own = less_divergence(own, policy, reference, beta=rule.kl.beta)
    return gae(own, np.zeros_like(own), discount=rule.discount, decay=rule.decay)


def _of_copies(values: Padded, groups: Groups) -> Padded:
    """Values of first copies for the later ones too, which votes leave without any."""
    found = values.copy()
    for g, member in np.argwhere(groups.present & ~groups.distinct & np.isnan(values)).tolist():
        same = groups.distinct[g] & (groups.ids_hash[g] == groups.ids_hash[g, member])
        found[g, member] = values[g, np.flatnonzero(same)[0]]
    return found


def _outcomes(layout: Layout, enough: np.ndarray, trained: np.ndarray, least: int) -> np.ndarray:
    found = np.full(len(enough), UNSCORED, dtype=object)
    found[layout.usable.sum(1) < least] = TRUNCATED
    found[enough] = NO_VARIANCE
    found[trained] = TRAINED
    return found


def _vote_share(layout: Layout) -> Float64[np.ndarray, " prompt"]:
    if EXTRACTED not in layout.matrix.labels:
        return np.full(len(layout.matrix.prompt_ids), np.nan)
    return largest_vote(layout.answers(EXTRACTED), layout.groups.present)


@dataclass(frozen=True, slots=True)
class WeighedSample:
    """A sample that is trained on."""

    prompt_id: str
    completion_id: str
    reward: float
    advantage: float
    actions: tuple[WeighedAction, ...] | None = None
    """None where it is weighed whole."""


def sample_examples(
    samples: Iterable[WeighedSample],
    token_ids: Mapping[str, tuple[int, ...]],
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    vote_share: Mapping[str, float],
    reference: Mapping[str, tuple[float, ...]] | None = None,
    by_token: Mapping[str, tuple[float, ...]] | None = None,
    *,
    phrases: bool = True,
) -> list[Example]:
    """One example per prompt, its samples as sequences, with the advantage of each token.

    Args:
        samples: Of all prompts.
        token_ids: By completion id.
        prompt_token_ids: By prompt id.
        vote_share: By prompt id; NaN where there is none.
        reference: Token log-probabilities under the loss reference by completion id, or None.
        by_token: Advantages of single tokens by completion id, or None: those of the samples.
        phrases: Whether the phrase that opens an action is part of it, or not trained on.

    Raises:
        KeyError: A completion or prompt is not there (a damaged run).
    """
    groups: dict[str, list[WeighedSample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    return [
        Example(
            prompt,
            prompt_token_ids[prompt],
            {
                role: _sequence(
                    sample, token_ids[sample.completion_id], reference, by_token, phrases
                )
                for role, sample in zip(sample_roles(len(group)), group, strict=True)
            },
            {REWARD: sum(s.reward for s in group) / len(group), VOTE_SHARE: vote_share[prompt]},
        )
        for prompt, group in groups.items()
    ]


def _sequence(
    sample: WeighedSample,
    ids: tuple[int, ...],
    reference: Mapping[str, tuple[float, ...]] | None,
    by_token: Mapping[str, tuple[float, ...]] | None,
    phrases: bool,
) -> TokenSequence:
    same = (sample.advantage,) * len(ids)
    columns = {ADVANTAGE: same if by_token is None else by_token[sample.completion_id]}
    if sample.actions is not None:
        columns = _action_columns(sample.actions, phrases=phrases)
    if reference is not None:
        columns[REFERENCE] = reference[sample.completion_id]
    return TokenSequence(ids, token_columns=columns)


def _action_columns(
    actions: Sequence[WeighedAction], *, phrases: bool
) -> dict[str, tuple[float, ...]]:
    """Per token the number of its action and the advantage of that."""
    number: list[float] = []
    advantage: list[float] = []
    for k, action in enumerate(actions):
        start = len(number)
        first = start if phrases else action.opened
        number += [-1.0] * (first - start) + [float(k)] * (action.end - first)
        advantage += [0.0] * (first - start) + [action.advantage] * (action.end - first)
    return {ADVANTAGE: tuple(advantage), ACTION: tuple(number)}
