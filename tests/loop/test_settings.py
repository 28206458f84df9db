from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import DataError, RunError
from cream.recipe import Recipe
from run_contents import contents, same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]

SHORT_FINE_TUNING = ("sft.epochs=1", "sft.optimiser.learning_rate=1.0e-3")


def metrics(root: Path, stage: str) -> list[dict[str, float]]:
    lines = (root / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("reference", "model"), [("sft", "M1"), ("seed", "M0")])
def test_loss_reference_reads_the_column_it_names(
    reference: str, model: str, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """One batch holds all pairs, so the first step's margin is beta times the mean difference of
    gaps between M2 (the policy before its first update) and the reference, over all pairs.

    It tells the models apart: with any other of them as the reference, the margin would differ by
    more than ten times what the comparison allows.
    """
    root = run_whole(
        tiny_recipe(
            tmp_path / "run",
            "seed=6",
            f"training.loss_reference={reference}",
            "training.optimiser.batch_size=8",
            "training.optimiser.learning_rate=1.0e-2",
            "training.epochs=1",
        )
    )
    matrix = {row["completion_id"]: row for row in table(root, "iteration-2/matrix")}
    pairs = [row for row in table(root, "iteration-2/pair") if "chosen_id" in row]

    def gap(name: str) -> float:
        column = f"logps_{name}"
        return sum(
            matrix[pair["chosen_id"]][column] - matrix[pair["rejected_id"]][column]
            for pair in pairs
        ) / len(pairs)

    margins = {name: 0.1 * (gap("M2") - gap(name)) for name in ("M0", "M1", "M2")}
    expected = margins.pop(model)
    record = stage_record(root, "iteration-2/train")
    assert record["inputs"]["reference"] == model
    assert min(abs(expected - other) for other in margins.values()) > 1e-4
    assert metrics(root, "iteration-2/train")[0]["rewards/margins"] == pytest.approx(
        expected, abs=1e-5
    )


def test_scale_lr_scales_each_learning_rate_by_the_measured_c(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """2C - 1 scales. After a short fine-tuning the models agree in part."""
    root = run_whole(
        tiny_recipe(
            tmp_path / "run", "method.objective.set_level_action=scale_lr", *SHORT_FINE_TUNING
        )
    )

    for t in (1, 2):
        measured = stage_record(root, f"iteration-{t}/pair")["summary"]["consistency"]
        train = stage_record(root, f"iteration-{t}/train")["summary"]
        scale = 2 * measured["rate"] - 1 if measured["low"] > 0.5 else 0.0
        assert train["learning_rate_scale"] == pytest.approx(scale, abs=1e-12)
        assert train["relative_movement"] == pytest.approx(scale, abs=1e-12)
        if scale:
            peak = max(row["learning_rate"] for row in metrics(root, f"iteration-{t}/train"))
            assert peak == pytest.approx(1e-3 * scale, rel=1e-9)
    assert train["learning_rate_scale"] > 0


def test_skip_trains_nothing_where_the_interval_of_c_reaches_down_to_a_half(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """In the first iteration it does. In the second M2 is M1, so C is 1 and M3 is trained."""
    root = run_whole(tiny_recipe(tmp_path / "run", "method.objective.set_level_action=skip"))

    consistency = stage_record(root, "iteration-1/pair")["summary"]["consistency"]
    train = stage_record(root, "iteration-1/train")["summary"]
    assert consistency["low"] < 0.5
    assert "reaches down to 1/2" in train["skipped"]
    assert train["tally"]["parts"]["skipped"] == train["tally"]["total"] > 0
    assert train["steps"] == 0
    assert same_weights(weights(root, "M2"), weights(root, "M1"))
    assert stage_record(root, "iteration-2/pair")["summary"]["consistency"]["low"] == 1
    assert stage_record(root, "iteration-2/train")["summary"]["skipped"] is None
    assert not same_weights(weights(root, "M3"), weights(root, "M2"))


def test_keep_checkpoints_last_removes_what_no_stage_needs_and_changes_nothing_else(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, finished_run: Path
):
    """After iteration t the next one needs M_{t+1} and M_t; also after the last: T may be raised.

    A rerun goes by iteration 1 again, when M3 and M4 exist: they must not be taken for unneeded.
    """
    last, three = "keep_checkpoints=last", "iterations=3"
    root = run_whole(tiny_recipe(tmp_path / "run", last))
    assert {p.name for p in (root / "models").iterdir()} == {"M2", "M3"}
    before = contents(root)
    run_whole(tiny_recipe(root, last))
    assert {p.name for p in (root / "models").iterdir()} == {"M2", "M3"}
    assert contents(root) == before
    run_whole(tiny_recipe(root, last, three))
    assert {p.name for p in (root / "models").iterdir()} == {"M3", "M4"}
    assert same_weights(weights(root, "M3"), weights(finished_run, "M3"))


def test_keep_checkpoints_last_keeps_m1_while_it_is_the_loss_reference(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = run_whole(
        tiny_recipe(tmp_path / "run", "keep_checkpoints=last", "training.loss_reference=sft")
    )

    assert {p.name for p in (root / "models").iterdir()} == {"M1", "M2", "M3"}


def test_lora_trains_and_saves_merged_models(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = run_whole(
        tiny_recipe(
            tmp_path / "run",
            "iterations=1",
            "method.below_half=allow",  # floored, C = 1/2 trains nothing
            "training.lora={rank: 4, alpha: 8, dropout: 0.0}",
        )
    )
    before, after = weights(root, "M1"), weights(root, "M2")

    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)


def test_a_run_without_test_data_evaluates_nothing(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = run_whole(tiny_recipe(tmp_path / "run", "data.test=null", "iterations=1"))

    assert not list(root.rglob("evaluate"))
    assert json.loads((root / "summary.json").read_text(encoding="utf-8"))["models"] == []


def test_oracle_without_answers_is_refused_before_anything_runs(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    recipe = tiny_recipe(tmp_path / "run", "method=oracle", "data.prompts.sources.0.verifier=null")

    with pytest.raises(DataError, match="none of the 8 prompts of iteration 1 can be verified"):
        run_whole(recipe)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_needed_checkpoint_that_was_deleted_is_named(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    import shutil

    root = run_whole(tiny_recipe(tmp_path / "run", "iterations=1"))
    shutil.rmtree(root / "models" / "M2")

    with pytest.raises(RunError, match="models/M2 is missing"):
        run_whole(tiny_recipe(root))


def test_too_little_disk_is_refused_before_anything_runs(
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    monkeypatch: pytest.MonkeyPatch,
):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    with pytest.raises(RunError, match="3 checkpoints and the training state"):
        run_whole(tiny_recipe(tmp_path / "run"))
    assert not (tmp_path / "run" / "models").exists()
