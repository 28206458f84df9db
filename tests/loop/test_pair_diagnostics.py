"""Figures beside C in the pair summary, from a matrix decided by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pairing_summary import AGREE, REVERSED, matrix

from cream.loop.pairing import make_pairs
from cream.programs.recompute import recompute_pairs
from cream.recipe.methods import MethodConfig
from cream.recipe.methods.confidence import SpaMethod
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.pairing import AllPairs, BestWorst
from cream.types import ScoreMatrix


def summary(folder: Path, scores: ScoreMatrix, method: MethodConfig) -> dict[str, Any]:
    parts = method.parts(2)
    return make_pairs(folder, scores, parts, 2, seed=0, report_consistency=True).as_json()


def three_right_one_wrong() -> ScoreMatrix:
    """M2 always puts 0 first and 2 last. In the first two prompts 0 is right, in the last two 2 is.

    M1 agrees in the first three: C_j = 1, 1, 1, 0.
    """
    scores = matrix(AGREE, AGREE, AGREE, REVERSED)
    scores.scores["verifier"][:] = [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1]
    return scores


def test_c_of_the_prompt_is_tested_against_the_verdict(tmp_path: Path):
    """Right pairs have C_j 1, 1; wrong ones 1, 0: AUROC = (1/2 + 1 + 1/2 + 1) / 4."""
    found = summary(tmp_path, three_right_one_wrong(), CreamMethod())

    assert found["consistency_auroc"] == pytest.approx(0.75)
    assert found["loss_consistency_auroc"] == pytest.approx(0.5)  # one C for all
    filled = [row for row in found["reliability"] if row["n"]]
    assert [(row["predicted"], row["n"]) for row in filled] == [(0.0, 1), (1.0, 3)]
    assert [row["observed"] for row in filled] == [0.0, pytest.approx(2 / 3)]


def test_the_c_of_the_loss_is_tested_too(tmp_path: Path):
    found = summary(tmp_path, three_right_one_wrong(), CreamMethod(level="sample"))

    assert found["loss_consistency_auroc"] == pytest.approx(0.75)


def test_each_witness_is_judged_where_it_agrees_and_where_it_does_not(tmp_path: Path):
    """Implicit M1 agrees on three pairs (two right) and disagrees on one (wrong); M0 is tied.

    Wilson, z = 1.96, z^2 = 3.84: 2 of 3 is (2 + 1.92) / 6.84 = 0.573 and
    +- 1.96 * sqrt(3 * 2/9 + 0.96) / 6.84 = 0.365; 0 of 1 ends at 3.84 / 4.84 = 0.793.
    """
    found = summary(tmp_path, three_right_one_wrong(), SrlmMethod())["witnesses"]

    assert found["implicit(M1)"] == {
        "agree_accuracy": pytest.approx(2 / 3),
        "agree_n": 3,
        "agree_low": pytest.approx(0.573 - 0.365, abs=1e-3),
        "agree_high": pytest.approx(0.573 + 0.365, abs=1e-3),
        "disagree_accuracy": 0.0,
        "disagree_n": 1,
        "disagree_low": pytest.approx(0.0, abs=1e-12),
        "disagree_high": pytest.approx(0.793, abs=1e-3),
        "silent_n": 0,
        # Right pairs agree, agree; wrong ones agree, disagree: two ties of four comparisons.
        "auroc": {"estimate": 0.75, "low": 0.5, "high": 1.0, "n": 4, "absent": None},
    }
    assert found["mean_likelihood(M1)"] == found["implicit(M1)"]  # all have two tokens, M0 is 0
    assert found["mean_likelihood(M0)"] == {
        **dict.fromkeys(found["implicit(M1)"]),
        "agree_n": 0,
        "disagree_n": 0,
        "silent_n": 4,
        "auroc": {"estimate": 0.5, "low": 0.5, "high": 0.5, "n": 4, "absent": None},
    }
    assert list(found) == [
        "implicit(M1)",
        *(f"mean_likelihood({model})" for model in ("M0", "M1", "M2")),
    ]


@pytest.mark.parametrize(
    "method",
    [
        CreamMethod(filter="agreeing"),
        CreamMethod(level="sample", below_half="drop"),
        SrlmMethod(pairing=AllPairs()),
        SrlmMethod(pairing=BestWorst(min_gap=1.5)),
    ],
    ids=["filter", "below_half", "all_pairs", "min_gap"],
)
def test_witnesses_are_judged_on_best_against_worst_of_every_prompt(
    tmp_path: Path, method: MethodConfig
):
    """What a filter, a minimum gap or another rule does to the pairs does not change it."""
    scores = three_right_one_wrong()
    scores.logps["M2"][:3] = [1.5, 1.0, 0.5]  # best and worst 1 apart, in the other prompts 2
    plain = summary(tmp_path, scores, SrlmMethod())["witnesses"]
    found = summary(tmp_path, scores, method)

    assert found["witnesses"] == plain
    assert plain["implicit(M1)"]["disagree_n"] == 1
    assert (
        found["pair_accuracy"]["counts"]
        != summary(tmp_path, scores, SrlmMethod())["pair_accuracy"]["counts"]
    )


def test_votes_and_scores_are_witnesses_where_the_matrix_has_them(tmp_path: Path):
    """a: 1 vote for the best, 2 for the worst and its like; b: the other way round.

    The judge puts the best first in both, the reward model says nothing about b's worst.
    """
    scores = matrix(AGREE, AGREE)
    scores = replace(scores, labels={"extracted": np.array([7, 8, 8, 7, 7, 8])})
    columns = {
        "judge": np.array([3.0, 2.0, 1.0, 3.0, 2.0, 1.0]),
        "reward_model": np.array([0.0, 0.0, 1.0, 1.0, 0.0, np.nan]),
    }
    scores = replace(scores, scores={**scores.scores, **columns})
    found = summary(tmp_path, scores, SrlmMethod())["witnesses"]

    def counts(name: str) -> tuple[int, int, int]:
        return tuple(found[name][f"{kind}_n"] for kind in ("agree", "disagree", "silent"))

    assert counts("votes(extracted)") == (1, 1, 0)
    assert counts("judge") == (2, 0, 0)
    assert counts("reward_model") == (0, 1, 1)
    nobody = replace(scores, labels={"extracted": np.full(6, -1)})
    assert "votes(extracted)" not in summary(tmp_path, nobody, SrlmMethod())["witnesses"]


def test_the_ranking_that_picks_the_pairs_is_not_its_own_witness(tmp_path: Path):
    method = SrlmMethod(reward="mean_likelihood")
    found = summary(tmp_path, three_right_one_wrong(), method)["witnesses"]

    assert list(found) == ["mean_likelihood(M1)", "mean_likelihood(M0)"]


def test_columns_on_disk_that_the_method_does_not_read_are_judged_too(
    finished_run: Path, tmp_path: Path
):
    """SRLM without C reads M2 and M0; the matrix of iteration 2 has M1 and answers besides."""
    changes = [
        "method={name: srlm, pairing: {truncated: keep}}",
        "scoring.report_consistency=false",
    ]
    found = recompute_pairs(finished_run, 2, changes, tmp_path / "pairs").as_json()["witnesses"]

    assert set(found) == {
        *(f"mean_likelihood({model})" for model in ("M0", "M1", "M2")),
        "votes(extracted)",
    }
    decidable = {sum(w[f"{k}_n"] for k in ("agree", "disagree", "silent")) for w in found.values()}
    assert len(decidable) == 1
    assert decidable != {0}


def test_divergence_length_and_pairs_are_recorded(tmp_path: Path):
    """M2 - M0 sums to 6 per prompt over 6 tokens; M2 - M1 to 0."""
    scores = matrix(AGREE, REVERSED)
    scores.num_tokens[:] = [1, 2, 3, 1, 2, 3]
    found = summary(tmp_path, scores, CreamMethod(level="sample", below_half="drop"))

    assert found["kl_to_seed_per_token"] == pytest.approx(1.0)
    assert found["kl_to_previous_per_token"] == pytest.approx(0.0)
    assert found["mean_completion_tokens"] == 2.0
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (1.0, 3.0)
    assert found["pair_tally"]["total"] == 2
    assert found["pair_tally"]["parts"]["below_half"] == 1
    assert found["mean_weight"] == 1.0
    assert found["length_alpha"] is None


def test_a_method_that_smooths_without_agreement_reports_its_c(tmp_path: Path):
    scores = matrix(AGREE, AGREE)
    scores.logps["M2"][0] = 9.0  # the first gap is the larger one
    found = summary(tmp_path, scores, SpaMethod(share=0.5, label_smoothing=0.2))

    assert found["consistency_in_loss"] == pytest.approx(0.9)
    assert found["margin_fixed_point"] == pytest.approx(np.log(9))
