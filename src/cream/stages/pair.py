"""The score matrix to preference pairs: rank, compare rankings, pair, weigh. No model needed.

Everything here is a pure function of stored numbers, so pairs can be made again with other settings
in seconds. Only the columns that `MethodParts` names are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cream.algorithms.consistency import (
    BelowHalf,
    ConsistencySummary,
    apply_below_half,
    consistency_rates,
    sample_level,
    set_level,
    summarise,
)
from cream.algorithms.groups import Groups, group_rows, pad, pad_counts, pad_flags
from cream.algorithms.pairing import (
    Candidates,
    Outcome,
    Pairs,
    best_worst,
    drop_truncated,
    keep_truncated,
)
from cream.algorithms.ranking import (
    Agreement,
    Definedness,
    kendall_tau,
    spearman,
    top_order,
    weighted_tau,
)
from cream.algorithms.rewards import Reward, difference, exact, likelihood, per_token
from cream.recipe.parts import Agreement as AgreementSpec
from cream.recipe.parts import BestWorst, LogpQuantity, MethodParts, ScoreQuantity
from cream.types import PairTable, ScoreMatrix, Tally


@dataclass(frozen=True)
class PromptTable:
    """What was decided about each prompt, as columns."""

    prompt_ids: np.ndarray
    num_completions: np.ndarray
    num_distinct: np.ndarray
    correlation: np.ndarray
    """Tau (or the statistic chosen), NaN where undefined."""
    definedness: np.ndarray
    """Why the correlation is undefined, ``defined`` where it is not; empty if not measured."""
    outcome: np.ndarray
    """``paired`` or the reason why there is no pair."""


@dataclass(frozen=True)
class PairingResult:
    """Pairs of one iteration with everything that explains them."""

    pairs: PairTable
    prompts: PromptTable
    consistency: ConsistencySummary | None
    """C of the two rankings compared, never floored; None if none were compared."""
    tally: Tally
    """Prompts: paired, or dropped by reason."""


def pair(
    matrix: ScoreMatrix,
    parts: MethodParts,
    *,
    generator: np.random.Generator,
    report_consistency: bool = True,
) -> PairingResult:
    """Make the pairs of one iteration.

    Args:
        matrix: Scores of the iteration's completions.
        parts: What the method ranks by, compares, and pairs.
        generator: For the bootstrap interval of C.
        report_consistency: Also measure C for methods that do not use it.

    Raises:
        KeyError: The matrix lacks a column that `parts` names.
        DataError: C enters the loss but is defined for no prompt.
    """
    layout = _Layout(matrix)
    reward = layout.quantity(parts.reward)
    tie_break = layout.quantity(parts.tie_break) if parts.tie_break else None
    candidates = _candidates(layout, reward, parts.pairing)
    pairs = best_worst(candidates, min_gap=parts.pairing.min_gap, tie_break=tie_break)
    used = parts.agreement
    compared = used or (parts.reported if report_consistency else None)
    counted = layout.groups.distinct & ~candidates.excluded
    correlation = layout.correlation(compared, counted) if compared else None
    rates = _rates(compared, correlation) if compared and correlation else None
    if used and rates and len(pairs.prompt):
        by_prompt = (
            np.full(len(matrix.prompt_ids), set_level(rates))
            if used.level == "set"
            else sample_level(rates)
        )
        in_loss = apply_below_half(by_prompt[pairs.prompt], BelowHalf(used.below_half))
        values, kept = in_loss.values, in_loss.kept
    else:
        values, kept = np.ones(len(pairs.prompt)), np.ones(len(pairs.prompt), dtype=bool)
    outcome = _outcome_names(pairs, kept)
    return PairingResult(
        pairs=_pair_table(matrix, layout.groups, reward, pairs, values, kept),
        prompts=_prompt_table(matrix, layout.groups, correlation, outcome),
        consistency=summarise(rates, generator) if rates else None,
        tally=_tally(outcome),
    )


class _Layout:
    """The matrix as padded groups, and quantities computed on it."""

    def __init__(self, matrix: ScoreMatrix) -> None:
        self.matrix = matrix
        self.groups: Groups = group_rows(matrix.group_offsets, matrix.ids_hash)
        self.num_tokens = pad_counts(matrix.num_tokens, self.groups)
        self.truncated = pad_flags(matrix.truncated, self.groups)

    def quantity(self, spec: LogpQuantity | ScoreQuantity) -> Reward:
        if isinstance(spec, ScoreQuantity):
            return exact(pad(self.matrix.scores[spec.column], self.groups))
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

    def correlation(self, spec: AgreementSpec, counted: np.ndarray) -> Agreement:
        statistic = {
            "kendall": kendall_tau,
            "spearman": spearman,
            "weighted_tau": weighted_tau,
            "top_order": top_order,
        }[spec.statistic]
        return statistic(self.quantity(spec.first), self.quantity(spec.second), counted)

    def _likelihood(self, model: str) -> Reward:
        return likelihood(
            pad(self.matrix.logps[model], self.groups),
            self.num_tokens,
            noise_floor=self.matrix.noise[model],
        )


def _rates(spec: AgreementSpec, correlation: Agreement) -> Agreement:
    # TopOrder is a rate already; the others are correlations in [-1, 1].
    return correlation if spec.statistic == "top_order" else consistency_rates(correlation)


def _candidates(layout: _Layout, reward: Reward, spec: BestWorst) -> Candidates:
    """Completions that may be paired, and so the ones whose ranking C is about."""
    if spec.truncated == "drop":
        return drop_truncated(layout.groups, reward, layout.truncated)
    return keep_truncated(layout.groups, reward)


BELOW_HALF = "below_half"
"""Outcome of a prompt whose pair was dropped because its C is below 1/2."""


def _outcome_names(pairs: Pairs, kept: np.ndarray) -> np.ndarray:
    names = np.array([kind.name.lower() for kind in Outcome], dtype=object)[pairs.outcome]
    names[np.setdiff1d(pairs.prompt[~kept], pairs.prompt[kept])] = BELOW_HALF
    return names


def _tally(outcome: np.ndarray) -> Tally:
    names = [*(kind.name.lower() for kind in Outcome), BELOW_HALF]
    return Tally(len(outcome), {name: int((outcome == name).sum()) for name in names})


def _pair_table(
    matrix: ScoreMatrix,
    groups: Groups,
    reward: Reward,
    pairs: Pairs,
    consistency: np.ndarray,
    kept: np.ndarray,
) -> PairTable:
    prompt, chosen, rejected = pairs.prompt[kept], pairs.chosen[kept], pairs.rejected[kept]
    return PairTable(
        prompt_ids=matrix.prompt_ids[prompt],
        chosen_ids=matrix.completion_ids[groups.rows[prompt, chosen]],
        rejected_ids=matrix.completion_ids[groups.rows[prompt, rejected]],
        chosen_reward=reward.values[prompt, chosen],
        rejected_reward=reward.values[prompt, rejected],
        consistency=consistency[kept],
    )


def _prompt_table(
    matrix: ScoreMatrix, groups: Groups, correlation: Agreement | None, outcome: np.ndarray
) -> PromptTable:
    count = len(matrix.prompt_ids)
    reasons = np.array([kind.name.lower() for kind in Definedness], dtype=object)
    return PromptTable(
        prompt_ids=matrix.prompt_ids,
        num_completions=groups.present.sum(axis=1),
        num_distinct=groups.distinct.sum(axis=1),
        correlation=correlation.values if correlation else np.full(count, np.nan),
        definedness=reasons[correlation.definedness]
        if correlation
        else np.full(count, "", dtype=object),
        outcome=outcome,
    )
