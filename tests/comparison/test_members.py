from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cream.comparison.members import MethodChoice, make_plan, parse_methods, read_methods
from cream.errors import RecipeError
from cream.recipe.methods.cream import CreamSampleMethod
from cream.recipe.methods.srlm import SrlmMethod

KEEP = "method.pairing.truncated=keep"


def test_methods_are_cut_at_commas_outside_of_their_options():
    text = "srlm, cream_sample{level: shrunken, pairing: {rule: top_bottom, k: 2}},dice"

    assert parse_methods(text) == (
        MethodChoice("srlm", "srlm", {"name": "srlm"}),
        MethodChoice(
            "cream_sample{level: shrunken, pairing: {rule: top_bottom, k: 2}}",
            "cream_sample-level-shrunken-pairing-rule-top_bottom-k-2",
            {
                "name": "cream_sample",
                "level": "shrunken",
                "pairing": {"rule": "top_bottom", "k": 2},
            },
        ),
        MethodChoice("dice", "dice", {"name": "dice"}),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "names no method"),
        ("cream{level: shrunken", "not a method's name"),
        ("cream(level)", "not a method's name"),
        ("cream{level: [}", "not YAML"),
        ("cream{name: srlm}", "must have options as in"),
        ("cream,srlm,cream", "2 methods would be kept in the folder 'cream'"),
        ("cream{level: set},cream{level:  set}", "kept in the folder 'cream-level-set'"),
    ],
)
def test_methods_that_cannot_be_read_are_named(text: str, message: str):
    with pytest.raises(RecipeError, match=message):
        parse_methods(text)


def test_a_file_gives_methods_names_of_their_own(tmp_path: Path):
    path = tmp_path / "compare.yaml"
    path.write_text(
        "methods:\n"
        "  - {name: paper, method: cream}\n"
        "  - name: cautious\n"
        "    method: {name: cream_sample, level: shrunken}\n"
    )

    assert read_methods(path) == (
        MethodChoice("paper", "paper", {"name": "cream"}),
        MethodChoice("cautious", "cautious", {"name": "cream_sample", "level": "shrunken"}),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: cream", "does not list methods"),
        ("methods: [cream]", "methods.0 must have `name` and `method`"),
        ("methods: [{name: a, method: cream, seed: 1}]", "methods.0 must have `name` and `method`"),
        ("methods: [{name: a/b, method: cream}]", "must begin with a letter or digit"),
        ("methods: [{name: a, method: {level: set}}]", "must be a method's name, or a mapping"),
        ("methods: [{name: a, method: cream}, {name: a, method: srlm}]", "in the folder 'a'"),
    ],
)
def test_a_file_that_does_not_list_methods_is_explained(text: str, message: str, tmp_path: Path):
    path = tmp_path / "compare.yaml"
    path.write_text(text)

    with pytest.raises(RecipeError, match=message):
        read_methods(path)
    with pytest.raises(RecipeError, match="does not list methods"):
        read_methods(tmp_path / "absent.yaml")


def test_members_are_whole_recipes_seed_by_seed(recipe_file: Path, tmp_path: Path):
    """Common settings reach every method; names and folders tell members apart."""
    choices = parse_methods("srlm, cream_sample{level: shrunken}")
    plan = make_plan(
        recipe_file, [KEEP, "iterations=1"], choices, seeds=[3, 0], root=tmp_path / "out"
    )

    assert [member.label for member in plan.members] == [
        "srlm, seed 3",
        "cream_sample{level: shrunken}, seed 3",
        "srlm, seed 0",
        "cream_sample{level: shrunken}, seed 0",
    ]
    last = plan.members[-1].recipe
    assert isinstance(last.method, CreamSampleMethod)
    assert (last.method.level, last.method.pairing.truncated) == ("shrunken", "keep")
    assert (last.seed, last.iterations) == (0, 1)
    assert last.run_dir == str(tmp_path / "out/cream_sample-level-shrunken/seed-0")
    assert last.name == "tiny-cream_sample-level-shrunken-seed-0"
    assert (plan.baseline, plan.name) == ("srlm", "tiny")


def test_seed_and_folder_are_the_recipes_unless_given(recipe_file: Path):
    plan = make_plan(recipe_file, ["name=other"], parse_methods("srlm"))

    assert plan.root == Path(f"{recipe_file.parent}/run-compare")
    assert plan.members[0].recipe.seed == 1
    assert plan.members[0].recipe.name == "other-srlm-seed-1"


def test_a_method_that_is_the_recipes_own_begins_with_what_is_written_there(recipe_file: Path):
    """The recipe's cream keeps truncated completions; srlm, which it does not name, drops them."""
    plan = make_plan(recipe_file, [], parse_methods("cream{below_half: drop}, srlm"))
    own, other = (member.recipe.method for member in plan.members)

    assert own.model_dump()["pairing"]["truncated"] == "keep"
    assert own.model_dump()["below_half"] == "drop"
    assert isinstance(other, SrlmMethod)
    assert other.pairing.truncated == "drop"


@pytest.mark.parametrize(
    ("methods", "overrides", "options", "message"),
    [
        ("cream,creme", [], {}, "method creme of the comparison: .*did you mean 'cream'"),
        ("cream,srlm{level: set}", [], {}, "method srlm.* unknown key"),
        ("srlm,cream", ["method.level=set"], {}, "method srlm.*level: unknown key"),
        ("srlm,srlm{reward: implicit}", [], {}, "are the same method with the same options"),
        ("srlm,cream", ["seed=3"], {}, "give --seeds instead"),
        ("srlm,cream", ["method=dice"], {}, "give --methods instead"),
        ("srlm,cream", ["run_dir=x"], {}, "give --out instead"),
        ("srlm,cream", [], {"seeds": [1, 1]}, "name each seed once; it names 1, 1"),
        ("srlm,cream", [], {"seeds": []}, "it names none"),
        ("srlm,cream", [], {"baseline": "dice"}, "--baseline dice is none of the methods: srlm"),
    ],
)
def test_what_cannot_be_compared_is_named(
    methods: str, overrides: list[str], options: dict[str, Any], message: str, recipe_file: Path
):
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        make_plan(recipe_file, overrides, parse_methods(methods), **options)


def test_a_recipe_without_a_name_is_told_so(recipe_file: Path):
    recipe_file.write_text(recipe_file.read_text().replace("name: tiny\n", ""))

    with pytest.raises(RecipeError, match="name: is needed and not given"):
        make_plan(recipe_file, [], parse_methods("srlm"))
