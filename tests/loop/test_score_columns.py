"""Judge and reward model as columns of whole runs: made once, joined by id, resumed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cream.engines.reward_model import RewardModel
from cream.engines.texts import Text
from cream.errors import RunError
from cream.models.conversations import ConversationEncoder
from cream.models.loading import load_reward_model, load_tokenizer
from cream.programs.recompute import recompute_pairs
from cream.recipe import Recipe
from cream.recipe.load import load_recipe
from cream.testing import tiny_judge_folder, tiny_model_folder, tiny_reward_model_folder
from cream.types import Message
from kills import Killed, KillInside
from run_contents import contents, stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model ``judge`` that can judge and a reward model ``reward``."""
    folder = tmp_path_factory.mktemp("scorers")
    tiny_judge_folder(folder / "judge")
    tiny_reward_model_folder(folder / "reward")
    return folder


@pytest.fixture(scope="module")
def judge_options(scorers: Path) -> list[str]:
    return [
        "iterations=1",
        "method.name=srlm_judge",
        f"method.judge.model={scorers / 'judge'}",
        "method.judge.votes=2",
        "method.judge.temperature=1.0",
        "method.judge.top_p=1.0",
        "method.judge.max_judgement_tokens=12",
    ]


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    judge_options: list[str],
) -> Path:
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("judged") / "run", *judge_options))


@pytest.fixture(scope="module")
def rewarded(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    scorers: Path,
) -> Path:
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("rewarded") / "run",
        "iterations=1",
        "method.name=reward_model",
        f"method.reward_model.name={scorers / 'reward'}",
        "method.reward_model.compute_dtype=float32",
    )
    return run_whole(recipe)


def pairs_of(root: Path) -> list[dict[str, Any]]:
    return [row for row in table(root, "iteration-1/pair") if "chosen_id" in row]


def best_and_worst(rows: list[dict[str, Any]], score: str) -> dict[str, tuple[str, str]]:
    """Best and worst scored completion per prompt by (score, implicit reward), where they differ.

    A plain restatement of the rule for groups whose duplicates have been dropped.
    """
    groups: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row[score] is not None:
            groups.setdefault(row["prompt_id"], {}).setdefault(row["ids_hash"], row)

    def key(row: dict[str, Any]) -> tuple[float, float]:
        return row[score], row["logps_M1"] - row["logps_M0"]

    ends = {
        name: (max(group.values(), key=key), min(group.values(), key=key))
        for name, group in groups.items()
    }
    return {
        name: (best["completion_id"], worst["completion_id"])
        for name, (best, worst) in ends.items()
        if best[score] > worst[score]
    }


def test_a_judge_fills_its_column_and_picks_the_pairs(judged: Path):
    """The judge draws 1 to 5 twice, so scores are multiples of 1/2 and differ within groups."""
    rows = table(judged, "iteration-1/matrix")
    scores = {row["judge"] for row in rows}

    assert scores <= {i / 2 for i in range(2, 11)}
    assert len(scores) > 3
    assert {row["judge_count"] for row in rows} == {2}
    assert {row["judge_reason"] for row in rows} == {None}
    assert {"verifier", "partial_credit", "extracted"} <= set(rows[0])
    by_text: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        by_text.setdefault((row["prompt_id"], row["text"]), set()).add(row["judge"])
    assert {len(values) for values in by_text.values()} == {1}
    expected = best_and_worst(rows, "judge")
    assert expected
    assert {p["prompt_id"]: (p["chosen_id"], p["rejected_id"]) for p in pairs_of(judged)} == (
        expected
    )
    assert (judged / "models" / "M2" / "model.safetensors").exists()


def test_the_summary_of_a_score_stage_counts_every_completion(judged: Path, rewarded: Path):
    for root, name in ((judged, "judge"), (rewarded, "reward_model")):
        summary = stage_record(root, f"iteration-1/score/{name}")["summary"]
        rows = table(root, f"iteration-1/score/{name}")
        values = [row[name] for row in rows]

        assert summary["tally"] == {"total": 32, "parts": {"scored": 32}}
        assert summary["mean_score"] == pytest.approx(sum(values) / 32, abs=1e-12)
        assert summary["distinct_scores"] == len(set(values))


def test_every_key_of_those_summaries_is_in_the_glossary(judged: Path):
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    summary = stage_record(judged, "iteration-1/score/judge")["summary"]

    assert [key for key in (*summary, *summary["tally"]) if f"`{key}`" not in glossary] == []


