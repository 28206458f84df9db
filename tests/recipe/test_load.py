"""Recipes are read strictly: what is wrong is said in the author's own words and places."""

from pathlib import Path

import pytest

from cream.errors import RecipeError
from cream.recipe import Recipe, load_recipe, parse_recipe
from cream.recipe.load import apply_overrides
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.cream_cross import CreamCrossMethod
from cream.recipe.methods.judged import OracleMethod
from cream.recipe.methods.srlm import SrlmMethod

BASE = """\
name: small
iterations: 1
data:
  seed: {sources: [{source: file, path: seed.jsonl}]}
  prompts: {per_iteration: 3, sources: [{source: file, path: prompts.jsonl}]}
"""


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides)
    return str(caught.value)


def test_the_smallest_recipe_is_complete_with_the_reference_codes_defaults():
    recipe = parse_recipe(BASE)

    assert recipe.method == CreamMethod()
    assert recipe.folder == "runs/small"
    assert recipe.sampling.num_completions == 5
    assert recipe.training.optimiser.learning_rate == 1e-6


def test_a_resolved_recipe_means_the_same_when_read_again():
    recipe = parse_recipe(
        BASE, ["method={name: oracle, tie_break: likelihood}", "sft.lora={rank: 4}"]
    )

    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_recipe_cannot_be_edited_after_it_is_loaded():
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(BASE).seed = 3


def test_the_template_is_the_paper_s_method_with_its_defaults():
    recipe = load_recipe(Path(__file__).parents[2] / "src/cream/recipe/template.yaml")

    assert recipe.method == CreamMethod()


def test_the_quickstart_names_a_witness_that_it_makes():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes/quickstart.yaml")

    assert isinstance(recipe.method, CreamCrossMethod)
    assert {*recipe.method.witness} <= {*recipe.witnesses}


# --- overrides ---


def test_overrides_reach_nested_keys_and_list_positions():
    recipe = parse_recipe(
        BASE,
        ["training.optimiser.learning_rate=3e-4", "data.prompts.sources.0.path=other.jsonl"],
    )

    assert recipe.training.optimiser.learning_rate == 3e-4
    assert recipe.data.prompts.sources[0].path == "other.jsonl"  # type: ignore[union-attr]


def test_override_values_are_yaml_and_the_later_one_wins():
    recipe = parse_recipe(
        BASE,
        ["sft.lora={rank: 4, alpha: 8}", "seed=1", "seed=2", "scoring.report_consistency=no"],
    )

    assert recipe.sft.lora is not None
    assert (recipe.sft.lora.rank, recipe.sft.lora.alpha) == (4, 8)
    assert recipe.seed == 2
    assert recipe.scoring.report_consistency is False


def test_an_override_value_may_contain_an_equals_sign():
    recipe = parse_recipe(BASE, ["data.prompts.sources.0.path=a=b.jsonl"])

    assert recipe.data.prompts.sources[0].path == "a=b.jsonl"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "expected"),
    [("srlm", SrlmMethod()), ("oracle", OracleMethod()), ("cream", CreamMethod())],
)
def test_a_method_may_be_named_without_options(override: str, expected: object):
    assert parse_recipe(BASE, [f"method={override}"]).method == expected


def test_options_may_be_set_on_a_method_given_by_its_name_alone():
    recipe = parse_recipe(BASE + "method: cream\n", ["method.level=sample"])

    assert recipe.method == CreamMethod(level="sample")


def test_naming_another_method_discards_the_options_of_the_first():
    recipe = parse_recipe(BASE + "method: {name: cream, level: sample}\n", ["method=srlm"])

    assert recipe.method == SrlmMethod()


def test_an_override_fills_a_section_written_as_null():
    """Resolved recipes spell absent sections as null; `cream pair --from` overrides those."""
    recipe = parse_recipe(BASE + "sft: {lora: null}\n", ["sft.lora.rank=4"])

    assert recipe.sft.lora is not None
    assert recipe.sft.lora.rank == 4


def test_an_override_changes_one_of_two_sections_that_share_a_yaml_anchor():
    text = BASE + "sft: {optimiser: &o {learning_rate: 0.1}}\ntraining: {optimiser: *o}\n"
    recipe = parse_recipe(text, ["sft.optimiser.learning_rate=0.5"])

    assert recipe.sft.optimiser.learning_rate == 0.5
    assert recipe.training.optimiser.learning_rate == 0.1


def test_overrides_do_not_change_the_values_they_are_given():
    values = {"a": {"b": [1, 2]}}

    assert apply_overrides(values, ["a.b.1=5"]) == {"a": {"b": [1, 5]}}
    assert values == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "'name' is not of the form a.b=value"),
        ("=3", "not of the form"),
        ("a..b=3", "not of the form"),
        ("sampling.top_p=[", "the value: it is not valid YAML"),
        ("sft={epochs: 1, epochs: 2}", "'epochs' is written twice"),
        ("name.x=3", "name is 'small' and has no settings"),
        ("data.prompts.sources.7.path=x", "'7' is not a position in a list of 1"),
        ("data.prompts.sources.-1.path=x", "'-1' is not a position in a list of 1"),
        ("data.prompts.sources.first.path=x", "'first' is not a position in a list of 1"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(override: str, message: str):
    assert message in complaint(BASE, override)


# --- text ---


def test_a_missing_file_names_itself_and_the_command_that_writes_one(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"cannot read recipe .*gone\.yaml.*cream init"):
        load_recipe(tmp_path / "gone.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(RecipeError, match=r"binary\.yaml is not a text file in UTF-8"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe is empty; `cream init`"),
        ("# nothing\n", "recipe is empty"),
        ("- 1\n- 2\n", "must be a mapping of settings, it is list"),
        ("a: [\n", "recipe: it is not valid YAML"),
        ("a: &a [*a]\n", "anchor stands inside itself"),
        ("a: !!python/object:os.system x\n", "recipe: it is not valid YAML"),
    ],
)
def test_text_that_is_no_recipe_is_refused(text: str, message: str):
    assert message in complaint(text)


