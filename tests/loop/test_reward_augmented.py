"""Goals in the loop: four cells scored under them, answers and evaluations under them, resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cream.algorithms.goals import LOW_GOAL, with_goal
from cream.engines.scorer import TorchScorer
from cream.errors import RecipeError
from cream.models.chat import ChatEncoder
from cream.models.loading import load_model
from cream.recipe import Recipe
from cream.report.export import export_pairs, flip
from cream.report.summary import summarise_run
from cream.runs.files import read_table
from cream.runs.tables import examples_from_table
from cream.testing import tiny_tokenizer
from cream.types import Example, Goal, Message, ScoringRequest
from kills import KillAt, Killed
from run_contents import same_weights, stage_record, table, weights

METHOD = (
    "method={name: reward_augmented, pairing: {truncated: keep}, "
    "goals: {text: 'score {goal}', evaluate: [1, 10]}}"
)
TOP = METHOD.replace("evaluate: [1, 10]", "evaluate: [10], sample: top")
SRLM = "method={name: srlm, pairing: {truncated: keep}}"
CPU = torch.device("cpu")

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Make, run_whole: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("goals")
    return run_whole(tiny_recipe(folder / "run", "iterations=1", METHOD))


@pytest.fixture(scope="module")
def under_top(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Make, run_whole: Callable[..., Path]
) -> Path:
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("top") / "run", TOP))


def examples(root: Path) -> list[Example]:
    paths = sorted((root / "iteration-1/transform").glob("part-*"))
    return [example for path in paths for example in examples_from_table(read_table(path))]


def decoded(ids: tuple[int, ...]) -> str:
    return tiny_tokenizer().decode(list(ids))


def test_all_four_cells_are_scored_under_their_own_goal_by_the_loss_reference(root: Path):
    sums = {
        (row["example_id"], row["role"]): row["reference_logps"]
        for row in table(root, "iteration-1/score-examples")
    }
    made = examples(root)
    scorer = TorchScorer(load_model(root / "models/M1", dtype=torch.float32, device=CPU))

    assert made
    assert sums.keys() == {(e.example_id, role) for e in made for role in e.sequences}
    assert all(len(e.sequences) == 4 for e in made)
    for (key, role), found in sums.items():
        example = next(e for e in made if e.example_id == key)
        prompt, ids = example.prompt_of(role), example.sequences[role].token_ids
        goal = example.columns["low_goal" if role in LOW_GOAL.values() else "high_goal"]
        assert f"score {goal:.0f}<|im_end|>" in decoded(prompt)
        (group,) = scorer.score([ScoringRequest("x", prompt, (ids,))])
        assert found == pytest.approx(float(group.token_logps[0].sum()), abs=1e-4)


def test_pairs_are_those_of_srlm_and_the_tally_says_what_became_of_them(
    root: Path, tmp_path: Path, tiny_recipe: Make, run_whole: Callable[..., Path]
):
    srlm = run_whole(tiny_recipe(tmp_path / "srlm", "iterations=1", "data.test=null", SRLM))
    assert table(root, "iteration-1/pair") == table(srlm, "iteration-1/pair")
    summary = stage_record(root, "iteration-1/transform")["summary"]
    made = examples(root)
    assert summary["tally"]["parts"]["transformed"] == len(made)
    assert sum(summary["tally"]["parts"].values()) == summary["tally"]["total"]
    assert summary["unscored"] == 4 * len(made)
    assert not same_weights(weights(root, "M2"), weights(srlm, "M2"))


def test_training_starts_without_sensitivity_and_reports_it(root: Path):
    lines = (root / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    for name in ("margin_high", "margin_low", "sensitivity", "shift"):
        assert steps[0][f"goal/{name}"] == pytest.approx(0.0, abs=1e-5)
    assert steps[-1]["goal/sensitivity"] != pytest.approx(0.0, abs=1e-4)


def test_every_model_is_evaluated_under_each_goal_and_without(root: Path):
    summary = summarise_run(root)
    found = [(row.model, row.goal) for row in summary.goals]

    assert sorted(found) == sorted((m, g) for m in ("M0", "M1", "M2") for g in (1, 10))
    assert [row.model for row in summary.models] == ["M0", "M1", "M2"]  # without a goal
    assert all(row.difference is not None for row in summary.goals)
    texts = [
        [row["text"] for row in table(root, f"iteration-1/{name}evaluate")]
        for name in ("", "goal-1/", "goal-10/")
    ]
    assert texts[0] != texts[1] != texts[2]


def test_from_the_second_iteration_on_answers_may_be_drawn_and_scored_under_the_top_goal(
    under_top: Path,
):
    """What was sampled is what is scored: under M0 as under M2, the goal in the prompt."""
    first, second = (stage_record(under_top, f"iteration-{t}/sample")["inputs"] for t in (1, 2))
    assert "goal" not in first
    assert second["goal"]

    rows = table(under_top, "iteration-2/matrix")
    asked = {row["prompt_id"]: row for row in table(under_top, "data/prompts-2")}
    encoder = ChatEncoder(tiny_tokenizer())
    for name in ("M2", "M0"):
        model = load_model(
            under_top / "models/M2" if name == "M2" else _seed(under_top),
            dtype=torch.float32,
            device=CPU,
        )
        row = rows[0]
        said = _messages(asked[row["prompt_id"]])
        prompt = encoder.encode_prompt(with_goal(said, Goal("score 10", "system")))
        (group,) = TorchScorer(model).score(
            [ScoringRequest("x", prompt, (tuple(row["token_ids"]),))]
        )
        assert row[f"logps_{name}"] == pytest.approx(float(group.token_logps[0].sum()), abs=1e-4)


def _seed(root: Path) -> Path:
    return Path(yaml.safe_load((root / "recipe.yaml").read_text("utf-8"))["model"]["name"])


def _messages(row: dict[str, Any]) -> list[Any]:
    return [Message(m["role"], m["content"]) for m in row["prompt"]]


@pytest.mark.parametrize("kills", [1, 2, 3, 4])
def test_killed_in_a_new_stage_it_ends_like_an_uninterrupted_run(
    kills: int, root: Path, tmp_path: Path, tiny_recipe: Make, run_whole: Callable[..., Path]
):
    """The transform, two parts of its scores, a training step."""
    killed = tmp_path / "killed"
    shutil.copytree(root, killed)
    for name in ("transform", "score-examples", "train", "evaluate", "goal-1", "goal-10"):
        shutil.rmtree(killed / "iteration-1" / name)
    shutil.rmtree(killed / "models/M2")
    recipe = tiny_recipe(killed, "iterations=1", METHOD)
    with pytest.raises(Killed):
        run_whole(recipe, KillAt("kept", kills))
    run_whole(recipe)

    assert same_weights(weights(killed, "M2"), weights(root, "M2"))
    for name in ("goal-1/evaluate", "goal-10/evaluate"):
        assert table(killed, f"iteration-1/{name}") == table(root, f"iteration-1/{name}")


def test_exported_are_two_rows_per_pair_with_the_goal_in_the_prompt(root: Path):
    exported = export_pairs(root, None)
    rows = exported.table.to_pylist()
    made = examples(root)

    assert len(rows) == 2 * len(made)
    for example in made:
        high, low = (row for row in rows if row["pair_id"] == example.example_id)
        goals = [int(example.columns[name]) for name in ("high_goal", "low_goal")]
        for row, goal in zip((high, low), goals, strict=True):
            assert row["prompt"][0] == {"role": "system", "content": f"score {goal}"}
            assert row["goal"] == goal
        assert (low["chosen"], low["rejected"]) == (high["rejected"], high["chosen"])
        assert low["margin"] == -high["margin"]
    with pytest.raises(Exception, match="under goals"):
        flip(exported, seed=0)


def test_what_would_not_act_is_refused(tiny_recipe: Make, tmp_path: Path):
    for change, said in [
        ("method.goals.text=be good", "text must name {goal} once"),
        ("method.goals.scale={kind: given, lowest: 2, highest: 1}", "is not below highest"),
        ("method.objective=cream", "reads C, and consistency is null"),
        ("method.consistency=set", "consistency acts in objective cream or weighted_dpo"),
        ("method.objective={optimism: {alpha: 0.1}}", "examples that goals make have none"),
        ("method.objective=nll", "reads no pair"),
    ]:
        with pytest.raises((RecipeError, ValueError), match=said):
            tiny_recipe(tmp_path / "run", METHOD, change).method.parts(1)
