"""What is wrong with a recipe, in words: pydantic's error list as one line per problem.

pydantic locates a problem by attribute names mixed with union tags; here it is located as the
recipe's author wrote it, and a key that does not exist is answered with the nearest one that does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

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
