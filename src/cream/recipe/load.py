"""Reading a recipe: YAML plus ``a.b=c`` overrides, with errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

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
    result: Any = _unshared(values)
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


def _unshared(value: Any) -> Any:
    """Copy so that YAML anchors no longer share: an override changes one place only."""
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _explain(problem: Any) -> str:
    path, sections = _walk(problem["loc"][:-1])
    last = problem["loc"][-1]
    place = ".".join([*path, *([] if _is_tag(last, sections) else [str(last)])])
    if problem["type"] == "extra_forbidden":
        known = sorted({key for section in sections for key in section.model_fields})
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        listing = f" Known keys here: {', '.join(known)}." if known else ""
        return f"{place}: unknown key{hint}{listing}"
    given = problem.get("input")
    shown = f" (got {given!r})" if not isinstance(given, (dict, list)) else ""
    return f"{place}: {problem['msg']}{shown}"


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow an error location to the sections there; it names union tags, which a file does not.

    Returns:
        The location as written in a recipe, and the classes the section there may have.
    """
    path: list[str] = []
    sections: list[type[BaseModel]] = [Recipe]
    for part in location:
        if _is_tag(part, sections):
            sections = [section for section in sections if _tag(section) == part]
            continue
        path.append(str(part))
        if isinstance(part, str):
            fields = [s.model_fields[part] for s in sections if part in s.model_fields]
            sections = [inner for field in fields for inner in _sections_in(field.annotation)]
    return path, sections


def _is_tag(part: str | int, sections: Sequence[type[BaseModel]]) -> bool:
    return any(_tag(section) == part for section in sections)


def _tag(model: type[BaseModel]) -> str | None:
    """The value by which a union of sections tells this one apart, such as ``name: cream``."""
    for field in model.model_fields.values():
        if get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
            if len(values) == 1:
                return values[0]
    return None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _sections_in(arg)]
