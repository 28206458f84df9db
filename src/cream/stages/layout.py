"""The score matrix as padded groups, and every quantity a recipe can name computed on it.

A quantity is a number per completion with its noise (`cream.algorithms.rewards.Reward`), read from
the columns that it names and from no others. Where truncated completions pay a penalty, they pay it
in every quantity that is ranked: pairs, tau, witnesses and calibration speak of the same order.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from cream.algorithms.advantages import majority
from cream.algorithms.groups import among_copies, group_rows, pad, pad_counts, pad_flags
from cream.algorithms.null_consistency import Rating, partial_kendall, residual_kendall
from cream.algorithms.pairing import (
    Candidates,
    drop_truncated,
    keep_truncated,
)
from cream.algorithms.ranking import (
    RankAgreement,
    by_position,
    kendall_tau,
    spearman,
    top_order,
    weighted_tau,
)
from cream.algorithms.rewards import (
    Reward,
    difference,
    ensemble_lower_bound,
    ensemble_mean,
    ensemble_min,
    exact,
    length_alpha,
    likelihood,
    penalise_truncated,
    per_token,
    subtract_length,
    vote_share,
)
from cream.recipe.pairing import Penalise
from cream.recipe.parts import (
    Agreement,
    AnyQuantity,
    Ensemble,
    LengthRegularised,
    LogpQuantity,
    Majority,
    ScoreQuantity,
    Statistic,
    Votes,
)
from cream.recipe.policy_gradient import GroupRule
from cream.recipe.witness import shared_terms
from cream.types import ScoreMatrix


class Layout:
    """A score matrix, its groups, and which completions count."""

    def __init__(self, matrix: ScoreMatrix, rule: GroupRule, reward: AnyQuantity) -> None:
        """Lay a matrix out.

        Args:
            matrix: Scores of the completions.
            rule: Says whether truncated completions count.
            reward: Quantity that picks the pairs: a penalty of the rule is in its unit.
        """
        self.matrix = matrix
        self.rule = rule
        self.reward = reward
        self.groups = group_rows(matrix.group_offsets, matrix.ids_hash)
        self.num_tokens = pad_counts(matrix.num_tokens, self.groups)
        self.truncated = pad_flags(matrix.truncated, self.groups)
        self._alphas: dict[LengthRegularised, float] = {}
        self._likelihoods: dict[str, Reward] = {}

    @property
    def usable(self) -> Bool[np.ndarray, "prompt member"]:
        """Completions that may be paired, copies included."""
        dropped = self.truncated if self.rule.truncated == "drop" else False
        return self.groups.present & ~np.asarray(dropped)

    def made_by(self, *origins: str) -> Bool[np.ndarray, "prompt member"]:
        """Completions of which one of the named made a copy.

        Raises:
            ValueError: The origin of completions was not read.
        """
        if self.matrix.origin is None:
            raise ValueError("the matrix was read without the origin of its completions")
        return among_copies(np.isin(self.matrix.origin, origins), self.groups)

    def quantity(self, spec: AnyQuantity) -> Reward:
        """Compute a quantity as it is ranked, the penalty of truncated completions included.

        The penalty is in the unit of the reward that picks the pairs. A log-probability quantity of
        the other kind, per token or summed, pays as much per completion. What has no unit in common
        with that reward (a score, a vote) pays nothing, unless it is that reward.

        Raises:
            KeyError: The matrix lacks a column that it names.
        """
        computed = self._compute(spec)
        if not isinstance(self.rule.truncated, Penalise):
            return computed
        penalty = np.full(self.num_tokens.shape, self.rule.truncated.penalty)
        own, picking = _is_per_token(spec), _is_per_token(self.reward)
        if spec != self.reward:
            if own is None or picking is None:
                return computed
            tokens = np.maximum(self.num_tokens, 1)  # padding only
            if own != picking:
                penalty = penalty / tokens if own else penalty * tokens
        return penalise_truncated(computed, self.truncated, penalty=penalty)

    def _compute(self, spec: AnyQuantity) -> Reward:
        match spec:
            case LogpQuantity():
                return self._logp(spec)
            case ScoreQuantity(column=column):
                return exact(pad(self.matrix.scores[column], self.groups))
            case LengthRegularised(base=base):
                return subtract_length(
                    self._logp(base), self.num_tokens, alpha=self.length_alpha(spec)
                )
            case Ensemble(members=members, combine=combine):
                rewards = [self._logp(member) for member in members]
                if combine == "mean":
                    return ensemble_mean(rewards)
                if combine == "min":
                    return ensemble_min(rewards)
                return ensemble_lower_bound(rewards, num_stds=combine.num_stds)
            case Votes(column=column):
                return vote_share(self.answers(column), self.groups)
            case Majority(column=column):
                return exact(majority(self.answers(column), self.groups.present))

    def answers(self, column: str) -> Int64[np.ndarray, "prompt member"]:
        """Codes of the texts of a label column, copies included; -1 where there is none."""
        answers = np.full(self.groups.rows.shape, -1, dtype=np.int64)
        answers[self.groups.present] = self.matrix.labels[column]
        return answers

    def length_alpha(self, spec: LengthRegularised) -> float:
        """The fitted price of a token, nats."""
        if spec not in self._alphas:
            counted = self.distinct
            self._alphas[spec] = length_alpha(self._logp(spec.base), self.num_tokens, counted)
        return self._alphas[spec]

    def candidates(self) -> Candidates:
        """Completions that may be paired, with the reward that ranks them."""
        reward = self.quantity(self.reward)
        if self.rule.truncated == "drop":
            return drop_truncated(self.groups, reward, self.truncated)
        return keep_truncated(self.groups, reward)

    def correlation(self, spec: Agreement) -> RankAgreement:
        """How far two rankings agree, per prompt, over the completions that may be paired."""
        return self.agreement(spec.statistic, *self.ratings(spec))

    @property
    def distinct(self) -> Bool[np.ndarray, "prompt member"]:
        """Completions that may be paired, of copies the first."""
        return self.usable & self.groups.distinct

    def ratings(self, spec: Agreement) -> tuple[Rating, Rating]:
        """What is compared, with what both hold: 0 everywhere if they share nothing."""
        held = shared_terms(spec.first, spec.second)
        first, second = self.quantity(spec.first), self.quantity(spec.second)
        if held is None:
            nothing = exact(np.zeros(self.groups.rows.shape))
            return Rating(first, nothing), Rating(second, nothing)
        shared = []
        for term, sign in held:
            rating = self._logp(term)
            shared.append(Reward(sign * rating.values, rating.noise))
        return Rating(first, shared[0]), Rating(second, shared[1])

    def agreement(
        self, statistic: Statistic | Literal["kendall_by_position"], one: Rating, other: Rating
    ) -> RankAgreement:
        """Compare two ratings of the completions that may be paired."""
        first, second, distinct = one.reward, other.reward, self.distinct
        match statistic:
            case "kendall":
                return kendall_tau(first, second, distinct)
            case "residual_kendall":
                return residual_kendall(one, other, distinct)
            case "partial_kendall":
                return partial_kendall(one, other, distinct)
            case "spearman":
                return spearman(first, second, distinct)
            case "weighted_tau":
                return weighted_tau(first, second, distinct)
            case "top_order":
                return top_order(first, second, distinct)
            case "kendall_by_position":
                counted = self.usable
                return kendall_tau(
                    by_position(first, counted), by_position(second, counted), counted
                )

    def _logp(self, spec: LogpQuantity) -> Reward:
        model = self._likelihood(spec.model)
        match spec.unit:
            case "likelihood":
                return model
            case "mean_likelihood":
                return per_token(model, self.num_tokens)
            case "implicit":
                return difference(model, self._likelihood(spec.reference))
            case "implicit_per_token":
                reference = self._likelihood(spec.reference)
                return per_token(difference(model, reference), self.num_tokens)

    def _likelihood(self, model: str) -> Reward:
        if model not in self._likelihoods:
            self._likelihoods[model] = likelihood(
                pad(self.matrix.logps[model], self.groups),
                self.num_tokens,
                noise_floor=self.matrix.noise[model],
            )
        return self._likelihoods[model]


def _is_per_token(spec: AnyQuantity) -> bool | None:
    """Whether a quantity is in nats per token, or in nats; None if it is in neither."""
    match spec:
        case LogpQuantity(unit=unit):
            return unit in ("mean_likelihood", "implicit_per_token")
        case LengthRegularised(base=base):
            return _is_per_token(base)
        case Ensemble(members=members):
            kinds = {_is_per_token(member) for member in members}
            return kinds.pop() if len(kinds) == 1 else None
        case ScoreQuantity() | Votes() | Majority():
            return None
