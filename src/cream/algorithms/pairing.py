"""From rewards to preference pairs, one rule per function.

Every rule returns flat arrays of pairs, one outcome per prompt (paired, or the reason why not) and
a tally of them. A pair needs a reward gap that is larger than the noise of either member and at
least ``min_gap``. Consistency plays no part here: it weighs pairs, it does not choose them.

Order among equal rewards: the tie-break reward if one is given (say the implicit reward under a
verifier's 0/1), then the hash of the token ids. The hash is arbitrary but belongs to the
completion, so the result does not depend on the order in which completions are listed.

Source: Wang et al. 2024, arXiv:2410.12735 (best against worst); Prasad et al. 2024,
arXiv:2411.04109 (majority vote).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from cream.algorithms.groups import Groups, chunks
from cream.algorithms.rewards import Reward
from cream.errors import DataError
from cream.types import Tally


class Outcome(IntEnum):
    """What became of a prompt. The first reason that applies, in this order."""

    PAIRED = 0
    SINGLE = 1
    """Fewer than two completions."""
    ALL_DUPLICATES = 2
    """Two or more completions, all with the same tokens."""
    UNSCORED = 3
    """Fewer than two distinct completions have a reward, or none that may be chosen (rejected)."""
    TRUNCATED = 4
    """Fewer than two distinct scored completions are left once truncated ones are dropped."""
    TIED = 5
    """No gap is larger than the noise."""
    BELOW_MIN_GAP = 6
    """A gap is larger than the noise, but none reaches ``min_gap``."""
    NO_MAJORITY = 7
    """The most voted answer has too small a share (majority vote only)."""


@dataclass(frozen=True)
class Candidates:
    """The completions that a rule may choose from."""

    groups: Groups
    reward: Reward
    excluded: Bool[np.ndarray, "prompt member"]
    """Completions that must not be paired because they are truncated."""

    @property
    def eligible(self) -> Bool[np.ndarray, "prompt member"]:
        """Distinct, scored and not excluded."""
        return self.groups.distinct & self.reward.scored & ~self.excluded

    def __getitem__(self, prompts: slice) -> Candidates:
        return Candidates(self.groups[prompts], self.reward[prompts], self.excluded[prompts])


@dataclass(frozen=True)
class Pairs:
    """Pairs as columns, sorted by prompt; members are positions in the padded group."""

    prompt: Int64[np.ndarray, " pair"]
    chosen: Int64[np.ndarray, " pair"]
    rejected: Int64[np.ndarray, " pair"]
    gap: Float64[np.ndarray, " pair"]
    """Reward of chosen minus rejected, > 0, in the unit of the reward. Under vote shares this is
    ScPO's weight of the pair (arXiv:2411.04109)."""
    outcome: Int8[np.ndarray, " prompt"]
    """Codes of `Outcome`."""

    @property
    def tally(self) -> Tally:
        """Prompts by outcome."""
        counts = np.bincount(self.outcome, minlength=len(Outcome)).tolist()
        return Tally(len(self.outcome), {kind.name.lower(): counts[kind] for kind in Outcome})


def keep_truncated(groups: Groups, reward: Reward) -> Candidates:
    """Treat truncated completions like all others (the reference code's behaviour)."""
    return Candidates(groups, reward, np.zeros(groups.rows.shape, dtype=bool))


def drop_truncated(
    groups: Groups, reward: Reward, truncated: Bool[np.ndarray, "prompt member"]
) -> Candidates:
    """Leave truncated completions out of all pairs."""
    return Candidates(groups, reward, truncated)


def best_worst(
    candidates: Candidates, *, min_gap: float = 0.0, tie_break: Reward | None = None
) -> Pairs:
    """Pair the best completion with the worst: one pair or one reason per prompt.

    If this gap is within the noise the prompt is tied, even if a smaller gap between two less
    noisy completions is not.

    Source:
        arXiv:2410.12735.
    """
    best, worst, enough = _ends(candidates, tie_break)
    prompt = np.flatnonzero(enough)
    return _select(candidates, prompt, best[enough], worst[enough], min_gap)


