"""Temporal self-rewarding: three models answer, one is trained for it, all of it resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cream.errors import RunError
from cream.programs.recompute import recompute_pairs
from cream.recipe import Recipe
from cream.report.summary import status_of
from cream.testing import tiny_judge_folder
from run_contents import contents, stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]

METHOD = "method={name: temporal, score: policy, pairing: {truncated: keep}}"
OVERRIDES = ("data.test=null", METHOD)


@pytest.fixture(scope="module")
def temporal(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """Two iterations; M_t's implicit reward scores, as a tiny model cannot judge in words."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("temporal") / "run", *OVERRIDES))


def pairs(root: Path, stage: str) -> dict[str, dict[str, Any]]:
    rows = [row for row in table(root, stage) if "chosen_id" in row]
    return {row["prompt_id"]: row for row in rows}


def implicit(row: dict[str, Any], t: int) -> float:
    return row[f"logps_M{t}"] - row["logps_M0"]


@pytest.mark.parametrize("t", [1, 2])
def test_each_models_completions_are_sampled_once_and_meet_in_the_matrix(temporal: Path, t: int):
    """4 completions of each model for 8 prompts, a prompt's rows together, M_t's first."""
    rows = table(temporal, f"iteration-{t}/matrix")
    made = {
        "policy": table(temporal, f"iteration-{t}/sample"),
        "past": table(temporal, f"iteration-{t}/past/sample"),
        "future": table(temporal, f"iteration-{t}/future/sample"),
    }

    assert [row["origin"] for row in rows] == [o for o in made for _ in range(4)] * 8
    assert [r["prompt_id"] for r in rows[::12]] == [r["prompt_id"] for r in made["policy"][::4]]
    for origin, sampled in made.items():
        found = {r["completion_id"]: r["token_ids"] for r in rows if r["origin"] == origin}
        assert found == {row["completion_id"]: row["token_ids"] for row in sampled}
    draft = table(temporal, f"iteration-{t}/draft/matrix")
    assert draft == [row for row in rows if row["origin"] != "future"]
    assert stage_record(temporal, f"iteration-{t}/past/sample")["summary"]["completions"] == 32


@pytest.mark.parametrize("t", [1, 2])
@pytest.mark.parametrize(
    ("folder", "may_be_chosen"), [("", ("policy", "future")), ("draft/", ("policy",))]
)
def test_chosen_is_the_best_of_present_and_future_rejected_the_worst_of_present_and_past(
    temporal: Path, t: int, folder: str, may_be_chosen: tuple[str, ...]
):
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table(temporal, f"iteration-{t}/{folder}matrix"):
        groups.setdefault(row["prompt_id"], []).append(row)
    found = pairs(temporal, f"iteration-{t}/{folder}pair")
    rows = {row["completion_id"]: row for group in groups.values() for row in group}

    assert found
    for prompt, pair in found.items():
        best = max(implicit(r, t) for r in groups[prompt] if r["origin"] in may_be_chosen)
        worst = min(implicit(r, t) for r in groups[prompt] if r["origin"] != "future")
        chosen, rejected = rows[pair["chosen_id"]], rows[pair["rejected_id"]]
        assert implicit(chosen, t) == pytest.approx(best, abs=1e-4)
        assert implicit(rejected, t) == pytest.approx(worst, abs=1e-4)
        assert chosen["origin"] in may_be_chosen
        assert rejected["origin"] in ("policy", "past")
        assert pair["consistency"] == 1.0


def test_both_trainings_start_from_m_t_and_the_future_model_is_not_m_t_plus_1(temporal: Path):
    draft = stage_record(temporal, "iteration-2/draft/train")["inputs"]
    final = stage_record(temporal, "iteration-2/train")["inputs"]
    weights = {
        name: (temporal / "models" / name / "model.safetensors").read_bytes()
        for name in ("M2", "F3", "M3")
    }

    assert draft["model"] == final["model"]
    assert draft["pairs"] != final["pairs"]
    assert len(set(weights.values())) == 3


def test_the_future_model_is_what_the_future_completions_depend_on(temporal: Path):
    trained = stage_record(temporal, "iteration-1/draft/train")["fingerprint"]
    assert stage_record(temporal, "iteration-1/future/sample")["inputs"]["model"] == trained
    sft = stage_record(temporal, "sft/train")["fingerprint"]
    for t in (1, 2):
        assert stage_record(temporal, f"iteration-{t}/past/sample")["inputs"]["model"] == sft


def test_the_summary_counts_who_made_the_pairs_and_measures_m_t_alone(temporal: Path):
    rows = {row["completion_id"]: row for row in table(temporal, "iteration-2/matrix")}
    found = pairs(temporal, "iteration-2/pair").values()
    summary = stage_record(temporal, "iteration-2/pair")["summary"]
    own = [row for row in rows.values() if row["origin"] == "policy"]

    for side in ("chosen", "rejected"):
        made = [rows[pair[f"{side}_id"]]["origin"] for pair in found]
        assert summary[f"{side}_from"] == {name: made.count(name) for name in set(made)}
    assert summary["completions"] == 32
    assert summary["kl_to_seed_per_token"] == pytest.approx(
        sum(implicit(row, 2) for row in own) / sum(row["num_tokens"] for row in own), abs=1e-9
    )
    assert summary["compared"] is summary["consistency"] is None


