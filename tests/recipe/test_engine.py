import pytest

from cream.errors import RecipeError
from cream.recipe.engine import AutoEngine, TorchEngine, VllmEngine
from cream.recipe.load import apply_overrides, validate_recipe

SOURCES = {"sources": [{"source": "file", "path": "x.jsonl"}]}
VALUES = {
    "name": "x",
    "iterations": 1,
    "data": {"seed": SOURCES, "prompts": {"per_iteration": 1, **SOURCES}},
}


def engine(**given):
    return validate_recipe({**VALUES, **given}, source="x").engine


def test_without_a_word_the_engine_is_chosen():
    assert engine() == AutoEngine()


@pytest.mark.parametrize("name", ["auto", "torch", "vllm"])
def test_a_bare_name_is_an_engine_with_its_defaults(name):
    cls = {"auto": AutoEngine, "torch": TorchEngine, "vllm": VllmEngine}[name]

    assert engine(engine=name) == engine(engine={"name": name}) == cls()


def test_an_option_of_another_engine_is_refused():
    with pytest.raises(RecipeError, match=r"engine\.python: unknown key"):
        engine(engine={"name": "torch", "python": "python3"})


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(RecipeError, match=r"did you mean 'vllm'\? It is one of auto, torch, vllm"):
        engine(engine="vlm")


def test_overrides_open_up_a_bare_name():
    values = apply_overrides({**VALUES, "engine": "vllm"}, ["engine.python=/opt/v/bin/python"])

    assert validate_recipe(values, source="x").engine == VllmEngine(python="/opt/v/bin/python")
