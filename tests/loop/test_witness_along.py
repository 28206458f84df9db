"""`witness_training: along`: the witness learns by the same rule with the roles exchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.load import validate_recipe
from cream.recipe.parts import MethodParts
from cream.report.explain import explain
from cream.report.page.document import write_page
from cream.report.summary import summarise_run
from cream.runs.reader import RunReader
from kills import require_equal_after_kills
from run_contents import same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
OBJECTIVE = "objective: {nll: {kind: constant, weight: 1.0}}"
ORDER = "method={name: cream_cross, witness: twin, pairing: {truncated: keep}"
ANSWER = (
    "method={name: cream_cross, witness: twin, agreement: answer, reward: mean_likelihood, "
    f"pairing: {{truncated: keep, unanimous: nll}}, {OBJECTIVE}"
)
ALONG = ", witness_training: along}"
SETTINGS = ("witnesses.twin.seed_share=0.5", "sampling.temperature=0.7", "sft.epochs=20")
MANY = ("data.prompts.per_iteration=16", "sampling.temperature=1.0", "sft.epochs=8")
TWIN = "witnesses/twin/iteration-{}/{}"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Callable[..., Path]:
    """Make a run of two iterations with a twin."""

    def make(method: str, *overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("along") / "run"
        return run_whole(tiny_recipe(folder, *SETTINGS, method, *overrides))

    return make


@pytest.fixture(scope="module")
def ordered(made: Callable[..., Path]) -> Path:
    return made(ORDER + ALONG, *MANY)


@pytest.fixture(scope="module")
def answered(made: Callable[..., Path]) -> Path:
    return made(ANSWER + ALONG, "data.prompts.per_iteration=16")


def groups(root: Path, matrix: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in table(root, matrix):
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def in_order(pair: dict, rows: dict[str, dict], model: str) -> bool:
    """Whether a model has a higher likelihood per token for the chosen completion."""
    chosen, rejected = (rows[pair[key]] for key in ("chosen_id", "rejected_id"))
    per_token = [row[f"logps_{model}"] / row["num_tokens"] for row in (chosen, rejected)]
    return per_token[0] > per_token[1]


@pytest.mark.parametrize(("t", "policy", "twin"), [(1, "M1", "twin"), (2, "M2", "twin-2")])
def test_the_twin_ranks_its_own_answers_and_the_policy_confirms_the_pairs(
    ordered: Path, t: int, policy: str, twin: str
):
    """Best against worst of the twin's implicit reward, counted again by hand."""
    matrix = groups(ordered, TWIN.format(t, "matrix"))
    pairs = {p["prompt_id"]: p for p in table(ordered, TWIN.format(t, "pair")) if "chosen_id" in p}
    kept = 0
    for key, group in matrix.items():
        rows = {row["completion_id"]: row for row in group}
        reward = {name: r[f"logps_{twin}"] - r["logps_M0"] for name, r in rows.items()}
        first, last = (pick(reward, key=reward.__getitem__) for pick in (max, min))
        best = {"chosen_id": first, "rejected_id": last}
        if reward[first] > reward[last] and in_order(best, rows, policy):
            kept += 1
            assert (pairs[key]["chosen_id"], pairs[key]["rejected_id"]) == (first, last)
    assert len(pairs) == kept > 0


def test_each_confirms_the_other_and_by_its_own_word(ordered: Path):
    """Of the twin's pairs some are those that the twin orders and M does not, and the reverse."""
    for matrix, picks, confirms in (
        ("iteration-1/matrix", "M1", "twin"),
        (TWIN.format(1, "matrix"), "twin", "M1"),
    ):
        disagree = 0
        for group in groups(ordered, matrix).values():
            rows = {row["completion_id"]: row for row in group}
            reward = {name: r[f"logps_{picks}"] - r["logps_M0"] for name, r in rows.items()}
            first, last = (pick(reward, key=reward.__getitem__) for pick in (max, min))
            best = {"chosen_id": first, "rejected_id": last}
            disagree += reward[first] > reward[last] and not in_order(best, rows, confirms)
        tally = stage_record(ordered, matrix.replace("matrix", "pair"))["summary"]["tally"]
        found = tally["parts"]["witness_disagrees"] + tally["parts"]["witness_silent"]
        assert found == disagree > 0


@pytest.mark.parametrize(("t", "policy", "twin"), [(1, "M1", "twin"), (2, "M2", "twin-2")])
def test_of_answers_the_twin_learns_those_that_the_policy_gives_too(
    answered: Path, t: int, policy: str, twin: str
):
    matrix = groups(answered, TWIN.format(t, "matrix"))
    rows = table(answered, TWIN.format(t, "pair"))
    used = {row["prompt_id"] for row in rows if "chosen_id" in row or "completion_id" in row}
    trusted = set()
    for key, group in matrix.items():
        best = max(group, key=lambda row: row[f"logps_{twin}"] / row["num_tokens"])
        if best[f"answer_{policy}"] == 1.0:
            trusted.add(key)

    assert used == trusted
    assert used


def test_the_next_iteration_asks_what_the_twin_became(answered: Path):
    names = [f"answer_{name}" for name in ("twin", "twin-2")]
    first, second = (table(answered, f"iteration-{t}/matrix")[0] for t in (1, 2))

    assert [name in first for name in names] == [True, False]
    assert [name in second for name in names] == [False, True]
    models = ["twin", "twin-2", "twin-3"]
    found = [weights(answered, name) for name in models]
    assert not same_weights(found[0], found[1])
    assert not same_weights(found[1], found[2])


