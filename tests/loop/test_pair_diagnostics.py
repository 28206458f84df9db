"""Figures beside C in the pair summary, from a matrix decided by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pairing_summary import AGREE, REVERSED, matrix

from cream.loop.pairing import make_pairs
from cream.methods import method_parts
from cream.recipe.methods import CreamMethod, MethodConfig, SpaMethod, SrlmMethod
from cream.types import ScoreMatrix


def summary(folder: Path, scores: ScoreMatrix, method: MethodConfig) -> dict[str, Any]:
    return make_pairs(folder, scores, method_parts(method, 2), 2, seed=0, report_consistency=True)


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
    """Implicit M1 agrees on three pairs (two right) and disagrees on one (wrong); M0 is tied."""
    found = summary(tmp_path, three_right_one_wrong(), SrlmMethod())["witnesses"]

    assert found["implicit(M1)"] == {
        "agree_accuracy": pytest.approx(2 / 3),
        "agree_n": 3,
        "disagree_accuracy": 0.0,
        "disagree_n": 1,
    }
    assert found["mean_likelihood(M1)"] == found["implicit(M1)"]  # all have two tokens, M0 is 0
    assert found["mean_likelihood(M0)"]["agree_n"] == 0
    assert found["mean_likelihood(M0)"]["disagree_accuracy"] is None


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
