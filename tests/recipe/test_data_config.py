"""The data section accepts what it documents and refuses what would be ignored or contradictory."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from cream.recipe.data import DataConfig, FileSource, PromptData, ReasoningGymSource, SeedData

FILE = {"source": "file", "path": "p.jsonl"}
GYM = {"source": "reasoning_gym", "tasks": ["gcd", "lcm"]}


def prompts(**changes):
    return {"per_iteration": 10, "sources": [FILE], **changes}


def test_three_roles_with_every_kind_of_source():
    config = DataConfig.model_validate(
        {
            "seed": {"sources": [{**GYM, "count": 5}, FILE]},
            "prompts": prompts(),
            "test": {
                "sources": [
                    {
                        "source": "hub",
                        "dataset": "openai/gsm8k",
                        "config_name": "main",
                        "split": "test",
                        "columns": {"prompt": "question"},
                        "verifier": "last_number",
                    }
                ]
            },
        }
    )

    assert config.seed is not None
    assert config.test is not None
    assert isinstance(config.seed.sources[0], ReasoningGymSource)
    assert isinstance(config.seed.sources[1], FileSource)
    assert config.test.sources[0].source == "hub"
    assert config.prompts.duplicates == "refuse"


def test_a_task_may_be_a_plain_name():
    source = ReasoningGymSource.model_validate({**GYM, "tasks": ["gcd", {"name": "lcm"}]})

    assert [task.name for task in source.tasks] == ["gcd", "lcm"]
    assert source.tasks[0].config == {}


def test_seed_and_test_may_be_left_out_but_prompts_may_not():
    config = DataConfig.model_validate({"prompts": prompts()})
    assert config.seed is None
    assert config.test is None

    with pytest.raises(ValidationError, match="prompts"):
        DataConfig.model_validate({})


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ({"seed": {"sources": [GYM]}}, "needs `count`"),
        ({"seed": {"sources": [{**GYM, "count": 1}]}}, "less than one for each of 2 tasks"),
        (
            {"seed": {"sources": [{**GYM, "count": 4, "tasks": [{"name": "gcd", "count": 2}]}]}},
            "not to both",
        ),
        ({"test": {"sources": [FILE]}}, "needs a `verifier`"),
        ({"prompts": prompts(sources=[FILE, GYM])}, "mixes generated"),
        ({"prompts": prompts(sources=[{**GYM, "count": 3}])}, "`per_iteration` decides"),
        ({"prompts": prompts(sources=[GYM], per_iteration=1)}, "less than one for each of 2"),
        ({"prompts": prompts(per_iteration=0)}, "greater than or equal to 1"),
        ({"prompts": prompts(sources=[])}, "at least 1 item"),
        ({"prompts": prompts(sources=[{**FILE, "path": "p.json"}])}, "cannot tell the format"),
        ({"prompts": prompts(sources=[{**FILE, "split": "train"}])}, "Extra inputs"),
        ({"prompts": prompts(sources=[{"source": "web", "path": "p.csv"}])}, "'reasoning_gym'"),
        (
            {"prompts": prompts(sources=[{**FILE, "columns": {"messages": "a", "prompt": "b"}}])},
            "map either `messages`",
        ),
        (
            {
                "prompts": prompts(
                    sources=[{**GYM, "tasks": [{"name": "gcd", "config": {"seed": 1}}]}]
                )
            },
            "decided by the run",
        ),
    ],
)
def test_contradictions_are_refused(role, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"prompts": prompts(), **role})


def test_config_survives_a_round_trip_through_json():
    config = PromptData.model_validate(prompts(sources=[{**GYM, "system_prompt": "Be brief."}]))

    assert PromptData.model_validate_json(config.model_dump_json()) == config


def test_every_field_has_a_description():
    for model in (SeedData, PromptData, ReasoningGymSource, FileSource):
        undocumented = [
            name
            for name, field in model.model_fields.items()
            if not field.description and name != "source"
        ]
        assert undocumented == []


def test_importing_the_recipe_does_not_import_heavy_libraries():
    code = (
        "import sys, cream.recipe.data;"
        "print([m for m in ('torch', 'numpy', 'datasets', 'pyarrow', 'transformers')"
        " if m in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"