def test_training_has_the_same_objective_and_settings_and_a_reference_of_its_own(answered: Path):
    own = stage_record(answered, "iteration-1/train")["inputs"]
    twin = stage_record(answered, TWIN.format(1, "train"))["inputs"]

    assert {key for key in own if own[key] != twin[key]} == {"stage", "model", "pairs", "reference"}
    assert (own["reference"], twin["reference"]) == ("M1", "twin")


def test_the_parts_of_the_witness_are_those_of_the_policy_with_the_names_exchanged(recipe_values):
    for method in (ORDER, ANSWER, ORDER + ", use: two_gaussian, reward: implicit_per_token"):
        values = yaml.safe_load(method.removeprefix("method=") + ALONG)
        parts = validate_recipe({**recipe_values, "method": values}, source="test").method.parts(3)
        assert parts.along is not None
        own = parts.model_dump_json(exclude={"along"})
        exchanged = own.replace('"M3"', '"?"').replace('"twin-3"', '"M3"').replace("?", "twin-3")
        assert MethodParts.model_validate_json(exchanged) == parts.along.model_copy(
            update={"learner": None}
        )


def test_until_the_policy_asks_what_the_twin_became_the_run_is_that_of_a_frozen_one(
    ordered: Path, made: Callable[..., Path]
):
    """So that a comparison makes these stages once."""
    frozen = made(ORDER + "}", *MANY)
    along, without = (
        {name: stage.fingerprint for name, stage in RunReader(root).finished.items()}
        for root in (ordered, frozen)
    )
    shared = {name for name, found in without.items() if along.get(name) == found}
    second = {name for name in without if name.startswith("iteration-2/")}

    assert {*without} - second <= shared
    assert second & shared == {
        "iteration-2/sample",
        *(f"iteration-2/score/{name}" for name in ("M2", "M0", "verifier")),
    }
    assert {*along} - {*without} > {TWIN.format(2, "train"), "iteration-2/score/twin-2"}
    assert "witnesses" not in str(frozen / "iteration-2")
    assert same_weights(weights(ordered, "M2"), weights(frozen, "M2"))
    assert not same_weights(weights(ordered, "M3"), weights(frozen, "M3"))


def test_a_twin_that_equals_m1_and_sees_what_it_sees_goes_the_same_way(made: Callable[..., Path]):
    """No step of fine-tuning moves a weight, and near temperature 0 both say the same."""
    root = made(
        ORDER.replace("keep}", "keep, unanimous: nll}") + f", {OBJECTIVE}" + ALONG,
        "sft.optimiser.learning_rate=1.0e-30",
        "sft.epochs=1",
        "sampling.temperature=1.0e-3",
        "data.prompts.per_iteration=1",
        "data.test=null",
    )
    lines = [
        [weights(root, name) for name in line]
        for line in (("M1", "M2", "M3"), ("twin", "twin-2", "twin-3"))
    ]

    for name, weight in lines[0][0].items():  # a weight that is 0 moves by the rate itself
        assert float((weight - lines[1][0][name]).abs().max()) < 1e-29
    assert same_weights(lines[0][1], lines[1][1])
    assert same_weights(lines[0][2], lines[1][2])
    assert not same_weights(*lines[0][:2])
    assert not same_weights(*lines[0][1:])


def test_reports_tell_of_the_witness_pairs_and_explain_names_it(ordered: Path, tmp_path: Path):
    summary = summarise_run(ordered)
    stored = [stage_record(ordered, TWIN.format(t, "pair"))["summary"] for t in (1, 2)]

    assert [(row.iteration, row.learner) for row in summary.along] == [(1, "twin"), (2, "twin")]
    assert [dict(row.tally.parts) for row in summary.along] == [
        one["tally"]["parts"] for one in stored
    ]
    assert [row.chosen_right.n for row in summary.along] == [
        one["chosen_right"]["n"] for one in stored
    ]
    assert [row.learner for row in summary.iterations] == [None, None]
    assert [row.model for row in summary.models] == ["M0", "M1", "M2", "M3"]
    page = tmp_path / "page.html"
    write_page([ordered], page)
    assert "The witness that learns along" in page.read_text(encoding="utf-8")
    assert "2 (twin-2 -&gt; twin-3)" in page.read_text(encoding="utf-8")
    prompt = table(ordered, "iteration-2/matrix")[0]["prompt_id"]
    told = explain("pair", ordered, prompt, 2)
    assert "witness: twin-2, which learns along" in told.words


def test_with_the_last_checkpoints_kept_those_of_the_twin_go_too(made: Callable[..., Path]):
    root = made(ORDER + ALONG, "keep_checkpoints=last", "data.test=null")

    kept = {path.parent.name for path in (root / "models").glob("*/model.safetensors")}
    assert kept == {"M3", "twin", "twin-3"}


def test_a_run_killed_in_every_stage_ends_like_one_that_was_not(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    options = (*SETTINGS, "data.test=null", ANSWER + ALONG)
    whole = run_whole(tiny_recipe(tmp_path / "whole", *options))
    root = tmp_path / "killed"

    require_equal_after_kills(
        lambda progress: run_whole(tiny_recipe(root, *options), progress), root, whole
    )
    assert same_weights(weights(root, "twin-3"), weights(whole, "twin-3"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"witness": ["a", "b"], "agreement": "answer"}, "exchanges the roles of M_t and one"),
        ({"witness": "M1"}, "name a model under witnesses"),
        ({"witness": "a", "use": "smooth"}, "says nothing of the witness' pairs"),
        ({"witness": "a", "name": "srlm"}, "method.witness_training: unknown key"),
    ],
)
def test_what_cannot_learn_along_is_refused(recipe_values, options, complaint):
    method = {"name": "cream_cross", "witness_training": "along", **options}

    with pytest.raises(RecipeError, match=complaint):
        validate_recipe({**recipe_values, "method": method}, source="test")
