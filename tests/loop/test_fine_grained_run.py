"""Runs with a reward of every token: what is trained on, resume, plan, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cream.errors import RecipeError
from cream.models.chat import ChatEncoder
from cream.models.fingerprints import model_fingerprint
from cream.models.loading import load_model, load_tokenizer
from cream.models.token_head import load_token_head
from cream.pair_records import TokenHeadSummary
from cream.recipe import Recipe
from cream.records import AdvantageSummary
from cream.report.explain import explain
from cream.report.ranked import read_asked
from cream.report.summary import summarise_run
from cream.runs.reader import RunReader
from cream.types import Message
from kills import require_equal_after_kills
from run_contents import same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
LABELS = (
    "method={name: fine_grained, editing: {max_share: 0.8}, "
    "advantage: {baseline: leave_one_out, discount: 1.0}}",
    "sampling.num_completions=6",
)
IMPLICIT = (
    "method={name: fine_grained, reward: implicit, "
    "advantage: {discount: 0.5, decay: 0.5, clip: 1.0, whiten: true, kl: {beta: 0.1}}}",
    "training.loss_reference=seed",
)
HEAD = (
    "method={name: fine_grained, reward: head, editing: {max_share: 0.8}, head: {steps: 40}}",
    "sampling.num_completions=6",
)


@pytest.fixture(scope="module")
def labels_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """A finished run of two iterations. Read only."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("labels") / "run", *LABELS))


@pytest.fixture(scope="module")
def implicit_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """The same with M_t's own log-ratios as rewards. Read only."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("implicit") / "run", *IMPLICIT))


@pytest.fixture(scope="module")
def head_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """The same with rewards of a head trained on the edits. Read only."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("head") / "run", *HEAD))


def advantages(root: Path, t: int) -> list[dict[str, Any]]:
    return pq.read_table(root / f"iteration-{t}/advantage/advantages.parquet").to_pylist()


def by_id(root: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["completion_id"]: row for row in table(root, name)}


def test_label_advantages_are_the_reward_to_go_less_that_of_the_others(labels_run: Path):
    """Restated from the matrix: sums of what is still to come, aligned by place."""
    for t in (1, 2):
        matrix = by_id(labels_run, f"iteration-{t}/matrix")
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in advantages(labels_run, t):
            assert matrix[row["completion_id"]]["origin"] == "policy", "no gradient of an edit"
            groups.setdefault(row["prompt_id"], []).append(row)
        seen = 0
        for group in groups.values():
            trained = [row for row in group if row["outcome"] == "trained"]
            to_go = [
                np.cumsum(matrix[row["completion_id"]]["labels_tokens"][::-1])[::-1]
                for row in trained
            ]
            for k, row in enumerate(trained):
                others = [one for j, one in enumerate(to_go) if j != k]
                expected = [
                    own - sum(o[i] if i < len(o) else 0.0 for o in others) / len(others)
                    for i, own in enumerate(to_go[k])
                ]
                np.testing.assert_allclose(row["token_advantages"], expected, atol=1e-6)
                assert row["advantage"] == pytest.approx(np.mean(expected), abs=1e-6)
                seen += any(expected)
            for row in group:
                if row["outcome"] != "trained":
                    assert row["token_advantages"] is None
        assert seen


def test_implicit_rewards_are_log_ratios_whose_sum_is_the_implicit_reward(implicit_run: Path):
    for t in (1, 2):
        matrix = by_id(implicit_run, f"iteration-{t}/matrix")
        policy, seed = (
            by_id(implicit_run, f"iteration-{t}/score-tokens/{m}") for m in (f"M{t}", "M0")
        )
        for key, row in matrix.items():
            ratios = np.subtract(policy[key]["token_logps"], seed[key]["token_logps"])
            np.testing.assert_allclose(row["implicit_tokens"], ratios, atol=1e-5)
            gap = row[f"logps_M{t}"] - row["logps_M0"]
            assert row["implicit"] == pytest.approx(gap, abs=1e-4)


def test_implicit_advantages_are_clipped_paid_and_whitened(implicit_run: Path):
    """clip(r, 1) - .1 r, decayed by .25 a token, over all tokens mean 0 and deviation 1."""
    matrix, told, raw = by_id(implicit_run, "iteration-1/matrix"), [], []
    for row in advantages(implicit_run, 1):
        ratios = np.array(matrix[row["completion_id"]]["implicit_tokens"])
        own, last = np.clip(ratios, -1, 1) - 0.1 * ratios, 0.0
        credit = []
        for value in own[::-1]:
            last = value + 0.25 * last
            credit.append(last)
        raw += credit[::-1]
        told += row["token_advantages"]
    np.testing.assert_allclose(told, (np.array(raw) - np.mean(raw)) / np.std(raw), atol=1e-4)


def test_heads_rewards_are_read_off_m0_after_each_token(head_run: Path, tiny_inputs: Path):
    """Restated with the stored head and M0's own forward, a completion at a time."""
    folder = tiny_inputs / "model"
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu")).eval()
    encoder = ChatEncoder(load_tokenizer(folder))
    asked = read_asked(RunReader(head_run).asked(1))
    head = load_token_head(head_run / "iteration-1/head", fingerprint=model_fingerprint(folder))
    matrix = by_id(head_run, "iteration-1/matrix")
    for row in matrix.values():
        turns = asked[row["prompt_id"]].turns
        prompt = encoder.encode_prompt([Message(t.role, t.content) for t in turns])
        with torch.inference_mode():
            read = torch.tensor([[*prompt, *row["token_ids"]]])
            states = model.base_model(read).last_hidden_state[0, len(prompt) :]
            rewards = head(states).tolist()
        np.testing.assert_allclose(row["head_tokens"], rewards, atol=1e-4)
        assert row["head"] == pytest.approx(sum(row["head_tokens"]), abs=1e-4)
        assert len(row["head_ends"]) == len(rewards)