def test_a_reward_model_fills_its_column_and_picks_the_pairs(
    rewarded: Path, scorers: Path, tiny_inputs: Path
):
    rows = table(rewarded, "iteration-1/matrix")
    prompts = {row["prompt_id"]: row["prompt"] for row in table(rewarded, "data/prompts-1")}
    model = RewardModel(
        load_reward_model(scorers / "reward"),
        ConversationEncoder(load_tokenizer(scorers / "reward")),
        token_budget=64,
        context_length=None,
    )
    texts = [
        Text(
            row["prompt_id"],
            row["completion_id"],
            tuple(Message(m["role"], m["content"]) for m in prompts[row["prompt_id"]]),
            row["text"],
        )
        for row in rows
    ]
    expected = {score.text_id: score.value for score in model.score(texts)}

    assert {row["completion_id"]: row["reward_model"] for row in rows} == pytest.approx(
        expected, abs=1e-5
    )
    assert {row["reward_model_reason"] for row in rows} == {None}
    assert {
        p["prompt_id"]: (p["chosen_id"], p["rejected_id"]) for p in pairs_of(rewarded)
    } == best_and_worst(rows, "reward_model")


def test_both_make_other_pairs_than_srlm_from_the_same_completions(judged: Path, rewarded: Path):
    """SRLM's pairs, computed from the matrix of each run: they need no column beyond it."""
    for root in (judged, rewarded):
        recompute_pairs(root, 1, ["method=srlm", "method.pairing.truncated=keep"], root / "as-srlm")
        srlm = pq.read_table(root / "as-srlm" / "pairs.parquet").to_pylist()
        keys = [
            {(r["chosen_id"], r["rejected_id"]) for r in rows} for rows in (srlm, pairs_of(root))
        ]
        assert keys[0] != keys[1]


def test_a_judge_killed_between_parts_resumes_to_the_same_scores(
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    judged: Path,
    judge_options: list[str],
):
    recipe = tiny_recipe(tmp_path / "run", *judge_options)
    with pytest.raises(Killed):
        run_whole(recipe, KillInside("score by judge"))
    column = tmp_path / "run" / "iteration-1" / "score" / "judge"
    first = (column / "part-00000.parquet").stat()
    assert not (column / "part-00001.parquet").exists()

    with pytest.raises(Killed):
        run_whole(recipe, KillInside("score matrix"))

    assert (column / "part-00000.parquet").stat().st_mtime_ns == first.st_mtime_ns
    assert contents(column) == contents(judged / "iteration-1" / "score" / "judge")


def test_a_judge_of_pairs_fills_the_same_column_from_its_own_question(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, judge_options: list[str]
):
    """The tiny judge writes ``Score: N`` whatever it is asked: no preference can be read."""
    options = [option for option in judge_options if "votes" not in option]
    recipe = tiny_recipe(tmp_path / "run", *options, "method.judge.rubric=pairwise")
    with pytest.raises(RunError, match=r"none of 8 prompts gave a pair \(unscored 8\)"):
        run_whole(recipe)

    record = stage_record(tmp_path / "run", "iteration-1/score/judge")
    rows = table(tmp_path / "run", "iteration-1/matrix")
    texts: dict[str, set[str]] = {}
    for row in rows:
        texts.setdefault(row["prompt_id"], set()).add(row["text"])
    for row in rows:
        alone = len(texts[row["prompt_id"]]) == 1
        assert row["judge_reason"] == ("no_opponent" if alone else "no_score")
        assert row["judge_count"] == 0
    assert record["summary"]["tally"]["parts"]["no_score"] > 0
    assert record["inputs"]["settings"]["rubric"] == "pairwise"


def test_pairs_again_under_another_judge_are_refused(judged: Path, tmp_path: Path):
    """The stored scores were made by the run's judge, with two votes."""
    same = recompute_pairs(judged, 1, ["method.pairing.min_gap=1.5"], tmp_path / "same")
    assert same.tally.parts["paired"] > 0
    with pytest.raises(RunError, match=r"method.judge: the stored scores were made with other"):
        recompute_pairs(judged, 1, ["method.judge.votes=1"], tmp_path / "other")
    name = "method={name: reward_model, reward_model: {name: x}}"
    with pytest.raises(RunError, match="no column reward_model"):
        recompute_pairs(judged, 1, [name], tmp_path / "missing")


