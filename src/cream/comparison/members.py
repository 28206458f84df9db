"""Who takes part in a comparison: methods by name or with options, times seeds.

Every member is a recipe of its own, validated here, before anything is opened. Needs no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.load import apply_overrides, read_values, validate_recipe
from cream.runs.files import read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a method of a comparison may be called: it names a folder."""
METHOD = re.compile(r"(\w+)\s*(\{.*\})?", re.DOTALL)
"""A method as written after ``--methods``: its name, and its options as a YAML mapping."""
DECIDED_HERE = {"method": "--methods", "seed": "--seeds", "run_dir": "--out"}
"""Settings that differ between members, and the option that gives them."""


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method that takes part."""

    name: str
    """What it is called in the comparison."""
    folder: str
    """Folder of its runs in the comparison's."""
    method: Mapping[str, Any]
    """``name`` of the method, and options."""


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One run of a comparison."""

    choice: MethodChoice
    recipe: Recipe

    @property
    def label(self) -> str:
        """Method and seed, for people."""
        return f"{self.choice.name}, seed {self.recipe.seed}"


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """A comparison, before it runs."""

    root: Path
    """Its folder."""
    name: str
    """Name of the recipe; members add method and seed to it."""
    members: tuple[PlannedMember, ...]
    """Seed by seed, in the order of the methods."""
    baseline: str
    """Name of the method that the others are compared with."""


def parse_methods(text: str) -> tuple[MethodChoice, ...]:
    """Read ``cream,srlm,cream_sample{level: shrunken}``.

    Raises:
        RecipeError: It is empty, a part is not of this form, or two would use one folder.
    """
    choices = []
    for part in filter(None, map(str.strip, _split(text))):
        found = METHOD.fullmatch(part)
        if found is None:
            raise RecipeError(
                f"--methods: {part!r} is not a method's name, alone or with options as in "
                "cream_sample{level: shrunken}"
            )
        options = _options(part, found[2]) if found[2] else {}
        folder = re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.")
        choices.append(MethodChoice(part, folder, {"name": found[1], **options}))
    return _told_apart(choices, "--methods")


def read_methods(path: Path) -> tuple[MethodChoice, ...]:
    """Read a file that lists methods under names of one's own.

    .. code-block:: yaml

        methods:
          - {name: paper, method: cream}
          - name: cautious
            method: {name: cream_sample, level: shrunken}

    Raises:
        RecipeError: It is not such a file, or two entries have one name.
    """
    entries = read_yaml(path).get("methods") if path.exists() else None
    if not isinstance(entries, list):
        raise RecipeError(
            f"{path} does not list methods; write `methods:` and under it entries such as "
            "`- {name: paper, method: cream}`"
        )
    choices = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or set(entry) != {"name", "method"}:
            raise RecipeError(f"{path}: methods.{place} must have `name` and `method`, no more")
        name, method = entry["name"], entry["method"]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise RecipeError(
                f"{path}: methods.{place}.name {name!r} must begin with a letter or digit and have "
                "letters, digits, dots, dashes and underscores only"
            )
        given = {"name": method} if isinstance(method, str) else method
        if not isinstance(given, Mapping) or "name" not in given:
            raise RecipeError(
                f"{path}: methods.{place}.method must be a method's name, or a mapping with one"
            )
        choices.append(MethodChoice(name, name, dict(given)))
    return _told_apart(choices, str(path))


def make_plan(
    path: Path,
    overrides: Sequence[str],
    choices: Sequence[MethodChoice],
    *,
    seeds: Sequence[int] | None = None,
    baseline: str | None = None,
    root: Path | None = None,
) -> ComparisonPlan:
    """Every method with every seed as a recipe.

    A method that is also the recipe's own begins with the options written there. Overrides are
    applied to each member, after its method is put in.

    Args:
        path: Recipe file.
        overrides: ``a.b=c`` changes for all members.
        choices: Methods.
        seeds: Seeds; None for the recipe's.
        baseline: Name of the method that the others are compared with; None for the first.
        root: Folder of the comparison; None for the run's, with ``-compare`` at its end.

    Raises:
        RecipeError: A member's recipe is not valid, two members are equal, an override sets what
            the comparison sets, or the baseline does not take part.
    """
    _refuse_decided_here(overrides)
    for_methods = [o for o in overrides if o.strip().startswith("method.")]
    others = [o for o in overrides if o not in for_methods]
    values = apply_overrides(read_values(path), others)
    all_seeds = (values.get("seed", 0),) if seeds is None else tuple(seeds)
    if len(set(all_seeds)) < len(all_seeds) or not all_seeds:
        listing = ", ".join(map(str, all_seeds)) or "none"
        raise RecipeError(f"--seeds must name each seed once; it names {listing}")
    names = [choice.name for choice in choices]
    if baseline is not None and baseline not in names:
        raise RecipeError(f"--baseline {baseline} is none of the methods: {', '.join(names)}")
    default = f"runs/{values.get('name')}"
    folder = root or Path(f"{values.get('run_dir') or default}-compare")
    members = tuple(
        _member(path, values, for_methods, choice, seed, folder)
        for seed in all_seeds
        for choice in choices
    )
    _refuse_equal(members[: len(choices)])
    return ComparisonPlan(folder, str(values.get("name")), members, baseline or names[0])


def _refuse_decided_here(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in DECIDED_HERE:
            raise RecipeError(
                f"--set {override}: members of a comparison differ in {key}; give "
                f"{DECIDED_HERE[key]} instead"
            )


def _member(
    path: Path,
    values: Mapping[str, Any],
    overrides: Sequence[str],
    choice: MethodChoice,
    seed: int,
    root: Path,
) -> PlannedMember:
    own = values.get("method")
    written = own if isinstance(own, Mapping) and own.get("name") == choice.method["name"] else {}
    mine: dict[str, Any] = {
        "method": {**written, **choice.method},
        "seed": seed,
        "run_dir": str(root / choice.folder / f"seed-{seed}"),
    }
    if isinstance(values.get("name"), str):  # else it is reported as missing, or as no text
        mine["name"] = f"{values['name']}-{choice.folder}-seed-{seed}"
    try:
        recipe = validate_recipe(apply_overrides({**values, **mine}, overrides), source=str(path))
    except RecipeError as error:
        raise RecipeError(f"method {choice.name} of the comparison: {error}") from error
    return PlannedMember(choice, recipe)


def _refuse_equal(members: Sequence[PlannedMember]) -> None:
    for place, member in enumerate(members):
        for other in members[:place]:
            if member.recipe.method == other.recipe.method:
                raise RecipeError(
                    f"{other.choice.name} and {member.choice.name} are the same method with the "
                    "same options; name it once"
                )


def _told_apart(choices: Sequence[MethodChoice], where: str) -> tuple[MethodChoice, ...]:
    if not choices:
        raise RecipeError(f"{where} names no method; `--methods cream,srlm` compares two")
    (folder, count), *_ = Counter(choice.folder for choice in choices).most_common(1)
    if count > 1:
        raise RecipeError(
            f"{where}: {count} methods would be kept in the folder {folder!r}; name each once, or "
            "give them names of their own in a file (--methods-file)"
        )
    return tuple(choices)


def _options(part: str, text: str) -> dict[str, Any]:
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--methods: the options of {part!r} are not YAML: {error}") from error
    if not isinstance(options, dict) or "name" in options:
        raise RecipeError(f"--methods: {part!r} must have options as in {{level: shrunken}}")
    return options


def _split(text: str) -> list[str]:
    """Cut at commas that stand outside of brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "{[") - (char in "}]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts
