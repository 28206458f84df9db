"""Runs of methods that weigh every sample: what they learn, resume, report and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cream.cli import app
from cream.errors import RecipeError, RunError
from cream.programs.recompute import recompute_pairs
from cream.recipe import Recipe
from cream.records import AdvantageSummary
from cream.report.costs import stage_tokens
from cream.report.explain import explain
from cream.report.export import export_pairs
from cream.report.page.document import write_page
from cream.report.summary import summarise_run
from cream.runs.reader import RunReader
from kills import require_equal_after_kills
from run_contents import stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
RLOO = ("method={name: rloo, objective: {kl: {beta: 0.02}}}", "training.loss_reference=seed")
"""A divergence in the loss from M0, whose token log-probabilities are scored in a stage."""


@pytest.fixture(scope="module")
def rloo_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """A finished run of two iterations. Read only."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("rloo") / "run", *RLOO))


def summary_of(root: Path, t: int) -> AdvantageSummary:
    record = stage_record(root, f"iteration-{t}/advantage")
    return AdvantageSummary.read(record["summary"], root)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("wanted", ["0", "1"])
def test_the_reward_rises_on_a_task_that_a_tiny_model_can_learn(
    seed: int, wanted: str, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """Every right answer is the same digit; M1 gives it about half the time. Four iterations of 8
    prompts and 8 samples with the verifier as the reward raise that by at least a quarter of what
    is missing; a sign error would lower it, for one of the two digits at least."""
    rows = [json.dumps({"prompt": f"{a}+{b}=", "answer": wanted}) for a in range(8) for b in "123"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(rows), encoding="utf-8")
    made = tiny_recipe(
        tmp_path / "run",
        "method=rloo",
        f"seed={seed}",
        "iterations=3",
        f"data.prompts.sources.0.path={prompts}",
        "data.test=null",
        "sampling.num_completions=8",
        "training.epochs=4",
        "training.optimiser.learning_rate=3e-3",
    )
    root = run_whole(made)
    rewards = [summary_of(root, t).mean_reward or 0.0 for t in (1, 2, 3)]
    assert rewards[0] < 0.9
    assert rewards[2] > rewards[0] + (1 - rewards[0]) / 4, rewards


def test_every_step_tells_what_is_watched(rloo_run: Path):
    lines = (rloo_run / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    watched = {"entropy", "completion_tokens", "clipped", "kl_to_start", "kl_to_reference"}
    assert all(watched | {"reward", "vote_share", "loss"} <= step.keys() for step in steps)
    assert len(steps) > 1, "several steps on one batch of samples"
    assert steps[0]["kl_to_start"] == 0
    assert steps[-1]["kl_to_start"] > 0


def test_advantages_are_the_reward_against_the_others_and_join_by_id(rloo_run: Path):
    for t in (1, 2):
        rows = table(rloo_run, f"iteration-{t}/matrix")
        right = {row["completion_id"]: row["verifier"] for row in rows}
        path = rloo_run / f"iteration-{t}/advantage/advantages.parquet"
        told = pq.read_table(path).to_pylist()
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in told:
            groups.setdefault(row["prompt_id"], []).append(row)
        for group in groups.values():
            rewards = [right[row["completion_id"]] for row in group]
            assert [row["reward"] for row in group] == rewards
            for row, reward in zip(group, rewards, strict=True):
                others = (sum(rewards) - reward) / (len(rewards) - 1)
                if len(set(rewards)) == 1:
                    assert row["advantage"] is None
                    assert row["outcome"] == "no_variance"
                else:
                    assert row["advantage"] == pytest.approx(reward - others)


def test_counts_add_up_and_figures_are_those_of_the_matrix(rloo_run: Path):
    rows = table(rloo_run, "iteration-1/matrix")
    found = summary_of(rloo_run, 1)
    tokens = sum(row["num_tokens"] for row in rows)
    assert found.tally.total == 8
    assert found.completion_tally.total == found.completions == len(rows)
    assert found.mean_reward == pytest.approx(np.mean([row["verifier"] for row in rows]))
    assert found.entropy == pytest.approx(-sum(row["logps_M1"] for row in rows) / tokens)
    assert found.behaviour_gap == pytest.approx(0, abs=1e-5), "sampled at temperature 1, top-p 1"
    assert found.warnings == {}
    trained = {r["completion_id"] for r in rows}
    assert found.trained_tokens <= sum(
        r["num_tokens"] for r in rows if r["completion_id"] in trained
    )
    assert found.reward_order.share in (1.0, None), "the verifier orders as the verifier"


def test_token_log_probabilities_are_those_of_the_reference(rloo_run: Path):
    rows = table(rloo_run, "iteration-2/score-tokens/M0")
    sums = {r["completion_id"]: r["logps_M0"] for r in table(rloo_run, "iteration-2/matrix")}
    for row in rows:
        assert len(row["token_logps"]) == row["num_tokens"]
        assert sum(row["token_logps"]) == pytest.approx(sums[row["completion_id"]], abs=1e-4)


def test_a_run_killed_in_every_stage_equals_an_uninterrupted_one(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, rloo_run: Path
):
    """Killed whenever a second stage begins (advantages and token scores among them), and, while
    stages last, once within every part or training."""
    require_equal_after_kills(
        lambda progress: run_whole(tiny_recipe(tmp_path / "run", *RLOO), progress),
        tmp_path / "run",
        rloo_run,
    )


def test_the_plan_counts_what_runs(rloo_run: Path):
    """8 prompts with 4 samples; an example per prompt, so 2 steps of 4 and two epochs."""
    run = RunReader(rloo_run)
    names = [spec.name for spec in run.plan.stages if spec.t == 2]
    assert names[-4:] == [
        "iteration-2/advantage",
        "iteration-2/score-tokens/M0",
        "iteration-2/train",
        "iteration-2/evaluate",
    ]
    (spec,) = run.planned("train", 2)
    assert (spec.examples, spec.completions, spec.epochs) == (8, 32, 2)
    trained = run.finished["iteration-2/train"]
    found = summary_of(rloo_run, 2)
    assert stage_tokens(run, trained) == {"trained": 2.0 * found.trained_tokens}


def test_report_explain_and_status_tell_of_samples(rloo_run: Path, tmp_path: Path):
    summary = summarise_run(rloo_run)
    assert [row.iteration for row in summary.weighed] == [1, 2]
    assert summary.iterations == []
    told = CliRunner().invoke(app, ["status", str(rloo_run)]).output
    assert "with its most frequent answer" in " ".join(told.split())
    write_page([rloo_run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Reward, and how varied the samples are" in page
    key = table(rloo_run, "iteration-1/matrix")[0]["prompt_id"]
    explanation = explain("pair", rloo_run, key, 1)
    assert explanation.words[0] == "advantage: verifier less the mean of the other samples"
    assert {"verifier", "advantage"} <= explanation.completions[0].figures.keys()
    assert explanation.outcome in ("trained", "no_variance")


def test_there_are_no_pairs_to_export_but_some_can_be_made(rloo_run: Path, tmp_path: Path):
    with pytest.raises(RunError, match="weighs every sample by its advantage"):
        export_pairs(rloo_run, 1)
    with pytest.raises(RunError, match="makes no pairs; name one that does"):
        recompute_pairs(rloo_run, 1, (), tmp_path / "pairs")
    change = "method={name: oracle, pairing: {truncated: keep}}"
    made = recompute_pairs(rloo_run, 1, [change], tmp_path / "pairs")
    varied = summary_of(rloo_run, 1).tally.parts["trained"]
    assert made.tally.parts["paired"] >= varied


def test_a_divergence_from_the_policy_itself_is_refused_before_anything_runs(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    change = "method={name: rloo, advantage: {kl: {place: reward, beta: 0.1}}}"
    with pytest.raises(RecipeError, match="policy_at_start is the policy that sampled"):
        run_whole(tiny_recipe(tmp_path / "run", change))
    assert not (tmp_path / "run/iteration-1").exists()


def test_a_prompt_set_without_any_variance_says_what_to_do(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    prompts = tmp_path / "prompts.jsonl"
    rows = [json.dumps({"prompt": f"{a}+1=", "answer": "never"}) for a in range(10)]
    prompts.write_text("\n".join(rows), encoding="utf-8")
    made = tiny_recipe(
        tmp_path / "run", "method=rloo", f"data.prompts.sources.0.path={prompts}", "iterations=1"
    )
    with pytest.raises(RunError, match=r"none of 8 prompts can be trained on \(no_variance 8\)"):
        run_whole(made)


def test_samples_off_the_policy_are_named(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    made = tiny_recipe(
        tmp_path / "run",
        "method=ttrl",
        "iterations=1",
        "sampling.temperature=0.5",
        "data.test=null",
    )
    found = summary_of(run_whole(made), 1)
    assert list(found.warnings) == ["off_policy"]
    assert found.behaviour_gap is not None
    assert found.behaviour_gap > 0.01
    assert found.reward == "majority(extracted)"


def test_intuitor_is_paid_by_the_certainty_of_the_policy(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """Certainty is a column of the matrix; GRPO's advantages of it have deviation 1 in a group."""
    changes = ("method=intuitor", "iterations=1", "data.test=null")
    root = run_whole(tiny_recipe(tmp_path / "run", *changes))
    column = {r["completion_id"]: r["self_certainty"] for r in table(root, "iteration-1/matrix")}
    told = pq.read_table(root / "iteration-1/advantage/advantages.parquet").to_pylist()
    assert all(row["reward"] == column[row["completion_id"]] > 0 for row in told)
    groups: dict[str, list[float]] = {}
    for row in told:
        groups.setdefault(row["prompt_id"], []).append(row["advantage"])
    assert groups
    for group in groups.values():
        assert np.std(group, ddof=1) == pytest.approx(1)
