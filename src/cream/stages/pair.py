"""The score matrix to preference pairs: rank, compare rankings, pair, weigh. No model needed.

Everything here is a pure function of stored numbers, so pairs can be made again with other settings
in seconds. Only the columns that `MethodParts` names are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cream.algorithms.answers import joint_verdict
from cream.algorithms.consistency import (
    BelowHalf,
    ConsistencySummary,
    apply_below_half,
    low_confidence,
    null_variance,
    sample_level,
    set_level,
    shrunken_level,
    summarise,
)
from cream.algorithms.groups import Groups, pad_flags
from cream.algorithms.pair_consistency import (
    Calibration,
    WitnessVerdict,
    best_worst_agreement,
    calibrated_consistency,
    witness_verdicts,
)
from cream.algorithms.pairing import (
    Candidates,
    Outcome,
    Pairs,
    all_pairs,
    best_random,
    best_worst,
    best_worst_between,
    linked,
    majority_vote,
    random_pairs,
    top_bottom,
    unanimous,
)
from cream.algorithms.ranking import Definedness, RankAgreement
from cream.algorithms.rewards import Reward
from cream.recipe.columns import EDIT_OF
from cream.recipe.pairing import (
    AllPairs,
    BestRandom,
    BestWorst,
    EditedOriginal,
    MajorityVote,
    PairingConfig,
    RandomPair,
    TopBottom,
)
from cream.recipe.parts import (
    Calibrated,
    LengthRegularised,
    Level,
    MethodParts,
    TwoGaussian,
    Votes,
)
from cream.stages.layout import Layout
from cream.stages.null import rates_of
from cream.types import Origin, PairTable, ScoreMatrix, Tally

KEPT = "kept"
BELOW_HALF = "below_half"
"""A pair that was dropped because its C is below 1/2."""
WITNESS_DISAGREES = "witness_disagrees"
"""A pair that was dropped because the witness orders it the other way."""
WITNESS_SILENT = "witness_silent"
"""A pair that was dropped because the witness has no order for it (tied or not scored)."""
DROPPED = (BELOW_HALF, WITNESS_SILENT, WITNESS_DISAGREES)
NO_EDIT = "no_edit"
"""A prompt none of whose completions was edited, of a method that pairs edits with originals."""
UNANIMOUS = "unanimous"
"""A prompt whose completions all say the same, and which is trained on by likelihood alone."""


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
class Members:
    """Pairs as prompt and member indices of padded groups."""

    prompt: Int64[np.ndarray, " pair"]
    chosen: Int64[np.ndarray, " pair"]
    rejected: Int64[np.ndarray, " pair"]


@dataclass(frozen=True)
class Agreed:
    """What unanimous groups say, as prompt and member indices of padded groups."""

    prompt: Int64[np.ndarray, " agreed"]
    chosen: Int64[np.ndarray, " agreed"]
    prompt_ids: np.ndarray
    completion_ids: np.ndarray


@dataclass(frozen=True)
class PairingResult:
    """Pairs of one iteration with everything that explains them."""

    pairs: PairTable
    prompts: PromptTable
    consistency: ConsistencySummary | None
    """C of the two rankings compared, never floored; None if none were compared."""
    tally: Tally
    """Prompts: paired, or dropped by reason."""
    pair_tally: Tally
    """Pairs that the rule proposed: kept, or dropped by reason."""
    members: Members
    """The pairs as places in `layout`, in the order of `pairs`."""
    best_worst: Members
    """Best against worst by the reward, of every prompt where the two differ by more than the
    noise: before ``min_gap``, the pairing rule and any filter. What witnesses are judged on."""
    rates: RankAgreement | None
    """C_j per prompt; None if no rankings were compared."""
    layout: Layout
    length_alpha: float | None
    """The fitted price of a token, nats, of a length-regularised reward."""
    agreed: Agreed
    """Completions of unanimous groups that are trained on without a rejected one."""


def pair(
    matrix: ScoreMatrix,
    parts: MethodParts,
    *,
    generator: np.random.Generator,
    report_consistency: bool = True,
    calibration: Calibration | None = None,
) -> PairingResult:
    """Make the pairs of one iteration.

    Args:
        matrix: Scores of the iteration's completions.
        parts: What the method ranks by, compares, and pairs.
        generator: For the bootstrap interval of C, and the rule ``best_random``.
        report_consistency: Also measure C for methods that do not use it.
        calibration: What the witness's word is worth, for ``level: Calibrated``.

    Raises:
        KeyError: The matrix lacks a column that `parts` names.
        ValueError: `parts` asks for a calibration and there is none.
        DataError: C enters the loss but is defined for no prompt.
    """
    layout = Layout(matrix, parts.paired_by, parts.reward)
    candidates = layout.candidates()
    tie_break = layout.quantity(parts.tie_break) if parts.tie_break else None
    if parts.others:
        pairs = _past_against_future(layout, candidates, tie_break, parts.paired_by.min_gap)
        ends = _past_against_future(layout, candidates, tie_break, 0.0)
    else:
        pairs = _propose(parts.paired_by, layout, candidates, tie_break, generator)
        same = isinstance(parts.paired_by, BestWorst) and parts.paired_by.min_gap == 0
        ends = pairs if same else best_worst(candidates, tie_break=tie_break)
    compared = parts.agreement or (parts.reported if report_consistency else None)
    correlation = layout.correlation(compared) if compared else None
    rates = rates_of(compared, correlation) if compared and correlation else None
    consistency, reason = _trust(layout, parts, candidates, pairs, rates, calibration)
    said = _shared(layout, parts, pairs.prompt, pairs.chosen)
    reason[(reason == KEPT) & (said != KEPT)] = said[(reason == KEPT) & (said != KEPT)]
    kept = reason == KEPT
    outcome = _outcome_names(pairs, reason, parts.paired_by)
    agreed, unshared = _agreed(layout, parts, candidates, tie_break)
    outcome[agreed.prompt] = UNANIMOUS
    for prompt, why in unshared.items():
        outcome[prompt] = why
    alone = [UNANIMOUS] if parts.paired_by.unanimous == "nll" else []
    alone += [NO_EDIT] if isinstance(parts.paired_by, EditedOriginal) else []
    reward = parts.reward
    return PairingResult(
        pairs=_pair_table(layout, candidates.reward, pairs, parts, consistency, kept),
        prompts=_prompt_table(matrix, layout.groups, correlation, outcome),
        consistency=summarise(rates, generator) if rates else None,
        tally=_tally(outcome, [*(kind.name.lower() for kind in Outcome), *DROPPED, *alone]),
        pair_tally=_tally(reason, [KEPT, *DROPPED]),
        members=Members(pairs.prompt[kept], pairs.chosen[kept], pairs.rejected[kept]),
        best_worst=Members(ends.prompt, ends.chosen, ends.rejected),
        rates=rates,
        layout=layout,
        length_alpha=layout.length_alpha(reward) if isinstance(reward, LengthRegularised) else None,
        agreed=agreed,
    )


def _agreed(
    layout: Layout, parts: MethodParts, candidates: Candidates, tie_break: Reward | None
) -> tuple[Agreed, dict[int, str]]:
    """What unanimous groups say, if the method trains on it. None of them can have a pair.

    Also the prompts whose unanimous answer witnesses that answer do not share, with the reason.
    """
    prompt, chosen = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    unshared: dict[int, str] = {}
    if parts.paired_by.unanimous == "nll":
        prompt, chosen = unanimous(
            candidates, by_vote=isinstance(parts.reward, Votes), tie_break=tie_break
        )
        said = _shared(layout, parts, prompt, chosen)
        lost = said != KEPT
        unshared = dict(zip(prompt[lost].tolist(), said[lost].tolist(), strict=True))
        prompt, chosen = prompt[~lost], chosen[~lost]
    rows = layout.groups.rows[prompt, chosen]
    matrix = layout.matrix
    ids = matrix.prompt_ids[prompt], matrix.completion_ids[rows]
    return Agreed(prompt, chosen, *ids), unshared


def _shared(
    layout: Layout,
    parts: MethodParts,
    prompt: Int64[np.ndarray, " item"],
    chosen: Int64[np.ndarray, " item"],
) -> np.ndarray:
    """`KEPT` where witnesses that answer give the chosen answer, or why not."""
    said = np.full(len(prompt), KEPT, dtype=object)
    if parts.answered is None:
        return said
    rows = layout.groups.rows[prompt, chosen]
    same = np.stack([layout.matrix.scores[name][rows] for name in parts.answered.columns])
    verdicts = joint_verdict(same, parts.answered.by)
    said[verdicts == WitnessVerdict.UNSCORED] = WITNESS_SILENT
    said[verdicts == WitnessVerdict.DISAGREES] = WITNESS_DISAGREES
    return said


def _propose(
    rule: PairingConfig,
    layout: Layout,
    candidates: Candidates,
    tie_break: Reward | None,
    generator: np.random.Generator,
) -> Pairs:
    gap = rule.min_gap
    match rule:
        case BestWorst():
            return best_worst(candidates, min_gap=gap, tie_break=tie_break)
        case BestRandom():
            return best_random(candidates, generator, min_gap=gap, tie_break=tie_break)
        case RandomPair():
            return random_pairs(candidates, generator)
        case AllPairs():
            return all_pairs(candidates, min_gap=gap)
        case EditedOriginal():
            edited = pad_flags(layout.matrix.origin == Origin.EDITED, layout.groups)
            return linked(candidates, layout.answers(EDIT_OF), edited)
        case TopBottom(k=k):
            return top_bottom(candidates, k=k, min_gap=gap, tie_break=tie_break)
        case MajorityVote(min_share=share):
            return majority_vote(candidates, min_share=share, min_gap=gap, tie_break=tie_break)
        case _:
            assert_never(rule)


def _past_against_future(
    layout: Layout, candidates: Candidates, tie_break: Reward | None, min_gap: float
) -> Pairs:
    """Best of M_t and the future model against the worst of M_t and the past model."""
    return best_worst_between(
        candidates,
        chosen=layout.made_by(Origin.POLICY, Origin.FUTURE),
        rejected=layout.made_by(Origin.POLICY, Origin.PAST),
        own=layout.made_by(Origin.POLICY),
        min_gap=min_gap,
        tie_break=tie_break,
    )


def _trust(
    layout: Layout,
    parts: MethodParts,
    candidates: Candidates,
    pairs: Pairs,
    rates: RankAgreement | None,
    calibration: Calibration | None,
) -> tuple[Float64[np.ndarray, " pair"], np.ndarray]:
    """C of each proposed pair as it enters the loss, and `KEPT` or why the pair is dropped."""
    reason = np.full(len(pairs.prompt), KEPT, dtype=object)
    if parts.smoothing:
        spec = parts.smoothing
        return low_confidence(pairs.gap, spec.share, label_smoothing=spec.label_smoothing), reason
    spec = parts.agreement
    if spec is None or rates is None or not len(pairs.prompt):
        return np.ones(len(pairs.prompt)), reason
    witness = layout.quantity(spec.second)
    verdicts = witness_verdicts(witness, pairs.prompt, pairs.chosen, pairs.rejected)
    if isinstance(spec.level, Calibrated):
        if calibration is None:
            raise ValueError("a calibrated level needs a calibration")
        level = calibrated_consistency(verdicts, calibration)
    else:
        level = _level(spec.level, candidates, pairs, rates)
    in_loss = apply_below_half(level, BelowHalf(spec.below_half))
    reason[~in_loss.kept] = BELOW_HALF
    if spec.filter == "agreeing":
        reason[verdicts != WitnessVerdict.AGREES] = WITNESS_SILENT
        reason[verdicts == WitnessVerdict.DISAGREES] = WITNESS_DISAGREES
    return in_loss.values, reason


def _level(
    level: Level | TwoGaussian, candidates: Candidates, pairs: Pairs, rates: RankAgreement
) -> Float64[np.ndarray, " pair"]:
    """C of each pair before anything happens to values below 1/2."""
    match level:
        case "one":
            return np.ones(len(pairs.prompt))
        case "set":
            return np.full(len(pairs.prompt), set_level(rates))
        case "sample":
            return sample_level(rates)[pairs.prompt]
        case "shrunken":
            return shrunken_level(rates, null_variance(rates.members))[pairs.prompt]
    shrunken = shrunken_level(rates, null_variance(rates.members))[pairs.prompt]
    size = candidates.eligible.sum(axis=1)[pairs.prompt]
    return np.clip(best_worst_agreement(2 * shrunken - 1, size), 0.0, 1.0)  # sums of weights round


def _outcome_names(pairs: Pairs, reason: np.ndarray, rule: PairingConfig) -> np.ndarray:
    """Outcome per prompt; one that lost all its pairs says why, a disagreeing witness first."""
    names = np.array([kind.name.lower() for kind in Outcome], dtype=object)[pairs.outcome]
    kept: Bool[np.ndarray, " prompt"] = np.zeros(len(names), dtype=bool)
    kept[pairs.prompt[reason == KEPT]] = True
    if isinstance(rule, EditedOriginal):
        names[names == Outcome.TIED.name.lower()] = NO_EDIT
    for name in DROPPED:
        lost = pairs.prompt[reason == name]
        names[lost[~kept[lost]]] = name
    return names


def _tally(names: np.ndarray, kinds: list[str]) -> Tally:
    return Tally(len(names), {kind: int((names == kind).sum()) for kind in kinds})


def _pair_table(
    layout: Layout,
    reward: Reward,
    pairs: Pairs,
    parts: MethodParts,
    consistency: Float64[np.ndarray, " pair"],
    kept: Bool[np.ndarray, " pair"],
) -> PairTable:
    matrix, rows = layout.matrix, layout.groups.rows
    prompt, chosen, rejected = pairs.prompt[kept], pairs.chosen[kept], pairs.rejected[kept]
    gap = pairs.gap[kept]
    return PairTable(
        prompt_ids=matrix.prompt_ids[prompt],
        chosen_ids=matrix.completion_ids[rows[prompt, chosen]],
        rejected_ids=matrix.completion_ids[rows[prompt, rejected]],
        chosen_reward=reward.values[prompt, chosen],
        rejected_reward=reward.values[prompt, rejected],
        consistency=consistency[kept],
        weight=gap if parts.pair_weight == "reward_gap" else np.ones(len(gap)),
    )


def _prompt_table(
    matrix: ScoreMatrix, groups: Groups, correlation: RankAgreement | None, outcome: np.ndarray
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
