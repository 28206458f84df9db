"""A run of a method composed in Python, with a past and a future model, is read like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import cream
from cream.loop.card import model_card
from cream.recipe import Recipe
from cream.recipe.objectives import Dpo
from cream.report.costs import stage_tokens
from cream.report.explain import explain
from cream.report.export import export_pairs
from cream.report.page import write_page
from cream.report.summary import status_of
from cream.report.tables import time_line
from cream.runs.reader import RunReader


class PastAndFuture:
    """Samples of M1, and of a future model that each iteration trains first from a draft."""

    name, fingerprint = "past_and_future_of_mine", "v1"

    def parts(self, t: int) -> cream.MethodParts:
        parts = cream.parts
        return cream.MethodParts(
            reward=parts.LogpQuantity(unit="implicit", model=f"M{t}"),
            others=parts.PastAndFuture(past="M1", future=f"next-{t}"),
            pairing=parts.BestWorst(truncated="keep"),
            objective=Dpo(),
        )


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: Callable[..., Recipe],
    tiny_inputs: Path,
) -> RunReader:
    root = tmp_path_factory.mktemp("future") / "run"
    recipe = tiny_recipe(root, "iterations=1", "evaluation.num_samples=0")
    cream.run(recipe, base_dir=tiny_inputs, method=PastAndFuture())
    return RunReader(root)


def test_every_stage_is_finished_and_draft_and_iteration_are_told_apart(run: RunReader):
    stages = status_of(run.root).stages

    assert [s.stage for s in stages] == [spec.name for spec in run.plan.stages]
    assert {s.state for s in stages} == {"finished"}
    assert [s.spec.origin for s in run.of("sample")] == ["policy", "past", "future"]
    assert [s.spec.result for s in run.of("train")] == ["next-1", "M2"]
    assert list(run.pairings) == [1]
    assert not run.pairings[1].spec.draft
    assert list(run.evaluations) == ["M0", "M1", "M2"]


def test_past_and_future_samples_count_as_samples(run: RunReader):
    """Seconds and tokens are sums over the three sample stages, read here from their files."""
    summary = cream.open_run(run.root).summary
    sampled = run.of("sample")
    drawn = {
        stage.spec.name: sum(len(ids) for (ids,) in stage.rows("token_ids")) for stage in sampled
    }

    assert len(drawn) == 3
    assert summary.seconds_by_kind["sample"] == pytest.approx(sum(s.seconds for s in sampled))
    assert {s.spec.name: stage_tokens(run, s) for s in sampled} == {
        name: {"sampled": count} for name, count in drawn.items()
    }
    scored = [s for s in run.of("score") if s.spec.model == "M1"]
    assert {s.spec.inputs[0]: stage_tokens(run, s) for s in scored} == {
        name: {"scored": count} for name, count in drawn.items()
    }
    assert time_line({"sample": 2.0, "fine_tune": 1.0}) == "time: 3 s (sample 2, fine-tune 1)"


def test_explain_page_export_and_card_know_the_future(run: RunReader, tmp_path: Path):
    pairs = cream.open_run(run.root).pairs(1).to_pylist()
    key = pairs[0]["prompt_id"]
    told = explain("pair", run.root, key, None)
    result = write_page([run.root], tmp_path / "report.html")
    page = result.path.read_text(encoding="utf-8")
    exported = export_pairs(run.root, None)
    matrix = pq.read_table(run.needed("matrix", 1).paths[0])
    made = {spec.result: spec for spec in run.plan.stages if spec.result is not None}

    assert {one.origin for one in told.completions} == {"policy", "past", "future"}
    assert len(told.completions) == matrix["prompt_id"].to_pylist().count(key)
    assert told.pairs[0].chosen_id == pairs[0]["chosen_id"]
    assert "iteration-1/future/sample" in page
    assert "Iteration 1, draft, M1 → next-1" in page
    assert "Iteration 1, M1 → M2" in page
    assert result.prompts == result.shown
    assert exported.table["pair_id"].to_pylist() == [
        f"{pair['chosen_id']}>{pair['rejected_id']}" for pair in pairs
    ]
    assert run.maker("next-1") == made["next-1"]
    card = model_card(made["next-1"], run.recipe, "owner/base")
    assert "preference training of M1 on pairs" in card
    assert run.maker("M0") is None
