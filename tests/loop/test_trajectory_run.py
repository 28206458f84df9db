"""Runs of s2r: completions cut into solutions and checks, each credited by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cream.cli import app
from cream.errors import RecipeError
from cream.programs.evaluation import evaluate_model
from cream.recipe import Recipe
from cream.records import AdvantageSummary, EvaluateSummary
from cream.report.explain import explain
from cream.report.page.document import write_page
from cream.report.summary import summarise_run
from cream.runs.reader import RunReader
from cream.stages.segment import SegmentSummary
from kills import require_equal_after_kills
from run_contents import stage_record, table
from tiny_run import Silence

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
PHRASES = "{recheck: '?', retry: '!', correct: [y], incorrect: [n], confirm: y, reject: n}"
PROCESS = (
    f"method={{name: s2r, phrases: {PHRASES}, credit: {{level: process, beta: 0.05}}}}",
    "training.loss_reference=seed",
)
OUTCOME = (f"method={{name: s2r, phrases: {PHRASES}, credit: {{level: outcome}}}}",)
LONGER = (
    "sampling.max_completion_tokens=10",
    "evaluation.max_completion_tokens=10",
    "sft.epochs=30",
)


@pytest.fixture(scope="session")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed data of parities: a right answer confirmed, or a wrong one, masked, that is mended."""
    rows = []
    for b in range(2):
        for a in range(8):
            right, wrong = str((a + b) % 2), str((a + b + 1) % 2)
            spans = [{"text": f"{right}?y"}]
            if a % 2:
                spans = [{"text": wrong, "train": False}, {"text": f"?n!{right}?y"}]
            rows.append({"prompt": f"{a}+{b}=", "completion_spans": spans})
    path = tmp_path_factory.mktemp("trajectories") / "seed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make(tiny_recipe: MakeRecipe, trajectories: Path) -> MakeRecipe:
    def made(run_dir: Path, *changes: str) -> Recipe:
        return tiny_recipe(run_dir, f"data.seed.sources.0.path={trajectories}", *LONGER, *changes)

    return made


@pytest.fixture(scope="module")
def process_run(
    tmp_path_factory: pytest.TempPathFactory, make: MakeRecipe, run_whole: RunWhole
) -> Path:
    """A finished run of two iterations at the process level. Read only."""
    return run_whole(make(tmp_path_factory.mktemp("s2r") / "run", *PROCESS))


def segmented(root: Path, t: int) -> dict[str, dict[str, Any]]:
    return {row["completion_id"]: row for row in table(root, f"iteration-{t}/score/last_answer")}


def test_spans_tile_the_ids_and_actions_say_what_the_text_says(process_run: Path):
    """A byte is a token, so that what was cut can be read off the text."""
    rows = table(process_run, "iteration-1/matrix")
    cut = segmented(process_run, 1)
    assert any(len(row["actions"]) > 2 for row in cut.values())
    for row in rows:
        start, judged = 0, None
        answer = str(eval_parity(row["prompt_id"], process_run))
        for place, action in enumerate(cut[row["completion_id"]]["actions"]):
            text = row["text"].encode()[start : action["end"]].decode()
            assert action["kind"] == ("solve", "verify")[place % 2]
            if place:
                assert text[0] == "!?"[place % 2]
                assert action["opened"] == start + 1
            said = text[min(place, 1) :]
            if action["kind"] == "solve":
                judged = said.strip() == answer
                assert action["correct"] == judged
            else:
                assert action["verdict"] in (None, "y" in said)
                assert action["correct"] == (action["verdict"] == judged)
            start = action["end"]
        assert start == row["num_tokens"], "the last action ends with the completion"
        assert judged is not None
        cut_off = row["finish_reason"] == "length"
        assert row["last_answer"] == (1.0 if judged and not cut_off else -1.0)
        assert row["verifier"] == float(judged), "whole completions are judged by the last answer"


def eval_parity(prompt_id: str, root: Path) -> int:
    for t in (1, 2):
        for row in table(root, f"data/prompts-{t}"):
            if row["prompt_id"] == prompt_id:
                return int(row["answer"])
    raise KeyError(prompt_id)