def best_worst_between(
    candidates: Candidates,
    chosen: Bool[np.ndarray, "prompt member"],
    rejected: Bool[np.ndarray, "prompt member"],
    own: Bool[np.ndarray, "prompt member"],
    *,
    min_gap: float = 0.0,
    tie_break: Reward | None = None,
) -> Pairs:
    """Pair the best that may be chosen with the worst that may be rejected.

    Args:
        candidates: Completions of several models.
        chosen: Completions that may be chosen.
        rejected: Completions that may be rejected; the two may overlap.
        own: The policy's own completions, preferred at either end among equal rewards: another
            model's takes their place only if it is better, or worse.
        min_gap: Smallest gap, in the unit of the reward.
        tie_break: Orders completions of equal reward that are own, or are not.

    Source:
        arXiv:2508.06026, where the past model's worst is rejected only if it scores below the
        policy's worst, and the future model's best is chosen only if it scores above its best.
    """
    eligible, hashes = candidates.eligible, candidates.groups.ids_hash
    values = candidates.reward.values
    second = values if tie_break is None else tie_break.values
    best_first = np.lexsort([hashes, -second, ~own, -values, ~(eligible & chosen)], axis=1)
    worst_first = np.lexsort([-hashes, second, ~own, values, ~(eligible & rejected)], axis=1)
    enough = (eligible & chosen).any(axis=1) & (eligible & rejected).any(axis=1)
    enough &= eligible.sum(axis=1) >= 2
    prompt = np.flatnonzero(enough)
    pairs = _select(candidates, prompt, best_first[enough, 0], worst_first[enough, 0], min_gap)
    scored = candidates.groups.distinct & candidates.reward.scored
    both_scored = (scored & chosen).any(axis=1) & (scored & rejected).any(axis=1)
    one_sided = ~enough & (pairs.outcome == Outcome.TIED)
    pairs.outcome[one_sided & both_scored] = Outcome.TRUNCATED
    pairs.outcome[one_sided & ~both_scored] = Outcome.UNSCORED
    return pairs


def best_random(
    candidates: Candidates,
    generator: np.random.Generator,
    *,
    min_gap: float = 0.0,
    tie_break: Reward | None = None,
) -> Pairs:
    """Pair the best completion with one drawn uniformly among those clearly below it.

    Clearly below: by more than the noise and at least ``min_gap``.
    """
    best, worst, enough = _ends(candidates, tie_break)
    values, noise = candidates.reward.values, candidates.reward.noise
    gaps = np.take_along_axis(values, best[:, None], axis=1) - values
    tolerance = np.maximum(np.take_along_axis(noise, best[:, None], axis=1), noise)
    below = candidates.eligible & (gaps > tolerance) & (gaps >= min_gap)
    drawn = np.where(below, generator.random(below.shape), -1.0).argmax(axis=1)
    rejected = np.where(below.any(axis=1), drawn, worst)  # the worst tells why there is none
    prompt = np.flatnonzero(enough)
    return _select(candidates, prompt, best[enough], rejected[enough], min_gap)


def all_pairs(candidates: Candidates, *, min_gap: float = 0.0) -> Pairs:
    """Pair every two completions whose gap is larger than the noise and at least ``min_gap``."""
    return _select_between(candidates, candidates.eligible, candidates.eligible, min_gap)


def random_pairs(candidates: Candidates, generator: np.random.Generator) -> Pairs:
    """Pair two distinct completions drawn uniformly, in a drawn order: no label.

    ``gap`` is that of the reward, of either sign, or NaN where one has none; nothing is asked of
    it. Completions without a reward are paired like others.
    """
    eligible = candidates.groups.distinct & ~candidates.excluded
    draws = np.where(eligible, generator.random(eligible.shape), 2.0).argsort(axis=1)
    enough = eligible.sum(axis=1) >= 2
    prompt = np.flatnonzero(enough)
    chosen, rejected = draws[enough, 0], draws[enough, min(1, draws.shape[1] - 1)]
    values = candidates.reward.values
    outcome = _why_none(candidates)
    outcome[enough] = Outcome.PAIRED
    return Pairs(
        prompt, chosen, rejected, values[prompt, chosen] - values[prompt, rejected], outcome
    )


