"""What temporal self-rewarding reads and does, and how it decides a matrix by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cream.recipe.methods.judged import SrlmJudgeMethod
from cream.recipe.methods.temporal import TemporalMethod
from cream.recipe.parts import LogpQuantity, PastAndFuture, ScoreQuantity
from cream.recipe.score_source import ScoredByJudge, ScoredByPolicy, ScoredByRewardModel
from cream.recipe.scorers import JudgeConfig, RewardModelConfig
from cream.stages.pair import pair
from cream.types import ScoreMatrix

REWARD_MODEL = RewardModelConfig(name="./r")


@pytest.mark.parametrize("t", [1, 3])
def test_the_past_stays_and_the_future_is_that_of_the_iteration(t: int):
    parts = TemporalMethod().parts(t)

    assert parts.others == PastAndFuture(past="M1", future=f"F{t + 1}")
    assert parts.draft is not None
    assert parts.draft.others == PastAndFuture(past="M1")
    assert parts.draft.draft is None
    assert parts.draft.model_dump(exclude={"others"}) == parts.model_dump(exclude={"others"})
    assert TemporalMethod(past="seed").parts(t).others == PastAndFuture(
        past="M0", future=f"F{t + 1}"
    )
    assert SrlmJudgeMethod().parts(t).draft is None


def test_m_t_scores_and_breaks_ties():
    assert TemporalMethod().parts(2).reward == ScoreQuantity(column="judge")
    assert TemporalMethod().parts(2).tie_break == LogpQuantity(unit="implicit", model="M2")
    reward = TemporalMethod(
        score=ScoredByRewardModel(source="reward_model", reward_model=REWARD_MODEL)
    )
    assert reward.parts(2).score_columns == ("reward_model",)
    own = TemporalMethod(score=ScoredByPolicy(source="policy", reward="mean_likelihood"))
    assert own.parts(2).reward == LogpQuantity(unit="mean_likelihood", model="M2")
    assert own.parts(2).tie_break is None


def test_the_scorer_is_found_in_the_score():
    judge = JudgeConfig(votes=5)
    by_judge = TemporalMethod(score=ScoredByJudge(judge=judge))
    by_model = TemporalMethod(
        score=ScoredByRewardModel(source="reward_model", reward_model=REWARD_MODEL)
    )

    assert (by_judge.scorer, by_judge.scorer_section) == (judge, "method.score.judge")
    assert (by_model.scorer, by_model.scorer_section) == (REWARD_MODEL, "method.score.reward_model")
    assert TemporalMethod(score=ScoredByPolicy(source="policy")).scorer is None


def test_iteration_and_draft_differ_where_the_future_is_better():
    """Judged a: M2 3 4, past 2 1, future 5 4. b: M2 3 3, past 3 4, future 3 3: all at 3 tied.

    c: the future's 5 was said by the past too: it may be chosen as the future's.
    """
    origins = ["policy", "policy", "past", "past", "future", "future"] * 3
    matrix = ScoreMatrix(
        prompt_ids=np.array(["a", "b", "c"], dtype=object),
        group_offsets=np.array([0, 6, 12, 18]),
        completion_ids=np.array([f"{p}{i}" for p in "abc" for i in range(6)], dtype=object),
        num_tokens=np.full(18, 3, dtype=np.int32),
        truncated=np.zeros(18, dtype=bool),
        ids_hash=np.array([*range(12), 0, 1, 2, 3, 2, 4]),
        logps={"M2": np.zeros(18), "M0": np.zeros(18)},
        noise={"M2": 0.0, "M0": 0.0},
        scores={"judge": np.array([3, 4, 2, 1, 5, 4, 3, 3, 3, 4, 3, 3, 3, 2, 5, 2, 5, 1.0])},
        origin=np.array(origins, dtype=object),
    )
    parts = TemporalMethod().parts(2)
    draft = parts.draft
    assert draft is not None

    def pairs(of) -> list[tuple[str, str]]:
        found = pair(matrix, of, generator=np.random.default_rng(0)).pairs
        return list(zip(found.chosen_ids.tolist(), found.rejected_ids.tolist(), strict=True))

    assert pairs(parts) == [("a4", "a3"), ("c2", "c1")]
    with_future = np.array([origin == "future" for origin in origins])
    matrix.scores["judge"][with_future] = 0.0
    matrix.scores["judge"][14] = 0.0
    assert pairs(parts) == [("a1", "a3"), ("c0", "c2")]


def test_a_matrix_read_without_origins_cannot_be_paired():
    matrix = ScoreMatrix(
        prompt_ids=np.array(["a"], dtype=object),
        group_offsets=np.array([0, 2]),
        completion_ids=np.array(["a0", "a1"], dtype=object),
        num_tokens=np.full(2, 3, dtype=np.int32),
        truncated=np.zeros(2, dtype=bool),
        ids_hash=np.arange(2),
        logps={"M2": np.zeros(2), "M0": np.zeros(2)},
        noise={"M2": 0.0, "M0": 0.0},
        scores={"judge": np.array([3.0, 4.0])},
    )

    with pytest.raises(ValueError, match="without the origin"):
        pair(matrix, TemporalMethod().parts(2), generator=np.random.default_rng(0))
