"""The JSON Schema of a recipe, for editors: names, types, ranges and descriptions while one types.

It is what pydantic says of `Recipe`, with the short forms that a recipe may use: a bare name in
place of a section that needs no settings (``method: cream``), and a left-out key where one member
of a union is the usual one. Rules between settings are not in it; `load_recipe` has them all.
"""

from __future__ import annotations

from typing import Any

from cream.recipe.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file."""
    schema = Recipe.model_json_schema()
    opened = _open(schema, schema["$defs"])
    return {"$schema": DIALECT, **opened, "title": "Cream recipe"}


def _open(value: Any, defs: dict[str, Any]) -> Any:
    """The same schema, its unions told apart by a key written as editors can follow them."""
    if isinstance(value, list):
        return [_open(item, defs) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _open(item, defs) for key, item in value.items() if key != "discriminator"}
    if not isinstance(value.get("discriminator"), dict) or "oneOf" not in inner:
        return inner
    members = inner.pop("oneOf")
    key = value["discriminator"]["propertyName"]
    names = list(value["discriminator"]["mapping"])
    required = all(
        key in defs[member["$ref"].rpartition("/")[2]].get("required", ()) for member in members
    )
    short = [] if required else [{"enum": names}]
    return {**inner, "anyOf": [*short, *members]}
