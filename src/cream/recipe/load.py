"""Reading a recipe: YAML plus ``a.b=c`` overrides, with errors a person can act on.

Its JSON Schema, for editors, is what pydantic says of `Recipe`, with the short forms that a recipe
may use: a bare name in place of a section that needs no settings (``method: cream``), and a
left-out key where one member of a union is the usual one. Rules between settings are not in it;
`load_recipe` has them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cream.errors import RecipeError
from cream.recipe.base import Section
from cream.recipe.recipe import Recipe

AnySection = TypeVar("AnySection", bound=Section)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice (plain YAML keeps the last one silently).

    Checked on the text's own nodes, before ``<<`` merges another mapping's keys in: a key written
    beside ``<<`` overrides the merged one, as YAML defines.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_line:
                raise RecipeError(
                    f"key {key.value!r} is written twice in one mapping, at lines "
                    f"{first_line[key.value]} and {line}; remove one"
                )
            first_line[key.value] = line
        return node


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path: YAML file.
        overrides: ``a.b=c`` texts; c is YAML, list positions are numbers (``tasks.0.count=5``).

    Raises:
        RecipeError: The file is missing or not YAML, a key is unknown (the nearest known one is
            named), or a value has a wrong type or range. All problems are listed at once.
    """
    return validate_recipe(apply_overrides(read_values(Path(path)), overrides), source=str(path))


def read_values(path: Path) -> dict[str, Any]:
    """A recipe file as plain values, not validated yet.

    Raises:
        RecipeError: The file is missing, or holds no YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot read recipe {path}: {error.strerror}; `cream init` writes one to start from"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path} is not a text file in UTF-8: {error}") from error
    return _parse(text, str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Validate a recipe given as text. See `load_recipe`."""
    return validate_recipe(apply_overrides(_parse(text, source), overrides), source=source)