def test_a_run_without_scorers_keeps_the_inputs_of_its_matrix(finished_run: Path):
    """Fingerprints of runs made before these columns existed stay valid."""
    record = stage_record(finished_run, "iteration-1/matrix")

    assert set(record["inputs"]) == {"stage", "seed", "completions", "columns", "verifier"}
    assert not (finished_run / "iteration-1" / "score" / "judge").exists()


def test_what_makes_a_scorer_is_in_the_inputs_of_its_stage_and_in_the_manifest(
    judged: Path, rewarded: Path
):
    judge = stage_record(judged, "iteration-1/score/judge")["inputs"]
    manifest = json.loads((judged / "manifest.json").read_text(encoding="utf-8"))

    assert judge["model"] == manifest["inputs"]["judge"]
    assert judge["settings"] == {
        "rubric": "additive_5",
        "votes": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_judgement_tokens": 12,
    }
    assert {"completions", "template", "rubric", "compute_dtype", "seed"} <= set(judge)
    matrix = stage_record(rewarded, "iteration-1/matrix")["inputs"]
    column = stage_record(rewarded, "iteration-1/score/reward_model")
    assert matrix["reward_model"] == column["fingerprint"]


@pytest.mark.parametrize(("model", "name"), [("policy", "M1"), ("seed", "M0")])
def test_a_model_of_the_run_judges_and_unread_judgements_are_no_pairs(
    model: str,
    name: str,
    tmp_path: Path,
    tiny_inputs: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
):
    """A random model writes no score: every completion is absent with a reason, none is paired."""
    long = tiny_model_folder(tmp_path / "model")
    config = long / "config.json"
    text = config.read_text(encoding="utf-8").replace(
        '"max_position_embeddings": 512', '"max_position_embeddings": 4096'
    )
    config.write_text(text, encoding="utf-8")
    recipe = tiny_recipe(
        tmp_path / "run",
        "iterations=1",
        f"model.name={long}",
        "data.prompts.per_iteration=4",
        "method.name=srlm_judge",
        f"method.judge.model={model}",
        "method.judge.votes=1",
        "method.judge.max_judgement_tokens=4",
    )

    with pytest.raises(RunError, match=r"none of 4 prompts gave a pair \(unscored 4\)"):
        run_whole(recipe)

    stage = stage_record(tmp_path / "run", "iteration-1/score/judge")
    parts = stage["summary"]["tally"]["parts"]
    assert parts["scored"] == 0
    assert stage["summary"]["mean_score"] is None
    assert set(parts) <= {"scored", "no_score", "truncated"}
    assert sum(parts.values()) == 16
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    made_by = manifest["inputs"]["M0"], stage_record(tmp_path / "run", "sft/train")["fingerprint"]
    assert stage["inputs"]["model"] == made_by[("M0", "M1").index(name)]
    rows = table(tmp_path / "run", "iteration-1/matrix")
    assert all(row["judge"] is None and row["judge_reason"] in parts for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srlm_judge", "reward_model"])
def test_the_smoke_recipe_runs_and_makes_other_pairs_than_srlm(
    name: str, tmp_path: Path, tiny_inputs: Path, scorers: Path, run_whole: RunWhole
):
    """Each pair is best against worst by the method's own column; SRLM's are others."""
    option = {
        "srlm_judge": f"method.judge.model={scorers / 'judge'}",
        "reward_model": f"method.reward_model.name={scorers / 'reward'}",
    }[name]
    column = {"srlm_judge": "judge", "reward_model": "reward_model"}[name]
    recipe = load_recipe(
        ROOT / "recipes" / "smoke" / f"{name}.yaml",
        [f"model.name={tiny_inputs / 'model'}", option, f"run_dir={tmp_path / 'run'}"],
    )
    root = run_whole(recipe)
    recompute_pairs(root, 1, ["method=srlm", "method.pairing.truncated=keep"], tmp_path / "srlm")

    rows = table(root, "iteration-1/matrix")
    found = {p["prompt_id"]: (p["chosen_id"], p["rejected_id"]) for p in pairs_of(root)}
    srlm = pq.read_table(tmp_path / "srlm" / "pairs.parquet").to_pylist()
    assert found == best_and_worst(rows, column)
    assert found != {p["prompt_id"]: (p["chosen_id"], p["rejected_id"]) for p in srlm}
    assert (root / "models" / "M2" / "model.safetensors").exists()
