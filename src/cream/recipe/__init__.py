"""Recipes: pydantic models of everything a run does, YAML and overrides. Knows no torch."""

from cream.recipe.load import load_recipe, parse_recipe
from cream.recipe.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_recipe"]