def test_a_key_written_twice_is_refused_with_both_lines():
    assert "'name' is written twice in one mapping, at lines 1 and 6" in complaint(
        BASE + "name: b\n"
    )
    assert "'epochs' is written twice in one mapping, at lines 8 and 9" in complaint(
        BASE + "sft:\n  lora: null\n  epochs: 1\n  epochs: 2\n"
    )


def test_the_same_key_in_two_mappings_is_fine():
    recipe = parse_recipe(BASE + "sft: {epochs: 2}\ntraining: {epochs: 3}\n")

    assert (recipe.sft.epochs, recipe.training.epochs) == (2, 3)


def test_a_key_beside_a_yaml_merge_overrides_the_merged_one():
    text = BASE + "sft: &s {epochs: 2, max_length: 9}\ntraining: {<<: *s, epochs: 3}\n"
    recipe = parse_recipe(text)

    assert (recipe.training.epochs, recipe.training.max_length) == (3, 9)


# --- validation ---


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("sampling: {temprature: 1}", "sampling.temprature: unknown key; did you mean 'temperat"),
        (
            "metod: cream",
            "metod: unknown key; did you mean 'method'? Known keys here: calibration, ",
        ),
        ("zzzz: 1", "zzzz: unknown key. Known keys here: calibration, cluster, data,"),
        (
            "witnesses: {other: {seed_share: 0.5, share: 1}}",
            "witnesses.other.share: unknown key; did you mean 'seed_share'?",
        ),
        ("witnesses: {other: {}}", "witnesses.other.seed_share: is needed and not given"),
        ("method: {name: cream, levle: set}", "method.levle: unknown key; did you mean 'level'?"),
        ("method: {name: srlm, level: set}", "method.level: unknown key"),
        ("method: {name: cream, cream: 1}", "method.cream: unknown key"),
        (
            "method: {name: cream, objective: {nll: {kind: constant, weight: 1, x: 1}}}",
            "method.objective.nll.x: unknown key. Known keys here: kind, weight.",
        ),
        (
            "method: {name: cream, objective: {nll: {kind: constant}}}",
            "method.objective.nll.weight: is needed and not given",
        ),
        (
            "method: {name: cream, objective: {nll: {kind: constnt, weight: 1}}}",
            "method.objective.nll: `kind` cannot be 'constnt'; did you mean 'constant'? "
            "It is one of constant, 2C-1",
        ),
        (
            "method: crem",
            "`name` cannot be 'crem'; did you mean 'cream'? It is one of cream, ",
        ),
        ("method: {level: set}", "method: needs `name`, one of cream, cream_cross, cream_pair"),
        ("method: {name: cream, level: st}", "method.level: Input should be 'set', 'sample' "),
        ("seed: -1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("sampling: {num_completions: 1}", "sampling.num_completions: Input should be greater"),
        ("sampling: {num_completions: 2.5}", "sampling.num_completions: Input should be a valid i"),
        ("sampling: {top_p: much}", "sampling.top_p: Input should be a valid number"),
        ("sampling: 3", "sampling: must be a section of settings, not 3"),
        ("sft:", "sft: is an empty section; give it settings, or remove it"),
        ("sft: {lora: {target_modules: 3}}", "sft.lora.target_modules: Input should be a valid t"),
        ("1: 2", "1: Keys should be strings"),
    ],
)
def test_what_is_wrong_is_said_where_the_author_wrote_it(lines: str, message: str):
    assert f"recipe:\n  {message}" in complaint(BASE + lines + "\n") or (
        f"\n  method: {message}" in complaint(BASE + lines + "\n")
    )


def test_all_problems_are_listed_at_once():
    text = complaint(BASE + "seed: -1\nsampling: {top_p: 2}\nsfd: {}\n")

    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "seed",
        "sampling.top_p",
        "sfd",
    ]


def test_what_sections_demand_of_each_other_is_said_without_a_path():
    text = complaint("name: a\niterations: 1\ndata: {prompts: {per_iteration: 1, sources: [")
    assert "not valid YAML" in text

    without_seed = BASE.replace("  seed: {sources: [{source: file, path: seed.jsonl}]}\n", "")
    assert complaint(without_seed) == ("recipe:\n  data.seed is needed: M1 is M0 fine-tuned on it")


def test_a_bad_list_element_is_named_by_its_position():
    assert "data.prompts.sources.0.colums: unknown key; did you mean 'columns'?" in complaint(
        BASE, "data.prompts.sources.0.colums=x"
    )
    assert "data.prompts.sources.0: `source` cannot be 'fil'; did you mean 'file'?" in complaint(
        BASE, "data.prompts.sources.0.source=fil"
    )