def test_status_lists_the_stages_in_the_order_they_ran(temporal: Path):
    states = [(row.stage, row.state) for row in status_of(temporal).stages]
    begun = [stage for stage, _ in states if stage.startswith("iteration-2/")]

    assert {state for stage, state in states if not stage.startswith("data/")} == {"finished"}
    assert begun == [
        "iteration-2/sample",
        "iteration-2/past/sample",
        *(f"iteration-2/score/{column}" for column in ("M2", "M0", "verifier")),
        *(f"iteration-2/past/score/{column}" for column in ("M2", "M0", "verifier")),
        *(f"iteration-2/draft/{stage}" for stage in ("matrix", "pair", "train")),
        *(
            f"iteration-2/future/{stage}"
            for stage in ("sample", "score/M2", "score/M0", "score/verifier")
        ),
        *(f"iteration-2/{stage}" for stage in ("matrix", "pair", "train")),
    ]


@pytest.mark.parametrize(
    "lost",
    [
        "draft/train",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("draft", "future", "past/score")),
    ],
)
def test_an_interrupted_iteration_ends_like_an_uninterrupted_one(
    temporal: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, lost: str
):
    """Killed in iteration 2 after what is left here: later stages and models are gone."""
    later = ["draft", "future", "matrix", "pair", "train"]
    root = tmp_path / "run"
    shutil.copytree(temporal, root)
    for name in [lost, *(later[1:] if lost.startswith("draft") else later)]:
        shutil.rmtree(root / "iteration-2" / name, ignore_errors=True)
    for model in ("F3", "M3"):
        shutil.rmtree(root / "models" / model)
    run_whole(tiny_recipe(root, *OVERRIDES))

    assert contents(root) == contents(temporal)


@pytest.mark.slow
def test_a_future_model_is_removed_once_nothing_needs_it_and_the_past_model_is_not(
    tmp_path: Path, temporal: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = tmp_path / "run"
    recipe = tiny_recipe(root, *OVERRIDES, "keep_checkpoints=last")
    run_whole(recipe)

    assert sorted(path.name for path in (root / "models").iterdir()) == ["M1", "M3"]
    assert pairs(root, "iteration-2/pair") == pairs(temporal, "iteration-2/pair")
    run_whole(recipe)  # nothing finished is asked for again


def test_pairs_are_made_again_by_this_method_only(
    temporal: Path, finished_run: Path, tmp_path: Path
):
    recompute_pairs(temporal, 2, ["method.pairing.min_gap=0.0"], tmp_path / "again")
    assert pairs(tmp_path, "again") == pairs(temporal, "iteration-2/pair")

    with pytest.raises(RunError, match="answered by M_t, M1, F3"):
        recompute_pairs(temporal, 2, ["method=srlm"], tmp_path / "srlm")
    with pytest.raises(RunError, match="answered by M_t, M1, F3"):
        recompute_pairs(temporal, 2, ["method.past=seed"], tmp_path / "seed")
    with pytest.raises(RunError, match=r"answered by M_t\)"):
        recompute_pairs(finished_run, 2, [METHOD], tmp_path / "other")


@pytest.mark.slow
def test_a_judge_scores_each_completion_once_for_draft_and_iteration(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    tiny_judge_folder(tmp_path / "judge")
    judge = f"{{model: {tmp_path / 'judge'}, votes: 2, temperature: 1.0, top_p: 1.0}}"
    root = run_whole(
        tiny_recipe(
            tmp_path / "run",
            *OVERRIDES,
            "iterations=1",
            f"method.score={{judge: {judge}}}",
            "method.score.judge.max_judgement_tokens=12",
        )
    )
    rows = table(root, "iteration-1/matrix")
    judged = {
        row["completion_id"]: row["judge"]
        for folder in ("", "past/", "future/")
        for row in table(root, f"iteration-1/{folder}score/judge")
    }

    assert {row["completion_id"]: row["judge"] for row in rows} == judged
    assert len(judged) == 3 * 4 * 8
    scores = {row["completion_id"]: (row["judge"], row["origin"]) for row in rows}
    for pair in pairs(root, "iteration-1/pair").values():
        (high, chosen), (low, rejected) = scores[pair["chosen_id"]], scores[pair["rejected_id"]]
        assert high > low
        assert (chosen, rejected) != ("past", "future")
        own = [row for row in rows if row["prompt_id"] == pair["prompt_id"]]
        best_own = max(r["judge"] or -1 for r in own if r["origin"] == "policy")
        assert chosen == ("future" if high > best_own else "policy")


@pytest.mark.slow
def test_the_past_model_can_be_the_seed_model(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = run_whole(tiny_recipe(tmp_path / "run", *OVERRIDES, "iterations=1", "method.past=seed"))
    inputs = stage_record(root, "iteration-1/past/sample")["inputs"]

    assert inputs["model"] != stage_record(root, "iteration-1/sample")["inputs"]["model"]
    assert (root / "models" / "F2").exists()
