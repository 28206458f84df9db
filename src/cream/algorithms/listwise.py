"""Candidates scored in windows: partition, losses of two views, and what makes windows comparable.

A model gives every candidate a list-view score, which has seen the other candidates of its window,
and a point-view score, which has not. Losses over the pairs of a window see its list scores only
through differences, so adding c_W to a whole window changes nothing and scores of different windows
cannot be compared; the point view can, and calibration hands its offsets on. A calibration within
each window could not: it is blind to c_W as well.

Source: the idea of SCaLR (Ren et al., arXiv 2411.04602), whose losses are not public; every formula
here is derived in ``docs/concepts/listwise.md``. RankNet: Burges et al. 2005. ListMLE: Xia et al.
2008. ListNet: Cao et al. 2007. Weights 1/(rank_i + rank_j): FIRST (arXiv 2406.15657), normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

Item = TypeVar("Item")
Scores = Float[Tensor, " candidate"]
Groups = Int64[Tensor, " candidate"]
ListLoss = Callable[[Scores, Scores], Float[Tensor, ""] | None]
"""Scores and grades of one window to its loss: a mean, so that its size does not grow with the
window, and None where all grades are equal. Adding a constant to the scores changes nothing."""
Calibration = Callable[[Scores, Scores], Float[Tensor, ""]]
"""List scores, with gradient, and point scores, without, to how far they are from each other."""


def partition(order: Sequence[Item], width: int) -> list[tuple[Item, ...]]:
    """Cut an order into disjoint windows of nearly equal size; every item is in exactly one.

    No window is of one item unless there is no other. With a width of two an odd number of items
    makes one window of three; otherwise no window is wider than `width`.

    Args:
        order: The items, shuffled or as a first stage ranked them.
        width: Most items of a window, >= 2.

    Raises:
        ValueError: A width below 2.
    """
    if width < 2:
        raise ValueError(f"a window compares, so its width is at least 2, not {width}")
    total = len(order)
    count = max(1, min(-(-total // width), total // 2)) if total else 0
    edges = [total * k // count for k in range(count + 1)] if count else [0]
    windows = [tuple(order[low:high]) for low, high in pairwise(edges)]
    assert [item for window in windows for item in window] == list(order)
    return windows


def identifier_shifts(size: int, rotations: int) -> list[int]:
    """By how many places identifiers move on in each rotation, spread evenly over a window.

    With as many rotations as members every candidate has every identifier once, and a bias of
    identifiers cancels from differences of the means.
    """
    count = min(rotations, size)
    return [r * size // count for r in range(count)]


def better_pairs(grades: Scores, groups: Groups) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Indices of all pairs of one group in which the first has the higher grade; ties are none."""
    above = (grades[:, None] > grades[None, :]) & (groups[:, None] == groups[None, :])
    better, worse = above.nonzero(as_tuple=True)
    return better, worse


