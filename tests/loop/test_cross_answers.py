"""`agreement: answer`: a witness answers, and only what it answers too is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.load import validate_recipe
from cream.report.costs import stage_tokens
from cream.report.explain import explain
from cream.runs.reader import RunReader
from run_contents import stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
OBJECTIVE = "objective: {nll: {kind: constant, weight: 1.0}}"
ALIKE = "pairing: {truncated: keep, unanimous: nll}"
CROSS = (
    f"method={{name: cream_cross, witness: other, agreement: answer, reward: mean_likelihood, "
    f"{ALIKE}, {OBJECTIVE}}}"
)


@pytest.fixture(scope="module")
def crossed(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """One iteration with a witness that answers."""
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("answers") / "run",
        "iterations=1",
        "data.prompts.per_iteration=24",
        "sampling.prompts_per_shard=12",
        "sampling.temperature=0.5",
        "sft.epochs=30",
        "witnesses.other.seed_share=0.5",
        CROSS,
    )
    return run_whole(recipe)


def groups(root: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in table(root, "iteration-1/matrix"):
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def first(rows: list[dict]) -> dict:
    """The completion with the highest likelihood per token."""
    return max(rows, key=lambda row: row["logps_M1"] / row["num_tokens"])


def test_the_column_says_which_completions_are_the_witness_own_answer(crossed: Path):
    rows = table(crossed, "iteration-1/matrix")
    compared = [row for row in rows if row["answer_other"] is not None]

    assert compared
    for row in compared:
        same = " ".join(row["text"].casefold().split()) == " ".join(
            row["answer_other_text"].casefold().split()
        )
        assert row["answer_other"] == float(same)
    missing = {row["answer_other_reason"] for row in rows if row["answer_other"] is None}
    assert missing <= {"witness_truncated"}
    summary = stage_record(crossed, "iteration-1/answer/other")["summary"]
    assert summary["answers"] == len(groups(crossed))
    assert summary["same"] == sum(row["answer_other"] == 1.0 for row in rows)
    assert summary["same"] + summary["other"] + summary["not_compared"] == len(rows)


def test_used_are_prompts_whose_first_completion_is_the_witness_answer(crossed: Path):
    """Best first and the witness' answer; of several different ones a pair, else likelihood."""
    made = table(crossed, "iteration-1/pair")
    used = {row["prompt_id"] for row in made if "chosen_id" in row or "completion_id" in row}
    trusted = {key for key, rows in groups(crossed).items() if first(rows)["answer_other"] == 1.0}

    assert used
    assert used == trusted
    parts = stage_record(crossed, "iteration-1/pair")["summary"]["tally"]["parts"]
    assert parts["witness_disagrees"] + parts["witness_silent"] == len(groups(crossed)) - len(used)
    alike = {k for k in used if len({tuple(r["token_ids"]) for r in groups(crossed)[k]}) == 1}
    assert parts["unanimous"] == len(alike)


def test_explain_says_what_the_witness_answered_and_who_else_does(crossed: Path):
    for key, rows in groups(crossed).items():
        told = explain("pair", crossed, key, 1)
        (line,) = [words for words in told.words if words.startswith("witness other answers")]
        given = [f"#{i}" for i, row in enumerate(rows, start=1) if row["answer_other"] == 1.0]
        assert repr(rows[0]["answer_other_text"]) in line
        assert line.endswith(f"as {', '.join(given)} do" if given else "as no completion does")


def test_tokens_that_the_witness_answers_with_are_counted(crossed: Path):
    run = RunReader(crossed)
    answered = run.finished["iteration-1/answer/other"]
    rows = table(crossed, "iteration-1/answer/other")
    prompts = len({row["prompt_id"] for row in rows})

    tokens = stage_tokens(run, answered)
    assert tokens is not None
    assert prompts <= tokens["sampled"] <= prompts * run.recipe.sampling.max_completion_tokens


def test_m1_is_a_witness_without_seed_data_of_its_own(
    tiny_recipe: MakeRecipe, run_whole: RunWhole, tmp_path: Path
):
    """At t = 1 it is the policy: used are prompts whose likeliest sample is its greedy answer."""
    control = CROSS.replace("witness: other", "witness: M1")
    options = (
        "iterations=1",
        "data.test=null",
        "sampling.temperature=0.5",
        "sft.epochs=30",
        control,
    )
    root = run_whole(tiny_recipe(tmp_path / "run", *options))

    made = table(root, "iteration-1/pair")
    used = {row["prompt_id"] for row in made if "chosen_id" in row or "completion_id" in row}
    assert used == {k for k, rows in groups(root).items() if first(rows)["answer_M1"] == 1.0}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"witness": ["a", "b"]}, "several witnesses answer"),
        ({"witness": ["a", "a"], "agreement": "answer"}, "a witness is named twice"),
        ({"witness": "a", "agreement": "answer", "use": "smooth"}, "leave use at filter"),
        (
            {"witness": "a", "agreement": {"by": "order", "same": "ids"}},
            "agreement.same: unknown key",
        ),
        ({"witness": []}, "at least 1 item"),
    ],
)
def test_options_that_would_not_act_are_refused(recipe_values, options, complaint):
    method = {"name": "cream_cross", **options}

    with pytest.raises(RecipeError, match=complaint):
        validate_recipe({**recipe_values, "method": method}, source="test")


def test_each_witness_has_a_column_and_the_rule_joins_them(recipe_values):
    method = {
        "name": "cream_cross",
        "witness": ["one", "two"],
        "agreement": {"by": "answer", "same": "extracted", "witnesses": "majority"},
    }
    parts = validate_recipe({**recipe_values, "method": method}, source="test").method.parts(2)

    assert parts.answered is not None
    assert parts.answered.columns == {"answer_one": "one", "answer_two": "two"}
    assert (parts.answered.same, parts.answered.by) == ("extracted", "majority")
    assert parts.score_columns == ("answer_one", "answer_two")