MAX_CHARACTERS = 200_000
"""Of a YAML text; Cream's longest recipes have 6,000."""
MAX_VALUES = 20_000
"""Values in a YAML text, each counted as often as an alias repeats it."""


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text, nothing shared between two places.

    Raises:
        RecipeError: It is not YAML, writes a key twice, or is larger than any recipe.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(
            f"it has {len(text)} characters and may have {MAX_CHARACTERS}; name files by their path"
        )
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
        return _unshared(values, (), [MAX_VALUES])
    except yaml.YAMLError as error:
        raise RecipeError(f"it is not valid YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError("it is not valid YAML: it is nested too deeply") from error
    except RecipeError:
        raise
    except Exception as error:  # of an explicit tag (`!!int x`) any kind comes through
        kind = type(error).__name__
        raise RecipeError(f"it is not valid YAML: a value is none ({kind}: {error})") from error


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = parse_yaml(text)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    if values is None:
        raise RecipeError(f"{source} is empty; `cream init` writes a recipe to start from")
    if not isinstance(values, dict):
        raise RecipeError(f"{source} must be a mapping of settings, it is {type(values).__name__}")
    return values


def validate_recipe(values: Mapping[str, Any], *, source: str) -> Recipe:
    """Turn plain values into a recipe.

    Raises:
        RecipeError: Says everything that is wrong with them, one line per problem.
    """
    return validate_section(values, Recipe, source=source)


def validate_section(
    values: Mapping[str, Any], kind: type[AnySection], *, source: str
) -> AnySection:
    """Turn plain values into a section.

    Raises:
        RecipeError: Says everything that is wrong with them, one line per problem.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}:\n  " + "\n  ".join(explain(error, kind))) from None


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `values` with each ``a.b=c`` applied, in order.

    A section that is absent or empty is made on the way, and ``method: cream`` is opened up into
    ``method: {name: cream}``, ``engine: vllm`` likewise. Whether the keys exist is found out by
    `validate_recipe`.

    Raises:
        RecipeError: An override has no ``=``, its value is not YAML, its path leads through a plain
            value, or it names a position that a list does not have.
    """
    result: Any = _unshared(values, (), [MAX_VALUES])
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {override!r} is not of the form a.b=value")
        try:
            value = parse_yaml(text)
        except RecipeError as error:
            raise RecipeError(f"--set {override!r}: the value: {error}") from error
        _assign(result, keys, value, override)
    return result


def _assign(node: Any, keys: Sequence[str], value: Any, override: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        place: Any = _position(node, key, override)
        inner = node[place] if isinstance(node, list) else node.get(place)
        if inner is None:
            inner = {}
        elif depth == 0 and key in ("method", "engine", "cluster") and isinstance(inner, str):
            inner = {"name": inner}
        elif not isinstance(inner, (dict, list)):
            section = ".".join(keys[: depth + 1])
            raise RecipeError(f"--set {override!r}: {section} is {inner!r} and has no settings")
        node[place] = inner
        node = inner
    node[_position(node, keys[-1], override)] = value


def _position(node: Any, key: str, override: str) -> str | int:
    """The key itself in a mapping, the number it stands for in a list."""
    if not isinstance(node, list):
        return key
    places = {str(place): place for place in range(len(node))}
    if key not in places:
        raise RecipeError(f"--set {override!r}: {key!r} is not a position in a list of {len(node)}")
    return places[key]


def _unshared(value: Any, around: tuple[int, ...], left: list[int]) -> Any:
    """Copy so that YAML anchors no longer share: an override changes one place only.

    Args:
        value: What to copy.
        around: What it stands in, by identity.
        left: How many values there may be still, counted down.
    """
    left[0] -= 1
    if left[0] < 0:
        raise RecipeError(f"it has more than {MAX_VALUES} values, aliases repeated")
    if not isinstance(value, (Mapping, list)):
        return value
    if id(value) in around:
        raise RecipeError("a YAML anchor stands inside itself; write the section out instead")
    around = (*around, id(value))
    if isinstance(value, list):
        return [_unshared(inner, around, left) for inner in value]
    return {key: _unshared(inner, around, left) for key, inner in value.items()}


Sections = Sequence[type[BaseModel]]
"""Classes that the section at one place of a recipe may have; several where a union stands."""


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line per problem: where (as dotted keys), what, and what would be right.

    Args:
        error: Raised by validating `root`.
        root: Class of the whole recipe.
    """
    return list(dict.fromkeys(_line(problem, root) for problem in error.errors()))


def _line(problem: Any, root: type[BaseModel]) -> str:
    path, sections = _walk(problem["loc"], root)
    if problem["type"] == "extra_forbidden":
        _, sections = _walk(problem["loc"][:-1], root)
    text = _what(problem, sections, str(path[-1]) if path else "")
    return f"{'.'.join(path)}: {text}" if path else text


def _what(problem: Any, sections: Sections, key: str) -> str:
    given = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            known = sorted({name for section in sections for name in section.model_fields})
            listing = f" Known keys here: {', '.join(known)}." if known else ""
            return f"unknown key{_nearest(key, known)}{listing}"
        case "missing":
            return "is needed and not given"
        case "union_tag_not_found":
            return f"needs `{_discriminator(problem)}`, one of {', '.join(_tags(sections))}"
        case "union_tag_invalid":
            name, tag = _discriminator(problem), str(problem["ctx"]["tag"])
            tags = _tags(sections)
            return f"`{name}` cannot be {tag!r}{_nearest(tag, tags)} It is one of {', '.join(tags)}"
        case "model_type" | "model_attributes_type" if given is None:
            return "is an empty section; give it settings, or remove it to use the defaults"
        case "model_type" | "model_attributes_type":
            return f"must be a section of settings, not {given!r}"
    shown = "" if isinstance(given, Mapping | list) else f" (got {given!r})"
    return problem["msg"].removeprefix("Value error, ") + shown


def _nearest(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else "."


def _discriminator(problem: Any) -> str:
    return str(problem["ctx"]["discriminator"]).strip("'")


def _walk(location: Sequence[str | int], root: type[BaseModel]) -> tuple[list[str], Sections]:
    """Follow a location to the sections there, leaving out what a recipe does not spell.

    Those are the tag of a union, after which one class is left, and pydantic's own names of the
    members of other unions (``tuple[str, ...]``, or a section's class).
    """
    path: list[str] = []
    sections: Sections = [root]
    for part in location:
        if len(sections) > 1:
            chosen = [section for section in sections if _tag(section) == part]
            if chosen:
                sections = chosen
                continue
        if any(section.__name__ == part for section in sections):
            continue  # the section's member of a union with plain values
        if isinstance(part, int):
            path.append(str(part))
        elif "[" not in part:
            path.append(part)
            fields = [s.model_fields[part] for s in sections if part in s.model_fields]
            if fields:  # else it is a name in a mapping of sections, such as that of a witness
                sections = [inner for field in fields for inner in _sections_in(field.annotation)]
    return path, sections


def _tags(sections: Sections) -> list[str]:
    return [tag for tag in map(_tag, sections) if tag is not None]


def _tag(section: type[BaseModel]) -> str | None:
    """The value by which a union of sections tells this one apart, such as ``name: cream``."""
    for field in section.model_fields.values():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return get_args(field.annotation)[0]
    return None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


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
