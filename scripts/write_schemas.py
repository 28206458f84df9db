"""Write the schemas of recipes and of ``--json``; tests say when it must be run again."""

import json
from pathlib import Path
from typing import Any

from cream.cli.documents import documents, json_schema
from cream.recipe.load import recipe_schema

ROOT = Path(__file__).parents[1]


def write(path: Path, schema: dict[str, Any]) -> None:
    path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


write(ROOT / "docs" / "recipe.schema.json", recipe_schema())
for command in documents():
    write(ROOT / "src" / "cream" / "schemas" / f"{command}.json", json_schema(command))