def test_advantages_are_rewards_less_the_mean_of_others_in_the_same_context(process_run: Path):
    """Recomputed by brute force, the divergence of iteration 2 included."""
    for t in (1, 2):
        told = pq.read_table(process_run / f"iteration-{t}/advantage/advantages.parquet")
        rows = {row["completion_id"]: row for row in told.to_pylist()}
        cut = segmented(process_run, t)
        own, seed = (
            {
                row["completion_id"]: row["token_logps"]
                for row in table(process_run, f"iteration-{t}/score-tokens/{model}")
            }
            for model in (f"M{t}", "M0")
        )
        for key, row in rows.items():
            ends = [0, *(action["end"] for action in cut[key]["actions"])]
            for place, action in enumerate(row["actions"]):
                before = cut[key]["action_rewards"][:place]
                reward = cut[key]["action_rewards"][place]
                others = [
                    r["action_rewards"][place]
                    for k, r in cut.items()
                    if k != key
                    and len(r["action_rewards"]) > place
                    and r["action_rewards"][:place] == before
                ]
                ratios = np.subtract(own[key], seed[key])
                paid = 0.05 * ratios[ends[place] : ends[place + 1]].sum()
                assert action["reward"] == reward
                assert action["compared_with"] == "context" or not others
                if others:
                    assert action["advantage"] == pytest.approx(reward - np.mean(others) - paid)
            mean = np.mean([action["advantage"] for action in row["actions"]])
            assert row["advantage"] == pytest.approx(mean)


def test_counts_add_up_and_first_and_last_differ_by_what_was_mended_and_spoilt(process_run: Path):
    run, found = RunReader(process_run), []
    for t in (1, 2):
        figures = run.finished[f"iteration-{t}/score/last_answer"].summary(SegmentSummary)
        actions = [len(row["actions"]) for row in segmented(process_run, t).values()]
        assert figures.solves.total + figures.checks.total == sum(actions)
        assert figures.counts["total"] == len(actions)
        identity(figures)
        found.append(figures)
    summary = AdvantageSummary.read(
        stage_record(process_run, "iteration-1/advantage")["summary"], process_run
    )
    assert summary.actions is not None
    assert summary.actions.tally.total == found[0].solves.total + found[0].checks.total
    for name in ("seed-model", "sft", "iteration-1", "iteration-2"):
        record = stage_record(process_run, f"{name}/evaluate")
        evaluated = EvaluateSummary.read(record["summary"], process_run)
        assert evaluated.trajectories is not None
        identity(evaluated.trajectories)
        assert evaluated.greedy_right == evaluated.trajectories.counts["last_right"]


def identity(figures: Any) -> None:
    """last - first = (1 - p) ICR - p CIR in fractions, and as shares."""
    n = figures.counts
    p = Fraction(n["first_right"], n["total"])
    wrong = n["total"] - n["first_right"]
    mended = Fraction(n["mended"], wrong) if wrong else 0
    spoilt = Fraction(n["spoilt"], n["first_right"]) if n["first_right"] else 0
    gain = Fraction(n["last_right"], n["total"]) - p
    assert gain == (1 - p) * mended - p * spoilt
    assert figures.shares["last"] - figures.shares["first"] == pytest.approx(float(gain))


@pytest.mark.parametrize("level", ["process", "outcome"])
def test_a_run_killed_in_every_stage_equals_an_uninterrupted_one(
    level: str, tmp_path: Path, make: MakeRecipe, run_whole: RunWhole, process_run: Path
):
    """Killed whenever a second stage begins, and once within every part or training."""
    changes = PROCESS if level == "process" else OUTCOME
    whole = process_run if level == "process" else run_whole(make(tmp_path / "whole", *changes))
    require_equal_after_kills(
        lambda progress: run_whole(make(tmp_path / "run", *changes), progress),
        tmp_path / "run",
        whole,
    )


def test_the_outcome_level_is_rloo_on_the_last_answer(
    tmp_path: Path, make: MakeRecipe, run_whole: RunWhole
):
    """R = +1 or -1, less the mean of the other samples of the prompt."""
    root = run_whole(make(tmp_path / "run", *OUTCOME, "iterations=1"))
    last = {row["completion_id"]: row["last_answer"] for row in table(root, "iteration-1/matrix")}
    told = pq.read_table(root / "iteration-1/advantage/advantages.parquet").to_pylist()
    assert "actions" not in told[0]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in told:
        groups.setdefault(row["prompt_id"], []).append(row)
    for group in groups.values():
        rewards = [last[row["completion_id"]] for row in group]
        for row, reward in zip(group, rewards, strict=True):
            if row["advantage"] is not None:
                others = (sum(rewards) - reward) / (len(rewards) - 1)
                assert row["advantage"] == pytest.approx(reward - others)


