"""``cream_views`` in a run: two columns of one scorer, C from their agreement, resumed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from cream import run
from cream.algorithms.listwise import partition
from cream.cache import cache_dir
from cream.errors import CreamError, RecipeError
from cream.programs.reranking import fit_reranker, groups_of_run, reranker_config
from cream.recipe import Recipe
from cream.runs.files import read_table
from kills import KillAt, Killed
from run_contents import same_weights, weights
from tiny_run import Silence

RecipeMaker = Callable[..., Recipe]
METHOD = (
    "method={name: cream_views, pairing: {truncated: keep}, "
    "reranker: {model: %s, windows: {size: 3, max_candidate_tokens: 12, scale: none}}}"
)


@pytest.fixture
def recipe(tiny_recipe: RecipeMaker, tmp_path: Path) -> RecipeMaker:
    def make(name: str, *more: str, reranker: str = "policy") -> Recipe:
        given = ("iterations=1", "data.test=null", METHOD % reranker)
        return tiny_recipe(tmp_path / name, *given, *more)

    return make


def table(root: Path, stage: str) -> pa.Table:
    return pa.concat_tables(map(read_table, sorted((root / stage).glob("part-*.parquet"))))


def test_pairs_and_c_are_those_of_the_two_columns(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """Restated with SciPy: C = mean (tau_b + 1) / 2, best against worst by the list view."""
    run(recipe("run"), base_dir=tiny_inputs)
    root = tmp_path / "run"
    rows = table(root, "iteration-1/matrix").to_pylist()
    groups: dict[str, dict[tuple[float, float], str]] = {}
    for row in rows:
        if row["listwise"] is not None:
            key = (row["listwise"], row["pointwise"])
            groups.setdefault(row["prompt_id"], {}).setdefault(key, row["completion_id"])
    agreement = [
        (np.array(scipy.stats.kendalltau(*np.array(views).T))[0] + 1) / 2
        for views in map(list, groups.values())
        if len(views) > 1
    ]
    stage = json.loads((root / "iteration-1/pair/stage.json").read_text("utf-8"))["summary"]
    assert stage["compared"] == "listwise, pointwise"
    assert stage["consistency"]["rate"] == pytest.approx(np.mean(agreement), abs=1e-6)

    pairs = read_table(root / "iteration-1/pair/pairs.parquet").to_pylist()
    assert pairs
    values = {row["completion_id"]: row["listwise"] for row in rows}
    by_prompt = {q: [v for v, _ in views] for q, views in groups.items()}
    for pair in pairs:
        own = by_prompt[pair["prompt_id"]]
        assert values[pair["chosen_id"]] == max(own)
        assert values[pair["rejected_id"]] == min(own)

    scores = table(root, "iteration-1/score/listwise").to_pylist()
    assert {row["completion_id"] for row in scores} == values.keys()
    assert all((r["listwise"] is None) == (r["listwise_reason"] is not None) for r in scores)
    for prompt in groups:
        own = [r for r in scores if r["prompt_id"] == prompt and r["listwise"] is not None]
        texts = len({(r["listwise_window"], r["listwise_identifier"]) for r in own})
        sizes = {w: 0 for w in range(len(partition(range(texts), 3)))}
        for window, _ in {(r["listwise_window"], r["listwise_identifier"]) for r in own}:
            sizes[int(window)] += 1
        assert sum(sizes.values()) == texts
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_a_run_that_is_killed_in_the_column_ends_as_one_that_was_not(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path, run_whole: Callable[..., Path]
):
    whole = run_whole(recipe("whole"))
    made = recipe("cut")

    class KillInScore(KillAt):
        """Kill after the first part of the column."""

        inside = False

        def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
            self.inside = "listwise" in stage

        def advance(self, count: int, live: Any = None) -> None:
            if self.inside:
                raise Killed

    with pytest.raises(Killed):
        run_whole(made, KillInScore("kept", 1))
    parts = list((tmp_path / "cut/iteration-1/score/listwise").glob("part-*"))
    assert len(parts) == 1
    cut = run_whole(made)

    stages = ("iteration-1/score/listwise", "iteration-1/matrix")
    assert all(table(whole, s).to_pylist() == table(cut, s).to_pylist() for s in stages)
    assert same_weights(weights(whole, "M2"), weights(cut, "M2"))


def test_a_fitted_reranker_scores_a_run_and_cannot_be_changed(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    run(recipe("first"), base_dir=tiny_inputs)
    given = {"model": {"name": str(tiny_inputs / "model")}, "windows": {"scale": "none"}}
    config = reranker_config(given, ["windows.max_candidate_tokens=12", "training.epochs=1"])
    groups = groups_of_run(tmp_path / "first")
    labelled = [
        type(g)(g.query_id, g.query, tuple(
            type(c)(c.candidate_id, c.text, float(len(c.text))) for c in g.candidates))
        for g in groups
    ]  # fmt: skip
    folder = tmp_path / "reranker"
    fit_reranker(labelled, config, folder, cache_dir=cache_dir(), progress=Silence())
    run(recipe("second", reranker=str(folder)), base_dir=tiny_inputs)
    first, second = (table(tmp_path / n, "iteration-1/matrix") for n in ("first", "second"))
    assert second["completion_id"].to_pylist() == first["completion_id"].to_pylist()
    assert second["pointwise"].to_pylist() != first["pointwise"].to_pylist()
    manifest = json.loads((tmp_path / "second/manifest.json").read_text("utf-8"))
    assert "reranker" in json.dumps(manifest)

    other = "method.reranker.windows.max_candidate_tokens=9"
    with pytest.raises(RecipeError, match="training has decided it"):
        run(recipe("third", other, reranker=str(folder)), base_dir=tiny_inputs)


def test_a_reranker_that_is_not_there_is_refused_before_anything_runs(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(CreamError, match=r"method\.reranker"):
        run(recipe("run", reranker="./nothing"), base_dir=tiny_inputs)
    assert not (tmp_path / "run/sft").exists()


def test_a_scale_that_hides_disagreement_is_refused(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(CreamError, match=r"method\.reranker.*affine"):
        run(recipe("run", "method.reranker.windows.scale=affine"), base_dir=tiny_inputs)
    assert not (tmp_path / "run/sft").exists()


def test_a_method_without_a_reranker_cannot_read_its_columns(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    from cream import MethodParts, parts

    class Reads:
        name, fingerprint = "reads", "reads v1"

        def parts(self, t: int) -> MethodParts:
            from cream.recipe.objectives import Dpo

            reward = parts.ScoreQuantity(column="pointwise")
            return MethodParts(reward=reward, pairing=parts.BestWorst(), objective=Dpo())

    with pytest.raises(RecipeError, match="cream_views"):
        run(tiny_recipe(tmp_path / "run"), base_dir=tiny_inputs, method=Reads())
