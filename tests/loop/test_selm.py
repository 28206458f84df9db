"""SELM's loop: an answer of M_t beside every pair, greedy or sampled, joined by prompt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cream.engines.scorer import TorchScorer
from cream.models.chat import ChatEncoder
from cream.models.loading import load_model
from cream.recipe import Recipe
from cream.stages.train import with_answers
from cream.testing import tiny_tokenizer
from cream.training.examples import pair_example
from cream.types import Message, ScoringRequest, TokenSequence
from kills import KillAt, Killed
from run_contents import same_weights, stage_record, table, weights

SELM = "method={name: selm, pairing: {truncated: keep}, objective: {optimism: {alpha: 0.5}}}"
SAMPLED = SELM.replace("alpha: 0.5", "alpha: 0.5, answer: sampled")
SRLM = "method={name: srlm, pairing: {truncated: keep}}"

CPU = torch.device("cpu")
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Make, run_whole: Callable[..., Path]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("selm")
    return {
        name: run_whole(tiny_recipe(folder / name, "iterations=1", method))
        for name, method in (("greedy", SELM), ("sampled", SAMPLED), ("srlm", SRLM))
    }


def steps(root: Path) -> list[dict[str, float]]:
    lines = (root / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_pairs_are_srlms_and_only_the_training_differs(runs: dict[str, Path]):
    pairs = {name: table(root, "iteration-1/pair") for name, root in runs.items()}

    assert pairs["greedy"] == pairs["srlm"] == pairs["sampled"]
    trained = {name: weights(root, "M2") for name, root in runs.items()}
    assert not same_weights(trained["greedy"], trained["srlm"])
    assert not same_weights(trained["greedy"], trained["sampled"])


def test_each_prompt_is_answered_once_more_at_temperature_0(runs: dict[str, Path]):
    answers = table(runs["greedy"], "iteration-1/greedy/sample")
    sampled = table(runs["greedy"], "iteration-1/sample")

    assert [row["completion_id"] for row in answers] == [
        f"{key}-greedy-0" for key in dict.fromkeys(row["prompt_id"] for row in sampled)
    ]
    assert not (runs["sampled"] / "iteration-1/greedy").exists()
    assert all(row["origin"] == "greedy" for row in answers)
    scores = table(runs["greedy"], "iteration-1/greedy/score/M1")
    sums = {row["completion_id"]: row["logps_M1"] for row in scores}
    assert sums.keys() == {row["completion_id"] for row in answers}
    asked = {r["prompt_id"]: r["prompt"] for r in table(runs["greedy"], "data/prompts-1")}
    model = load_model(runs["greedy"] / "models/M1", dtype=torch.float32, device=CPU)
    encoder = ChatEncoder(tiny_tokenizer())
    for row in answers:
        messages = [Message(m["role"], m["content"]) for m in asked[row["prompt_id"]]]
        prompt, ids = encoder.encode_prompt(messages), tuple(row["token_ids"])
        (group,) = TorchScorer(model).score([ScoringRequest("x", prompt, (ids,))])
        assert sums[row["completion_id"]] == pytest.approx(
            float(group.token_logps[0].sum()), abs=1e-4
        )
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == list(ids)


def test_where_the_answers_are_from_is_counted_and_logged(runs: dict[str, Path]):
    for name in ("greedy", "sampled"):
        summary = stage_record(runs[name], "iteration-1/train")["summary"]
        parts = summary["answers"]["parts"]
        assert sum(parts.values()) == summary["answers"]["total"] == summary["tally"]["total"]
        epoch = steps(runs[name])[: len(steps(runs[name])) // 2]
        share = sum(s["optimism/is_chosen"] for s in epoch) / len(epoch)
        assert (share > 0) == (parts.get("chosen", 0) > 0)
        # the policy is the reference before the first step: all log-ratios are 0
        assert epoch[0]["optimism/log_ratio"] == pytest.approx(0.0, abs=1e-5)
        assert steps(runs[name])[-1]["optimism/log_ratio"] != pytest.approx(0.0, abs=1e-3)
    assert "answers" not in stage_record(runs["srlm"], "iteration-1/train")["summary"]


def test_answers_that_were_cut_off_are_left_out_where_pairs_leave_them_out(
    tmp_path: Path, tiny_recipe: Make, run_whole: Callable[..., Path]
):
    method = SELM.replace("truncated: keep", "truncated: drop")
    root = run_whole(tiny_recipe(tmp_path / "run", "iterations=1", "data.test=null", method))
    cut = [row["finish_reason"] for row in table(root, "iteration-1/greedy/sample")]
    parts = stage_record(root, "iteration-1/train")["summary"]["answers"]["parts"]

    assert ("truncated" in parts) == ("length" in cut)


@pytest.mark.parametrize("kills", [1, 2, 3, 5])
def test_killed_in_a_new_stage_it_ends_like_an_uninterrupted_run(
    kills: int,
    runs: dict[str, Path],
    tmp_path: Path,
    tiny_recipe: Make,
    run_whole: Callable[..., Path],
):
    """Two parts of greedy answers, two of their scores, then the verdicts."""
    shutil.copytree(runs["greedy"], tmp_path / "killed")
    for name in ("greedy", "train", "evaluate"):
        shutil.rmtree(tmp_path / "killed/iteration-1" / name)
    shutil.rmtree(tmp_path / "killed/models/M2")
    recipe = tiny_recipe(tmp_path / "killed", "iterations=1", SELM)
    with pytest.raises(Killed):
        run_whole(recipe, KillAt("kept", kills))
    run_whole(recipe)

    assert same_weights(weights(tmp_path / "killed", "M2"), weights(runs["greedy"], "M2"))
    for stage in ("greedy/sample", "greedy/score/M1", "train"):
        found, want = (
            stage_record(r, f"iteration-1/{stage}") for r in (tmp_path / "killed", runs["greedy"])
        )
        assert found["fingerprint"] == want["fingerprint"]


def test_answers_are_joined_by_prompt_and_an_equal_completion_stands_for_its_answer():
    def example(key: str, chosen: tuple[int, ...], rejected: tuple[int, ...]) -> Any:
        return pair_example(key, (7,), TokenSequence(chosen, -1.0), TokenSequence(rejected, -2.0))

    examples = [
        example("a", (1, 2), (3, 2)),
        example("b", (4, 2), (5, 2)),
        example("c", (6,), (8,)),
    ]
    answers = {"p": TokenSequence((3, 2), -2.0), "q": TokenSequence((9, 2), -4.0), "r": "truncated"}
    found, tally = with_answers(examples, {"a": "p", "b": "q", "c": "r"}, answers)

    assert dict(tally.parts) == {"apart": 1, "rejected": 1, "truncated": 1}
    assert [e.columns["optimism_is_rejected"] for e in found] == [1.0, 0.0, 0.0]
    assert [e.columns["optimism_is_chosen"] for e in found] == [0.0, 0.0, 0.0]
    assert ["optimism" in e.sequences for e in found] == [False, True, False]
    assert found[1].sequences["optimism"] == answers["q"]
    with pytest.raises(KeyError):
        with_answers(examples, {"a": "p", "b": "q", "c": "gone"}, answers)
