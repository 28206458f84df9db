"""The books of a run: what became of every prompt, where time and tokens went, the recipe.

Settings stand beside their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cream.errors import RecipeError
from cream.recipe.base import Section
from cream.recipe.recipe import Recipe
from cream.report.costs import Kind, stage_tokens
from cream.report.explain import OUTCOMES
from cream.report.markup import Html, PageSection, join, paragraph, table, tag, text
from cream.report.page.figures import Words, stack_figure
from cream.report.page.records import RunRecords
from cream.report.table import ABSENT
from cream.report.tables import place
from cream.runs.manifest import without_local_paths


def tallies(records: RunRecords) -> PageSection | None:
    """What became of the prompts of each iteration; None before any pairs or weights."""
    paired, weighed = [*records.iterations, *records.summary.along], records.summary.weighed
    rows = [*paired, *weighed]
    if not rows:
        return None
    labels = [*map(place, paired), *(f"iteration {row.iteration}" for row in weighed)]
    parts = [(label, dict(row.tally.parts)) for label, row in zip(labels, rows, strict=True)]
    names = [
        n for n in dict.fromkeys(k for _, p in parts for k in p) if any(p.get(n) for _, p in parts)
    ]
    said = Words(
        "Prompts by outcome",
        "Each bar is all prompts of an iteration; hover for counts, or open the numbers.",
        alternative="Prompts by outcome: "
        + "; ".join(
            f"{label} " + ", ".join(f"{n} {p[n]}" for n in names if p.get(n)) for label, p in parts
        ),
    )
    figure = tag("div", stack_figure(said, parts, names), attributes={"class": "whole"})
    head = ["outcome", "meaning", *(label for label, _ in parts)]
    body = [[n, OUTCOMES[n], *(str(p.get(n, 0)) for _, p in parts)] for n in names]
    body.append(["all", "", *(str(row.tally.total) for row in rows)])
    return PageSection(
        "outcomes",
        "What became of the prompts",
        join([figure, table(head, body, "Prompts per iteration by outcome", words=2)]),
    )


def costs(records: RunRecords) -> PageSection | None:
    """Seconds and tokens of each stage; None before any stage is finished."""
    finished = records.run.finished
    if not finished:
        return None
    tokens = {name: stage_tokens(records.run, stage) for name, stage in finished.items()}
    spent = [name for name, stage in finished.items() if stage.seconds >= 0.05 or tokens[name]]
    rows = [_stage_row(name, finished[name].seconds, tokens[name]) for name in spent]
    left_out = len(finished) - len(spent)
    whole = sum(stage.seconds for stage in finished.values())
    rows.append(["all stages", f"{whole:.1f}", "", ""])
    note = (
        "Over all attempts, without the time to load models. Tokens are completion tokens: "
        "sampled, answered, scored, or trained on, once per epoch."
        + (f" {left_out} stages under 0.05 s are only in the sum." if left_out else "")
    )
    caption = "Seconds and completion tokens per stage; – is not recorded"
    body = [
        paragraph(note, "note"),
        table(["stage", "seconds", "tokens", "tokens per second"], rows, caption),
        *_environment(records),
    ]
    return PageSection("costs", "Time and tokens", join(body))


def _stage_row(name: str, seconds: float, tokens: Mapping[Kind, float] | None) -> list[str]:
    if not tokens:
        return [name, f"{seconds:.1f}", ABSENT, ABSENT]
    count = sum(tokens.values())
    speed = f"{count / seconds:,.0f}" if seconds > 0 else ABSENT
    return [name, f"{seconds:.1f}", f"{count:,.0f}", speed]


def recipe(records: RunRecords) -> PageSection:
    """The settings that differ from the defaults, and behind a disclosure all of them."""
    try:
        found = settings(records.run.recipe)
    except RecipeError:
        said = paragraph(
            "This version of Cream does not read the run's recipe, so its defaults are not shown.",
            "warning",
        )
        whole = json.dumps(dict(records.run.values), indent=2, ensure_ascii=False)
        body = join([said, tag("pre", text(whole))])
        return PageSection("recipe", "Recipe", body)
    usual = [setting for setting in found if setting.default != REQUIRED]
    changed = [setting for setting in usual if setting.value != setting.default]
    head = ["setting", "value", "default"]
    body = join(
        [
            paragraph(
                f"{len(changed)} of {len(usual)} settings that have a default differ from it; "
                f"{len(found) - len(usual)} others must be given and stand among all settings."
            ),
            table(head, [_setting_row(s) for s in changed], "Settings that differ", words=3),
            _all_settings(found),
        ]
    )
    return PageSection("recipe", "Recipe", body)


def _all_settings(found: Sequence[Setting]) -> Html:
    head = ["setting", "value", "default"]
    rows = [_setting_row(s) for s in found]
    return tag(
        "details",
        tag("summary", text("All settings")),
        table(head, rows, "All settings of the run", words=3),
        attributes={"class": "numbers"},
    )


def _setting_row(setting: Setting) -> list[str]:
    default = REQUIRED if setting.default == REQUIRED else _json(setting.default)
    return [setting.key, _json(setting.value), default]


def _json(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _environment(records: RunRecords) -> list[Html]:
    manifest = records.run.manifest
    if manifest is None:
        return []
    made: Mapping[str, Any] = manifest["environment"]
    packages = ", ".join(
        f"{name} {version}" for name, version in made["packages"].items() if version
    )
    command = " ".join(without_local_paths(manifest["command"]))
    return [
        paragraph(
            f"Made by “{command}”, Cream {made['cream']}, Python {made['python']}, "
            f"{made['platform']}, {made['cpu_count']} CPU cores; {packages}.",
            "note",
        )
    ]


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
    return [
        Setting(found.key, without_local_paths(found.value), found.default)
        for found in _section(recipe, "", None)
    ]


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