def top_bottom(
    candidates: Candidates, *, k: int, min_gap: float = 0.0, tie_break: Reward | None = None
) -> Pairs:
    """Pair each of the top k with each of the bottom k, wherever the gap allows.

    In groups of fewer than 2k the two sets overlap; a completion is never paired with itself and no
    pair occurs twice. k = 1 is `best_worst`.

    Raises:
        DataError: k < 1.

    """
    if k < 1:
        raise DataError(f"top_bottom needs k >= 1, not {k}.")
    order, count = _best_first(candidates, tie_break)
    place = np.argsort(order, axis=1)
    top = candidates.eligible & (place < k)
    bottom = candidates.eligible & (place >= count[:, None] - k)
    return _select_between(candidates, top, bottom, min_gap)


def majority_vote(
    candidates: Candidates,
    *,
    min_share: float = 0.0,
    min_gap: float = 0.0,
    tie_break: Reward | None = None,
) -> Pairs:
    """Pair a completion with the most voted answer with one with the least voted answer.

    `best_worst` on vote shares (`cream.algorithms.rewards.vote_share`), for prompts whose most
    voted answer has at least ``min_share`` of the votes. ``gap`` is the weight of the pair.

    Source:
        ScPO, arXiv:2411.04109 (their threshold on V(y+) is ``min_share`` * k votes).
    """
    pairs = best_worst(candidates, min_gap=min_gap, tie_break=tie_break)
    trusted = candidates.reward.values[pairs.prompt, pairs.chosen] >= min_share
    outcome = pairs.outcome.copy()
    outcome[pairs.prompt[~trusted]] = Outcome.NO_MAJORITY
    return Pairs(
        pairs.prompt[trusted],
        pairs.chosen[trusted],
        pairs.rejected[trusted],
        pairs.gap[trusted],
        outcome,
    )


def unanimous(
    candidates: Candidates, *, by_vote: bool, tie_break: Reward | None = None
) -> tuple[Int64[np.ndarray, " prompt"], Int64[np.ndarray, " prompt"]]:
    """Prompts whose completions all say the same, and of each the completion that says it best.

    There are at least two completions, copies counted, none of them excluded: all have the same
    tokens, or (``by_vote``) all give one answer, so that its share of the votes is 1.

    Returns:
        Prompts in order, and the member chosen in each.
    """
    groups = candidates.groups
    allowed = (~candidates.excluded | ~groups.present).all(axis=1)
    several = (groups.present.sum(axis=1) >= 2) & allowed
    if by_vote:
        agree = (candidates.reward.values == 1.0).any(axis=1)
    else:
        agree = groups.distinct.sum(axis=1) == 1
    best, _, _ = _ends(candidates, tie_break)
    found = np.flatnonzero(several & agree & candidates.eligible.any(axis=1))
    return found, best[found]


def _best_first(
    candidates: Candidates, tie_break: Reward | None
) -> tuple[Int64[np.ndarray, "prompt member"], Int64[np.ndarray, " prompt"]]:
    """Order members from best to worst, eligible ones first, and count the eligible ones.

    An unscored tie-break ranks below all scored ones.
    """
    eligible = candidates.eligible
    keys = [candidates.groups.ids_hash, -candidates.reward.values, ~eligible]
    if tie_break is not None:
        keys.insert(1, -tie_break.values)
    return np.lexsort(keys, axis=1), eligible.sum(axis=1)


