"""Reading a recipe: YAML plus ``a.b=c`` overrides, with errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cream.errors import RecipeError
from cream.recipe.recipe import Recipe


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice (plain YAML keeps the last one silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            line = node.start_mark.line + 1
            raise RecipeError(
                f"key {', '.join(sorted(twice))} is written twice in the mapping at line {line}"
            )
        return super().construct_mapping(node, deep=deep)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path: YAML file.
        overrides: ``a.b=c`` texts; c is YAML, list positions are numbers (``tasks.0.count=5``).

    Raises:
        RecipeError: The file is missing or not YAML, a key is unknown (the nearest known one is
            named), or a value has a wrong type or range. All problems are listed at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot read recipe {path}: {error.strerror}; `cream init` writes one to start from"
        ) from error
    return parse_recipe(text, overrides, source=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Validate a recipe given as text. See `load_recipe`."""
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{source} must be a mapping of settings, it is {type(values).__name__}")
    return validate_recipe(apply_overrides(values, overrides), source=source)


def validate_recipe(values: Mapping[str, Any], *, source: str) -> Recipe:
    """Turn plain values into a recipe, or say everything that is wrong with them."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"{source}:\n  " + "\n  ".join(lines)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `values` with each ``a.b=c`` applied, in order."""
    result: Any = yaml.safe_load(yaml.safe_dump(dict(values)))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise RecipeError(f"--set {override!r} is not of the form a.b=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {override!r}: the value is not YAML: {error}") from error
        _assign(result, path.strip().split("."), value, override)
    return result


def _assign(node: Any, keys: list[str], value: Any, override: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise RecipeError(
                    f"--set {override!r}: {key!r} is not a position in a list of {len(node)}"
                )
            if last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        else:
            if last:
                node[key] = value
            else:
                if isinstance(node.get(key), str) and key == "method":
                    node[key] = {"name": node[key]}  # the shorthand `method: cream`
                node = node.setdefault(key, {})
                if not isinstance(node, (dict, list)):
                    raise RecipeError(
                        f"--set {override!r}: {'.'.join(keys[: depth + 1])} is no section"
                    )


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listing = f" Known keys here: {', '.join(sorted(known))}." if known else ""
        return f"{location}: unknown key{hint}{listing}"
    given = problem.get("input")
    shown = f" (got {given!r})" if not isinstance(given, (dict, list)) else ""
    return f"{location}: {problem['msg']}{shown}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Keys of the section at a pydantic error location, which includes union tags."""
    models: list[type[BaseModel]] = [Recipe]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [m for m in models if _tag(m) == part]
        if tagged:
            models = tagged
            continue
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _sections_in(model.model_fields[part].annotation)
        ]
    return sorted({key for model in models for key in model.model_fields})


def _tag(model: type[BaseModel]) -> str | None:
    for name in ("name", "source", "kind", "rule"):
        field = model.model_fields.get(name)
        if field is not None and isinstance(field.default, str):
            return field.default
    return None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in getattr(annotation, "__args__", ()) for found in _sections_in(arg)]