def test_a_head_has_learnt_what_edits_touched_and_pays_every_sample(head_run: Path):
    for t in (1, 2):
        record = stage_record(head_run, f"iteration-{t}/head")
        found = TokenHeadSummary.read(record["summary"], head_run)
        edits = stage_record(head_run, f"iteration-{t}/edit")["summary"]
        assert found.pairs == edits["tally"]["parts"]["accepted"] > 0
        assert found.tokens == edits["original_tokens"] + edits["edited_tokens"]
        means = found.mean_reward
        assert means["new"] is not None
        assert means["replaced"] is not None
        assert means["new"] > 0 > means["replaced"]
        assert found.last_loss < found.first_loss
        rows = advantages(head_run, t)
        matrix = by_id(head_run, f"iteration-{t}/matrix")
        assert {row["outcome"] for row in rows} == {"trained"}, "wrong ones without an edit too"
        for row in rows:
            own = matrix[row["completion_id"]]
            np.testing.assert_allclose(row["token_advantages"], own["head_tokens"], atol=1e-6)


def test_the_plan_fits_the_head_between_edits_and_scores(head_run: Path, labels_run: Path):
    plan = RunReader(head_run).plan
    names = [s.name.removeprefix("iteration-2/") for s in plan.stages if s.t == 2]
    assert names[:3] == ["sample", "edit", "head"]
    assert names.index("head") < names.index("score/head") < names.index("matrix")
    (score,) = (s for s in plan.stages if s.name == "iteration-2/score/head")
    assert score.inputs == ("iteration-2/edit", "iteration-2/head")
    assert not any(s.kind == "token_head" for s in RunReader(labels_run).plan.stages)


def test_the_report_tells_of_the_head_and_colours_by_it(head_run: Path, labels_run: Path):
    rows = summarise_run(head_run).edits
    assert all(row.head is not None and row.head.pairs > 0 for row in rows)
    assert all(row.head is None for row in summarise_run(labels_run).edits)
    told = explain("pair", head_run, advantages(head_run, 1)[0]["prompt_id"], 1)
    assert {one.token_rewards.column for one in told.completions if one.token_rewards} == {"head"}


@pytest.mark.parametrize(
    ("changes", "which"),
    [(LABELS, "labels_run"), (IMPLICIT, "implicit_run"), (HEAD, "head_run")],
)
def test_a_run_killed_in_every_stage_equals_an_uninterrupted_one(
    changes: tuple[str, ...],
    which: str,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    request: pytest.FixtureRequest,
):
    whole: Path = request.getfixturevalue(which)
    require_equal_after_kills(
        lambda progress: run_whole(tiny_recipe(tmp_path / "run", *changes), progress),
        tmp_path / "run",
        whole,
    )


def test_what_a_step_trains_on_moves_the_model_away_from_what_was_replaced(labels_run: Path):
    lines = (
        (labels_run / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    steps = [json.loads(line) for line in lines]
    assert steps[0]["kl_to_start"] == 0
    assert steps[-1]["kl_to_start"] > 0
    assert not same_weights(weights(labels_run, "M1"), weights(labels_run, "M2"))


def test_the_plan_scores_tokens_before_it_weighs_them(implicit_run: Path, labels_run: Path):
    names = [
        s.name.removeprefix("iteration-2/") for s in RunReader(implicit_run).plan.stages if s.t == 2
    ]
    assert names == [
        "sample",
        "score-tokens/M2",
        "score-tokens/M0",
        "score/M2",
        "score/M0",
        "score/verifier",
        "score/implicit",
        "matrix",
        "advantage",
        "train",
        "evaluate",
    ]
    labelled = [s.name for s in RunReader(labels_run).plan.stages if s.t == 1]
    assert "iteration-1/edit" in labelled
    assert not any("score-tokens" in name for name in labelled)


def test_report_and_explain_tell_of_tokens(labels_run: Path):
    summary = summarise_run(labels_run)
    assert [row.iteration for row in summary.weighed] == [1, 2]
    assert [row.iteration for row in summary.edits] == [1, 2]
    record = stage_record(labels_run, "iteration-1/advantage")
    found = AdvantageSummary.read(record["summary"], labels_run)
    assert found.completions == 48, "edits are not counted as samples"
    assert found.behaviour_gap == pytest.approx(0, abs=1e-5)
    key = advantages(labels_run, 1)[0]["prompt_id"]
    told = explain("pair", labels_run, key, 1)
    assert told.words[0].startswith("advantage of every token: its labels reward")
    edits = [one for one in told.completions if one.origin == "edited"]
    assert all(one.figures["advantage"] is None for one in edits)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{name: fine_grained, reward: implicit, editing: {}}", "editing would be ignored"),
        ("{name: fine_grained, head: {}}", "head would be ignored: the reward is labels"),
        ("{name: fine_grained, objective: {ratio: product}}", "set it to token"),
        ("{name: fine_grained, advantage: {scale: group_std}}", "scale"),
        ("{name: fine_grained, advantage: {kl: {beta: 0.1}}}", "policy_at_start is the policy"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    method: str, message: str, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    with pytest.raises(RecipeError, match=message):
        run_whole(tiny_recipe(tmp_path / "run", f"method={method}"))
