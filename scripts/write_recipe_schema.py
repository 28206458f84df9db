"""Write docs/recipe.schema.json; a test says when it must be run again."""

import json
from pathlib import Path

from cream.recipe.schema import recipe_schema

target = Path(__file__).parents[1] / "docs" / "recipe.schema.json"
target.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
