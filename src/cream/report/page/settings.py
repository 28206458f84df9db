"""The settings of a recipe beside their defaults, for the page's account of what was run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cream.recipe.base import Section
from cream.recipe.recipe import Recipe

REQUIRED = "required"
"""Stands where a setting has no default."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a recipe."""

    key: str
    """Dotted path."""
    value: Any
    """A JSON value."""
    default: Any
    """A JSON value, or `REQUIRED`."""


def settings(recipe: Recipe) -> list[Setting]:
    """Every setting of a recipe, in the order of the schema.

    A section of the kind that is there by default is compared with that default; a section of
    another kind (another objective, say) with the defaults of its own kind.
    """
    return list(_section(recipe, "", None))


def _section(section: Section, prefix: str, default: Section | None) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        usual: Any = REQUIRED
        if default is not None:
            usual = getattr(default, name)
        elif not field.is_required():
            usual = field.get_default(call_default_factory=True)
        yield from _value(getattr(section, name), f"{prefix}{name}", usual)


def _value(value: Any, key: str, default: Any) -> Iterator[Setting]:
    if isinstance(value, Section):
        yield from _section(value, f"{key}.", default if type(default) is type(value) else None)
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            usual = default.get(name, REQUIRED) if isinstance(default, Mapping) else REQUIRED
            yield from _value(inner, f"{key}.{name}", usual)
    elif isinstance(value, Sequence) and any(isinstance(inner, Section) for inner in value):
        for place, inner in enumerate(value):
            yield from _value(inner, f"{key}.{place}", REQUIRED)
    else:
        yield Setting(key, _plain(value), _plain(default))


def _plain(value: Any) -> Any:
    """A JSON value; what a default section says in place of a plain value is its dump."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