def pair_losses(
    scores: Scores, better: Int64[Tensor, " p"], worse: Int64[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """RankNet: softplus(-(s_better - s_worse)) of each pair, nats."""
    return F.softplus(scores[worse] - scores[better])


def _pairs_of_window(scores: Scores, grades: Scores) -> tuple[Tensor, Tensor, Tensor]:
    better, worse = better_pairs(grades, torch.zeros_like(grades, dtype=torch.long))
    return better, worse, pair_losses(scores, better, worse)


def ranknet(scores: Scores, grades: Scores) -> Float[Tensor, ""] | None:
    """Mean of `pair_losses` over the pairs of unequal grades."""
    _, _, losses = _pairs_of_window(scores, grades)
    return losses.mean() if len(losses) else None


def weighted_ranknet(scores: Scores, grades: Scores) -> Float[Tensor, ""] | None:
    """The same weighted by 1 / (rank_i + rank_j), ranks by grade from 1, over the sum of weights.

    Equal grades share the better rank.
    """
    better, worse, losses = _pairs_of_window(scores, grades)
    if not len(losses):
        return None
    ranks = 1 + (grades[None, :] > grades[:, None]).sum(1)
    weights = 1 / (ranks[better] + ranks[worse]).to(scores.dtype)
    return (weights * losses).sum() / weights.sum()


def list_mle(scores: Scores, grades: Scores) -> Float[Tensor, ""] | None:
    """Mean of -log P(i is drawn first among itself and all of lower grade), nats.

    The negative log-likelihood of the order by grade where no two grades are equal; equal ones are
    no rivals. The mean is over candidates that have one of lower grade.
    """
    below = grades[None, :] < grades[:, None]
    if not below.any():
        return None
    rivals = below | torch.eye(len(grades), dtype=torch.bool, device=grades.device)
    among = torch.where(rivals, scores[None, :], -torch.inf).logsumexp(1)
    return (among - scores)[below.any(1)].mean()


def list_net(scores: Scores, grades: Scores) -> Float[Tensor, ""] | None:
    """Cross-entropy of softmax(scores) under softmax(grades), nats."""
    if (grades == grades[0]).all():
        return None
    return -(grades.softmax(0) * scores.log_softmax(0)).sum()


def pooled_kl(list_scores: Scores, point_scores: Scores, temperature: float = 1.0) -> Tensor:
    """tau^2 KL(softmax(sg s^p / tau) || softmax(s^l / tau)) over all candidates given, nats.

    The gradient on s^l is tau (softmax(s^l / tau) - softmax(s^p / tau)); none reaches s^p, else
    both views could meet in a constant. For tau to infinity it is `score_variance`.
    """
    target = (point_scores.detach() / temperature).log_softmax(0)
    given = (list_scores / temperature).log_softmax(0)
    return temperature**2 * (target.exp() * (target - given)).sum()


def score_variance(list_scores: Scores, point_scores: Scores) -> Tensor:
    """Half the variance over all candidates given of s^p - s^l; no gradient reaches s^p."""
    return (point_scores.detach() - list_scores).var(correction=0) / 2


def if_better(gap: float) -> float:
    """1 where the list view loses more than the point view on the same pairs, else 0."""
    return float(gap > 0)


def always(gap: float) -> float:
    """1, whatever the views lose."""
    return 1.0


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What `views_loss` minimises."""

    list_loss: ListLoss = ranknet
    point_weight: float = 1.0
    """alpha >= 0."""
    calibration: Calibration | None = pooled_kl
    calibration_weight: float = 1.0
    """lambda >= 0."""
    trust: Callable[[float], float] = if_better
    """L_list - L_point on the same pairs, nats, to a factor on lambda in [0, 1]."""
    pool_by_query: bool = False
    """Whether each query is calibrated by itself, not all candidates of a step together."""


@dataclass(frozen=True, slots=True)
class ViewsLoss:
    """The loss of a step with its parts; each part is detached."""

    loss: Float[Tensor, ""]
    """L = L_list + alpha L_point + lambda_t L_cal."""
    list_view: Float[Tensor, ""]
    """Mean over windows with a pair; 0 if there is none, see `windows`."""
    point_view: Float[Tensor, ""]
    """Mean over pairs of a query, whatever their windows; 0 if there is none, see `pairs`."""
    calibration: Float[Tensor, ""]
    calibration_weight: float
    """lambda_t: 0 where adaptivity switches the calibration off."""
    windows: int
    """Windows in which grades differ."""
    pairs: int
    """Pairs of unequal grades of one query."""


def views_loss(
    list_scores: Scores,
    point_scores: Scores,
    grades: Scores,
    queries: Groups,
    windows: Groups,
    options: ViewOptions,
) -> ViewsLoss:
    """L_list + alpha L_point + lambda_t L_cal of the candidates of a step.

    Args:
        list_scores: s^l, with gradient.
        point_scores: s^p, with gradient.
        grades: Labels g, higher is better.
        queries: Which candidates belong to one query.
        windows: Which of them were in one window.
        options: Losses and weights.
    """
    zero = (list_scores * 0).sum()
    in_window = [windows == w for w in windows.unique()]
    found = [options.list_loss(list_scores[w], grades[w]) for w in in_window]
    ranked = [loss for loss in found if loss is not None]
    list_view = torch.stack(ranked).mean() if ranked else zero
    better, worse = better_pairs(grades, queries)
    point_view, weight = zero, 0.0
    if len(better):  # else the point view has not shown anything that it could teach
        point_view = pair_losses(point_scores, better, worse).mean()
        gap = pair_losses(list_scores, better, worse).mean() - point_view
        weight = options.calibration_weight * options.trust(gap.item())
    calibration = zero
    if options.calibration is not None:
        alike = queries if options.pool_by_query else torch.zeros_like(queries)
        pools = [alike == q for q in alike.unique()]
        each = [options.calibration(list_scores[p], point_scores[p]) for p in pools]
        calibration = torch.stack(each).mean()
    loss = list_view + options.point_weight * point_view + weight * calibration
    return ViewsLoss(
        loss,
        list_view.detach(),
        point_view.detach(),
        calibration.detach(),
        weight,
        len(ranked),
        len(better),
    )


def moved_to_point_scale(
    list_scores: Float64[np.ndarray, " member"], point_scores: Float64[np.ndarray, " member"]
) -> Float64[np.ndarray, " member"]:
    """List scores of one window moved to the mean of its point scores: s^l + mean(s^p - s^l)."""
    return list_scores + (point_scores - list_scores).mean()


def fitted_to_point_scale(
    list_scores: Float64[np.ndarray, " member"], point_scores: Float64[np.ndarray, " member"]
) -> Float64[np.ndarray, " member"]:
    """List scores of one window as u s^l + v: least squares on its point scores, u >= 0.

    A window of two, or one whose list scores are all equal, gives no slope and is moved only.
    """
    centred = list_scores - list_scores.mean()
    size = float(centred @ centred)
    if len(list_scores) < 3 or size == 0:
        return moved_to_point_scale(list_scores, point_scores)
    slope = max(0.0, float(centred @ (point_scores - point_scores.mean())) / size)
    return slope * centred + point_scores.mean()