def _ends(
    candidates: Candidates, tie_break: Reward | None
) -> tuple[Int64[np.ndarray, " prompt"], Int64[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
    """Return the best and the worst member, and whether there are two eligible ones at all."""
    order, count = _best_first(candidates, tie_break)
    last = np.maximum(count - 1, 0)[:, None]
    return order[:, 0], np.take_along_axis(order, last, axis=1)[:, 0], count >= 2


def linked(
    candidates: Candidates,
    link: Int64[np.ndarray, "prompt member"],
    chosen: Bool[np.ndarray, "prompt member"],
) -> Pairs:
    """Pair every completion that is chosen with each of the same link that is not, copies too.

    Args:
        candidates: Completions with a reward that is higher for those that are chosen.
        link: Equal for completions that belong together; -1 for others.
        chosen: Which may be chosen; all others of a link are rejected.
    """
    num_prompts, width = link.shape
    found = [np.empty((3, 0), dtype=np.int64)]
    for rows in chunks(num_prompts, width * width):
        codes, high = link[rows], chosen[rows]
        together = (codes[:, :, None] == codes[:, None, :]) & (codes[:, :, None] >= 0)
        prompt, better, worse = np.nonzero(together & high[:, :, None] & ~high[:, None, :])
        found.append(np.stack([prompt + rows.start, better, worse]))
    prompt, better, worse = np.concatenate(found, axis=1)
    return _select(candidates, prompt, better, worse, 0.0)


def _select(
    candidates: Candidates,
    prompt: Int64[np.ndarray, " proposal"],
    chosen: Int64[np.ndarray, " proposal"],
    rejected: Int64[np.ndarray, " proposal"],
    min_gap: float,
) -> Pairs:
    """Keep the proposed pairs whose gap suffices; name the reason of prompts left without one."""
    reward = candidates.reward
    gap = reward.values[prompt, chosen] - reward.values[prompt, rejected]
    above_noise = gap > np.maximum(reward.noise[prompt, chosen], reward.noise[prompt, rejected])
    kept = above_noise & (gap >= min_gap)
    outcome = _why_none(candidates)
    outcome[prompt[above_noise]] = Outcome.BELOW_MIN_GAP
    outcome[prompt[kept]] = Outcome.PAIRED
    return Pairs(prompt[kept], chosen[kept], rejected[kept], gap[kept], outcome)


def _why_none(candidates: Candidates) -> Int8[np.ndarray, " prompt"]:
    """Why a prompt has no pair, `Outcome.TIED` where two could be paired."""
    distinct = candidates.groups.distinct
    scored = distinct & candidates.reward.scored
    return np.select(
        [
            candidates.groups.present.sum(axis=1) < 2,
            distinct.sum(axis=1) < 2,
            scored.sum(axis=1) < 2,
            candidates.eligible.sum(axis=1) < 2,
        ],
        [Outcome.SINGLE, Outcome.ALL_DUPLICATES, Outcome.UNSCORED, Outcome.TRUNCATED],
        Outcome.TIED,
    ).astype(np.int8)


def _select_between(
    candidates: Candidates,
    higher: Bool[np.ndarray, "prompt member"],
    lower: Bool[np.ndarray, "prompt member"],
    min_gap: float,
) -> Pairs:
    """Select among all pairs of one member of ``higher`` and one of ``lower``, chunk by chunk."""
    num_prompts, width = candidates.groups.rows.shape
    nothing = np.empty(0, dtype=np.int64)
    parts = [_select(candidates[:0], nothing, nothing, nothing, min_gap)]
    for rows in chunks(num_prompts, width * width):
        part = candidates[rows]
        better = part.reward.values[:, :, None] > part.reward.values[:, None, :]
        better &= higher[rows, :, None] & lower[rows, None, :]
        prompt, chosen, rejected = np.nonzero(better)
        selected = _select(part, prompt, chosen, rejected, min_gap)
        parts.append(replace(selected, prompt=selected.prompt + rows.start))
    return Pairs(
        np.concatenate([p.prompt for p in parts]),
        np.concatenate([p.chosen for p in parts]),
        np.concatenate([p.rejected for p in parts]),
        np.concatenate([p.gap for p in parts]),
        np.concatenate([p.outcome for p in parts]),
    )