def test_the_plan_counts_what_runs(process_run: Path):
    run = RunReader(process_run)
    names = [spec.name.removeprefix("iteration-2/") for spec in run.plan.stages if spec.t == 2]
    assert names[-6:] == [
        "matrix",
        "score-tokens/M2",
        "score-tokens/M0",
        "advantage",
        "train",
        "evaluate",
    ]
    (spec,) = run.planned("segment", 2)
    assert (spec.prompts, spec.completions) == (8, 32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("credit: {level: outcome, bonus: 2}", "bonus"),
        ("credit: {level: outcome, baseline: context}", "baseline"),
        ("phrases: {recheck: Wait., retry: Wait.}", "must differ"),
        ("phrases: {confirm: All is well.}", "`confirm` must say 'the answer is correct'"),
        ("phrases: {recheck: Is the answer is correct}", "says a verdict"),
        ("phrases: {correct: [Let me try again. yes]}", "holds `recheck` or `retry`"),
    ],
)
def test_what_would_be_ignored_or_could_not_be_read_is_refused(
    change: str, says: str, tmp_path: Path, tiny_recipe: MakeRecipe
):
    with pytest.raises(RecipeError, match=says):
        tiny_recipe(tmp_path / "run", f"method={{name: s2r, {change}}}")


def test_a_divergence_from_the_policy_itself_is_refused(
    tmp_path: Path, make: MakeRecipe, run_whole: RunWhole
):
    with pytest.raises(RecipeError, match="policy_at_start is the policy that sampled"):
        run_whole(make(tmp_path / "run", PROCESS[0]))


def test_report_explain_and_status_tell_of_first_and_last_answers(
    process_run: Path, tmp_path: Path
):
    summary = summarise_run(process_run)
    told = [(row.model, row.sampled_in) for row in summary.trajectories]
    assert told == [("M0", None), ("M1", None), ("M1", 1), ("M2", None), ("M2", 2), ("M3", None)]
    said = " ".join(CliRunner().invoke(app, ["status", str(process_run)]).output.split())
    assert "first and last answers" in said
    write_page([process_run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "those whose last is right; spoilt" in page
    row = next(r for r in table(process_run, "iteration-1/matrix") if "?" in r["text"])
    explanation = explain("pair", process_run, row["prompt_id"], 1)
    assert explanation.words[0].startswith("advantage: of every action by itself")
    lines = [line for line in explanation.words if line.startswith("#")]
    assert len(lines) == len(explanation.completions) == 4
    number = 1 + [c.completion_id for c in explanation.completions].index(row["completion_id"])
    (line,) = (line for line in lines if line.startswith(f"#{number}: "))
    cut = segmented(process_run, 1)[row["completion_id"]]
    assert line.count("solve") == sum(a["kind"] == "solve" for a in cut["actions"])
    assert f"reward {cut['action_rewards'][0]:+.0f}" in line


def test_masked_seed_completions_are_refused_where_they_would_be_trained_on_whole(
    tmp_path: Path, make: MakeRecipe, run_whole: RunWhole
):
    with pytest.raises(RecipeError, match="spin makes pairs of seed completions, and 8 of them"):
        run_whole(make(tmp_path / "run", "method={name: spin}"))


def test_a_model_is_measured_outside_a_run_by_its_last_answers(
    process_run: Path, tmp_path: Path, make: MakeRecipe, tiny_inputs: Path
):
    recipe = make(tmp_path / "run", *PROCESS)
    assert recipe.data.test is not None
    given = (recipe.data.test, recipe.evaluation, recipe.engine)
    model = recipe.model.model_copy(update={"name": str(process_run / "models/M3")})
    found, _ = evaluate_model(
        model,
        *given,
        seed=recipe.seed,
        tasks=(),
        trajectory=recipe.parts(1).trajectory,
        base_dir=tiny_inputs,
        cache_dir=tmp_path,
        progress=Silence(),
    )
    own = {(r["prompt_id"], r["index"]): r for r in table(process_run, "iteration-2/evaluate")}
    for row in found.to_pylist():
        assert row["correct"] == own[row["prompt_id"], row["index"]]["correct"]
        assert row["extracted"] == own[row["prompt_id"], row["index"]]["extracted"]
