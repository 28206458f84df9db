"""What the pair step records about an iteration, from matrices decided by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cream.errors import RunError
from cream.loop.pairing import make_pairs
from cream.recipe.likelihood import ConsistencyNll, ConstantNll
from cream.recipe.methods import MethodConfig
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.srlm import FixedSmoothingMethod, SrlmMethod
from cream.recipe.objectives import Cream, WeightedDpo
from cream.runs.files import read_table
from cream.types import ScoreMatrix

AGREE, REVERSED = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]


def matrix(*previous: list[float]) -> ScoreMatrix:
    """Groups of three that M2 orders 3 > 2 > 1, and M1 as given; the first completion is right."""
    count = len(previous)
    return ScoreMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(count)], dtype=object),
        group_offsets=np.arange(0, 3 * count + 1, 3),
        completion_ids=np.array(
            [f"p{i}-{k}" for i in range(count) for k in range(3)], dtype=object
        ),
        num_tokens=np.full(3 * count, 2, dtype=np.int32),
        truncated=np.zeros(3 * count, dtype=bool),
        ids_hash=np.tile(np.arange(3), count),
        logps={
            "M0": np.zeros(3 * count),
            "M1": np.array([value for group in previous for value in group]),
            "M2": np.tile(AGREE, count),
        },
        noise={"M0": 0.0, "M1": 0.0, "M2": 0.0},
        scores={"verifier": np.tile([1.0, 0.0, 0.0], count)},
    )


def summary(folder: Path, scores: ScoreMatrix, method: MethodConfig) -> dict[str, Any]:
    parts = method.parts(2)
    return make_pairs(folder, scores, parts, 2, seed=0, report_consistency=True).as_json()


def test_c_and_tau_are_recorded_with_their_spread(tmp_path: Path):
    """tau is 1, 1, 1 and -1: mean 1/2, standard deviation 1 (ddof 1)."""
    found = summary(tmp_path, matrix(AGREE, AGREE, AGREE, REVERSED), CreamMethod())["consistency"]

    assert found["rate"] == 0.75
    assert found["n"] == 4
    assert found["tau_mean"] == pytest.approx(0.5)
    assert found["tau_std"] == pytest.approx(1.0)
    assert found["share_below_half"] == 0.25


def test_top_order_is_a_rate_and_has_no_tau(tmp_path: Path):
    scores = matrix(AGREE, AGREE, AGREE, REVERSED)
    found = summary(tmp_path, scores, CreamMethod(statistic="top_order"))["consistency"]

    assert found["rate"] == 0.75
    assert found["tau_mean"] is None
    assert found["tau_std"] is None


def test_one_prompt_has_no_spread(tmp_path: Path):
    found = summary(tmp_path, matrix(AGREE), CreamMethod())["consistency"]

    assert found["tau_mean"] == 1.0
    assert found["tau_std"] is None


@pytest.mark.parametrize(
    ("previous", "fixed_point"),
    [
        ([AGREE, REVERSED], 0.0),  # C = 1/2: the margin is drawn to 0, which is a number
        ([AGREE, AGREE, AGREE, REVERSED], np.log(3)),
        ([AGREE], None),  # C = 1: no bound
    ],
)
def test_the_margin_is_drawn_to_logit_c(tmp_path: Path, previous, fixed_point: float | None):
    found = summary(tmp_path, matrix(*previous), CreamMethod())["margin_fixed_point"]

    assert found == (None if fixed_point is None else pytest.approx(fixed_point))


@pytest.mark.parametrize(
    "objective",
    [WeightedDpo(), Cream(nll=ConstantNll(weight=1.0)), Cream(nll=ConsistencyNll(weight=1.0))],
)
def test_a_loss_without_such_a_point_has_none(tmp_path: Path, objective: Cream | WeightedDpo):
    """DPO weighed by 2C - 1 and a likelihood term both pull without end, whatever C."""
    found = summary(tmp_path, matrix(AGREE, AGREE, REVERSED), CreamMethod(objective=objective))

    assert found["consistency"]["rate"] == pytest.approx(2 / 3)
    assert found["margin_fixed_point"] is None


def test_fixed_smoothing_has_the_fixed_point_of_its_own_c(tmp_path: Path):
    found = summary(tmp_path, matrix(AGREE, REVERSED), FixedSmoothingMethod(consistency=0.8))

    assert found["consistency_in_loss"] == pytest.approx(0.8)
    assert found["margin_fixed_point"] == pytest.approx(np.log(4))


def test_srlm_has_no_c_in_its_loss(tmp_path: Path):
    found = summary(tmp_path, matrix(AGREE, REVERSED), SrlmMethod())

    assert found["consistency"]["rate"] == 0.5
    assert found["consistency_in_loss"] is None
    assert found["margin_fixed_point"] is None


def test_pairs_and_prompts_are_written_with_their_verdicts_counted(tmp_path: Path):
    found = summary(tmp_path, matrix(AGREE, REVERSED), CreamMethod(level="sample"))

    assert found["pair_accuracy"]["counts"]["right"] == 2
    assert found["tally"] == {
        "total": 2,
        "parts": {**dict.fromkeys(found["tally"]["parts"], 0), "paired": 2},
    }
    assert found["mean_gap"] == 2.0
    assert found["kl_to_seed_per_token"] == pytest.approx(2.0 * 6 / 12)
    assert read_table(tmp_path / "pairs.parquet")["consistency"].to_pylist() == [1.0, 0.5]
    prompts = read_table(tmp_path / "prompts.parquet")
    assert prompts["correlation"].to_pylist() == [1.0, -1.0]
    assert prompts["definedness"].to_pylist() == ["defined", "defined"]


def test_no_pairs_at_all_is_an_error_with_the_reasons_and_nothing_written(tmp_path: Path):
    scores = matrix(REVERSED)

    with pytest.raises(RunError, match=r"none of 1 prompts gave a pair \(below_half 1\)"):
        summary(tmp_path, scores, CreamMethod(below_half="drop"))
    assert list(tmp_path.iterdir()) == []
