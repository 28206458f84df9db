"""The books of a run: what became of every prompt, where time and tokens went, the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cream.errors import RecipeError
from cream.recipe.load import validate_recipe
from cream.report.markup import Html, PageSection, join, paragraph, table, tag, text
from cream.report.page.figures import Words, stack_figure
from cream.report.page.records import RunRecords
from cream.report.page.settings import REQUIRED, Setting, settings

OUTCOMES = {
    "paired": "gave a pair",
    "single": "fewer than two completions to compare",
    "all_duplicates": "all completions the same",
    "unscored": "fewer than two scored completions",
    "truncated": "too many completions cut off",
    "tied": "equal rewards within the noise",
    "below_min_gap": "reward gap below min_gap",
    "no_majority": "no answer with enough votes",
    "below_half": "C below 1/2",
    "witness_silent": "the witness has no order for the pair",
    "witness_disagrees": "the witness orders the pair the other way",
}
"""Outcomes of `cream.stages.pair` in words; one without an entry is shown by its name."""


def tallies(records: RunRecords) -> PageSection | None:
    """What became of the prompts of each iteration; None before any pairs."""
    rows = records.iterations
    if not rows:
        return None
    parts = [(f"iteration {row.iteration}", dict(row.tally.parts)) for row in rows]
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
    body = [[n, OUTCOMES.get(n, ""), *(str(p.get(n, 0)) for _, p in parts)] for n in names]
    body.append(["all", "", *(str(row.tally.total) for row in rows)])
    return PageSection(
        "outcomes",
        "What became of the prompts",
        join([figure, table(head, body, "Prompts per iteration by outcome", words=2)]),
    )


def costs(records: RunRecords) -> PageSection | None:
    """Seconds and tokens of each stage; None before any stage is finished."""
    seconds = records.summary.seconds
    if not seconds:
        return None
    tokens = _tokens(records)
    spent = [(name, s) for name, s in seconds.items() if s >= 0.05 or name in tokens]
    rows = [
        [
            name,
            f"{s:.1f}",
            f"{tokens[name]:,}" if name in tokens else "–",
            f"{tokens[name] / s:,.0f}" if name in tokens and s > 0 else "–",
        ]
        for name, s in spent
    ]
    left_out = len(seconds) - len(spent)
    rows.append(["all stages", f"{sum(seconds.values()):.1f}", "", ""])
    note = (
        "Over all attempts, without the time to load models. Tokens are completion tokens: "
        "sampled, answered or scored; those of training are not recorded."
        + (f" {left_out} stages under 0.05 s are only in the sum." if left_out else "")
    )
    caption = "Seconds and completion tokens per stage; – is not recorded"
    body = [
        paragraph(note, "note"),
        table(["stage", "seconds", "tokens", "tokens per second"], rows, caption),
        *_environment(records),
    ]
    return PageSection("costs", "Time and tokens", join(body))


def recipe(records: RunRecords) -> PageSection:
    """The settings that differ from the defaults, and behind a disclosure all of them."""
    try:
        found = settings(validate_recipe(records.recipe, source="recipe.yaml"))
    except RecipeError:
        said = paragraph(
            "This version of Cream does not read the run's recipe, so its defaults are not shown.",
            "warning",
        )
        whole = json.dumps(dict(records.recipe), indent=2, ensure_ascii=False)
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


def _tokens(records: RunRecords) -> dict[str, int]:
    """Completion tokens per stage: a scoring pass reads those that its sample stage made."""
    tokens = dict(records.answer_tokens)
    for name in records.stages:
        folder, stage = name.partition("/")[::2]
        sampled = (records.finished(f"{folder}/sample") or {}).get("tokens")
        if (sampled is not None and (stage == "sample" or stage.startswith("score/M"))) or (
            sampled is not None
            and stage.removeprefix("score/") in (records.recipe.get("witnesses") or {})
        ):
            tokens[name] = sampled
    return tokens


def _environment(records: RunRecords) -> list[Html]:
    if records.manifest is None:
        return []
    made: Mapping[str, Any] = records.manifest["environment"]
    packages = ", ".join(
        f"{name} {version}" for name, version in made["packages"].items() if version
    )
    command = " ".join(records.manifest["command"])
    return [
        paragraph(
            f"Made by “{command}”, Cream {made['cream']}, Python {made['python']}, "
            f"{made['platform']}, {made['cpu_count']} CPU cores; {packages}.",
            "note",
        )
    ]
