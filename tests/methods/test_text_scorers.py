"""What the methods that rank by a judge or a reward model read and do."""

from __future__ import annotations

import numpy as np
import pytest

from cream.recipe.methods.judged import RewardModelMethod, SrlmJudgeMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.parts import LogpQuantity, ScoreQuantity
from cream.recipe.scorers import RewardModelConfig
from cream.stages.pair import pair
from cream.types import ScoreMatrix

REWARD = RewardModelMethod(reward_model=RewardModelConfig(name="./r"), tie_break="likelihood")
METHODS = {"judge": SrlmJudgeMethod(tie_break="likelihood"), "reward_model": REWARD}


@pytest.mark.parametrize("column", METHODS)
def test_the_score_picks_the_pairs_and_the_policys_own_quantity_breaks_ties(column: str):
    parts = METHODS[column].parts(2)

    assert parts.reward == ScoreQuantity(column=column)
    assert parts.tie_break == LogpQuantity(unit="likelihood", model="M2")
    assert parts.agreement is None
    assert parts.reported is not None
    assert parts.score_columns == (column,)
    assert parts.logp_columns == ("M2",)
    assert parts.reported_columns == ("M2", "M1")


def test_only_the_method_that_has_a_scorer_names_it():
    assert METHODS["judge"].scorer == SrlmJudgeMethod().judge
    assert METHODS["judge"].scorer_section == "method.judge"
    assert REWARD.scorer == REWARD.reward_model
    assert REWARD.scorer_section == "method.reward_model"
    assert SrlmMethod().scorer is None


@pytest.mark.parametrize("column", METHODS)
def test_pairs_are_best_against_worst_with_ties_broken_and_unscored_left_out(column: str):
    """Prompt a: 4 is best, twice; of the two, a1 is likelier (-1 > -9). 2 is worst, once; the
    unscored a3 is in no pair though its likelihood is the highest.
    Prompt b: all scored 3, a tie whatever the likelihoods. Prompt c: one scored completion.
    """
    ids = np.array([f"{p}{i}" for p in "abc" for i in range(4)], dtype=object)
    nan = np.nan
    matrix = ScoreMatrix(
        prompt_ids=np.array(["a", "b", "c"], dtype=object),
        group_offsets=np.array([0, 4, 8, 12], dtype=np.int64),
        completion_ids=ids,
        num_tokens=np.full(12, 5, dtype=np.int32),
        truncated=np.zeros(12, dtype=bool),
        ids_hash=np.arange(12, dtype=np.int64),
        logps={
            "M1": np.array([-9.0, -1.0, -5.0, -0.5, -1, -2, -3, -4, -1, -2, -3, -4]),
            "M0": np.full(12, -6.0),
        },
        noise={"M1": 1e-6, "M0": 1e-6},
        scores={column: np.array([4.0, 4.0, 2.0, nan, 3, 3, 3, 3, 5, nan, nan, nan])},
    )
    parts = METHODS[column].parts(1)
    result = pair(matrix, parts, generator=np.random.default_rng(0), report_consistency=False)

    assert result.pairs.chosen_ids.tolist() == ["a1"]
    assert result.pairs.rejected_ids.tolist() == ["a2"]
    assert result.pairs.chosen_reward.tolist() == [4.0]
    assert result.pairs.consistency.tolist() == [1.0]
    outcome = dict(zip(result.prompts.prompt_ids, result.prompts.outcome, strict=True))
    assert outcome == {"a": "paired", "b": "tied", "c": "unscored"}
