"""The recipe's JSON Schema: current, and right about recipes that load and recipes that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cream.recipe.load import recipe_schema

ROOT = Path(__file__).parents[2]
RECIPES = [*ROOT.glob("recipes/**/*.yaml"), ROOT / "src/cream/recipe/template.yaml"]
SMALL: dict[str, Any] = {
    "name": "x",
    "iterations": 1,
    "data": {
        "seed": {"sources": [{"source": "file", "path": "s.jsonl"}]},
        "prompts": {"per_iteration": 1, "sources": [{"source": "file", "path": "p.jsonl"}]},
    },
}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_file_in_docs_is_current():
    """Run scripts/write_schemas.py after a change of the recipe."""
    written = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))

    assert written == recipe_schema()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_ours_is_valid_by_the_schema(path: Path, validator: Any):
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "cream"},
        {"method": {"name": "srlm", "objective": {"beta": 0.2}}},
        {"method": {"name": "cream", "pairing": {"rule": "top_bottom", "k": 2}}},
        {"method": {"name": "cream", "pairing": {"min_gap": 1.0}}},
    ],
)
def test_short_forms_are_valid(change: dict[str, Any], validator: Any):
    validator.validate({**SMALL, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"metod": "cream"},
        {"method": "creme"},
        {"method": {"name": "srlm", "level": "set"}},
        {"iterations": 0},
        {"sampling": {"top_p": 1.5}},
        {"data": {**SMALL["data"], "seed": {"sources": [{"source": "fil", "path": "s.jsonl"}]}}},
    ],
)
def test_what_does_not_load_for_a_key_or_a_range_is_invalid(change: dict[str, Any], validator: Any):
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**SMALL, **change})


def test_every_setting_has_its_description(validator: Any):
    sampling = validator.schema["$defs"]["SamplingConfig"]["properties"]

    assert "Completions per prompt" in sampling["num_completions"]["description"]
