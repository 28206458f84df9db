"""The flat example runs, stays short, and computes what the paper's formulas say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "one_iteration.py"


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """The example's names after it ran on the tiny model: those of its last iteration, t = 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLE)])
        return runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_it_is_one_screen_after_another_and_no_framework():
    text = EXAMPLE.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 120
    assert "class " not in text
    assert "import typer" not in text
    assert "import argparse" not in text


def test_the_readme_names_it_first_to_readers():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## Where things are")

    assert section.index("(examples/one_iteration.py)") == section.index("](") + 1


def test_fine_tuning_teaches_the_tiny_model_its_task(ran: dict[str, Any]):
    assert ran["accuracy"](ran["models"]["M0"]) == 0
    assert ran["accuracy"](ran["models"]["M1"]) > 0.5


def test_consistency_is_the_mean_of_taus_between_the_rewards_of_two_models(ran: dict[str, Any]):
    """tau-b by SciPy over the distinct completions of each prompt, from the log-probabilities.

    The rewards are those of M2 and of M1, both against M0; prompts whose completions are all alike
    in one of them have no tau. Log-probabilities are of order 10, so gaps below 1e-4 would be
    undecided by rounding; there are none.
    """
    models, completions, prompts = ran["models"], ran["completions"], ran["unlabelled"]
    logps = {name: ran["logps"](models[name], completions) for name in ("M0", "M1", "M2")}
    first, second = logps["M2"] - logps["M0"], logps["M1"] - logps["M0"]
    rates = []
    for row, prompt in enumerate(prompts):
        distinct = sorted({ids: k for k, ids in reversed([*enumerate(completions[prompt])])})
        places = [completions[prompt].index(ids) for ids in distinct]
        if len(places) >= 2:
            tau = np.asarray(kendalltau(first[row, places], second[row, places]))[0]
            rates.append((tau + 1) / 2)

    assert len(rates) > 10
    assert ran["C"] == pytest.approx(np.mean(rates), abs=1e-9)


def test_each_pair_is_the_highest_and_the_lowest_reward_of_its_prompt(ran: dict[str, Any]):
    rewards = ran["reward"].values
    by_prompt = {example.example_id: example for example in ran["examples"]}

    assert by_prompt
    for row, prompt in enumerate(ran["unlabelled"]):
        if prompt in by_prompt:
            sequences = by_prompt[prompt].sequences
            best, worst = np.argmax(rewards[row]), np.argmin(rewards[row])
            assert sequences["chosen"].token_ids == ran["completions"][prompt][best]
            assert sequences["rejected"].token_ids == ran["completions"][prompt][worst]
            assert by_prompt[prompt].columns["consistency"] == max(ran["C"], 0.5)


def test_training_moves_the_margins_towards_logit_C(ran: dict[str, Any]):  # noqa: N802
    """The loss has its minimum at a margin of logit C > 0, and training starts at margin 0."""
    assert ran["C"] > 0.5
    models, prompts = ran["models"], [example.example_id for example in ran["examples"]]
    rows = [ran["unlabelled"].index(prompt) for prompt in prompts]
    change = ran["logps"](models["M3"], ran["completions"])
    change -= ran["logps"](models["M2"], ran["completions"])
    pairs = ran["pairs"]
    margins = ran["BETA"] * (change[rows, pairs.chosen] - change[rows, pairs.rejected])

    assert margins.mean() > 0.01
