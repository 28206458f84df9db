"""The study: when does a model gain from itself, and what tells its right labels from wrong ones.

    python scripts/study.py run --short           # five arms and a control, three seeds, `reverse`
    python scripts/study.py run --families reverse,sort --seeds 11,12,13
    python scripts/study.py report                # docs/results/study.md from the stored records

Arms are data (`scripts/study.yaml`); every family of tasks is `recipes/reversal.yaml` with the
task's name exchanged. A family's groups are comparisons as `cream compare` makes them: resumable,
with what is equal made once. Nothing here decides a result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ARMS, RECIPE = ROOT / "scripts/study.yaml", ROOT / "recipes/reversal.yaml"
TASK = "reverse"
"""The task that the recipe names, and on which every choice was made."""
SEEDS = (11, 12, 13)


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--out", type=Path, default=ROOT / "runs/study")
    parser.add_argument("--families", default=TASK)
    parser.add_argument("--groups", default="", help="of arms; all, or those of the variant")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--short", action="store_true", help="only arms marked `short`")
    parser.add_argument("--arms", default="", help="only these; all, or those of the variant")
    parser.add_argument("--set", action="append", default=[], help="override of every recipe")
    parser.add_argument("--variant", default="", help="one of scripts/study.yaml's")
    given = parser.parse_args()
    if given.what == "report":
        from study_report import write_report

        write_report(given.out, ROOT / "docs/results")
        return
    for family in given.families.split(","):
        run_family(given, family)


def run_family(given: argparse.Namespace, family: str) -> None:
    """All groups of one family of tasks, with the M0 that they share."""
    arms, text = (
        path.read_text(encoding="utf-8").replace(f"name: {TASK},", f"name: {family},")
        for path in (ARMS, RECIPE)
    )
    arms = yaml.safe_load(arms)
    folder = given.out / (f"{family}-{given.variant}" if given.variant else family)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    begun = time.monotonic()
    variant = arms["variants"][given.variant] if given.variant else {}
    sets = [*variant.get("set", ()), *given.set]
    groups = given.groups or variant.get("groups", ",".join(arms["groups"]))
    only = given.arms or variant.get("arms", "")
    for_all = [override for override in sets if not override.startswith("method.")]
    seed_model = make_seed_model(recipe, folder / "seed-model", [*for_all, *arms["seed_model"]])
    for group in groups.split(","):
        there = arms["groups"][group]["arms"]
        chosen = [
            arm
            for arm in there
            if (arm.get("short", False) or not given.short)
            and (not only or arm["name"] in only.split(","))
        ]
        if not chosen:
            continue
        overrides = [
            *arms["groups"][group]["set"],
            *(override for override in sets if not override.startswith("model.")),
            f"model={{name: {seed_model.resolve()}, device: cpu, compute_dtype: float32}}",
        ]
        compare(recipe, folder / group, chosen, overrides, [int(s) for s in given.seeds.split(",")])
        conclude(folder / group, [arm["name"] for arm in there])
    record(folder, family, given.variant, time.monotonic() - begun)


def make_seed_model(recipe: Path, folder: Path, overrides: Sequence[str]) -> Path:
    """M0 of the study: the model from scratch, fine-tuned on short strings."""
    from cream.cache import cache_dir
    from cream.cli.console import ConsoleProgress, messages
    from cream.loop.iterations import run_iteration
    from cream.preflight.opening import open_context
    from cream.recipe import load_recipe
    from cream.runs.store import Run

    loaded = load_recipe(recipe, [*overrides, f"run_dir={folder}", "iterations=1"])
    progress, run = ConsoleProgress(messages(quiet=False)), Run(folder)
    with run.locked():
        context = open_context(loaded, run, progress, base_dir=recipe.parent, cache_dir=cache_dir())
        run_iteration(context, 0)
    progress.close()
    return folder / "models/M1"


def compare(
    recipe: Path,
    folder: Path,
    arms: Sequence[Mapping[str, Any]],
    overrides: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Some arms of a group as a comparison; what the folder holds already is kept."""
    from cream.cache import cache_dir
    from cream.cli.console import ConsoleProgress, messages
    from cream.comparison.members import make_plan, read_methods
    from cream.comparison.running import run_comparison

    listed = folder.with_suffix(".methods.yaml")
    methods = [{"name": arm["name"], "method": arm["method"]} for arm in arms]
    listed.write_text(yaml.safe_dump({"methods": methods}), encoding="utf-8")
    plan = make_plan(recipe, overrides, read_methods(listed), seeds=seeds, root=folder)
    progress = ConsoleProgress(messages(quiet=False))
    run_comparison(plan, progress, base_dir=recipe.parent, cache_dir=cache_dir())
    progress.close()


def conclude(folder: Path, arms: Sequence[str]) -> None:
    """Compare every arm and seed that the folder holds whole, not those of this call alone."""
    from cream.report.comparison import comparers_of, summarise_comparison
    from cream.runs.files import write_json, write_sealed
    from cream.runs.reader import RunReader
    from cream.runs.sharing import COMPARISON, MethodFolder

    comparers, _ = comparers_of(folder)
    whole: dict[str, set[int]] = {}
    for arm in arms:
        runs = [RunReader(path.parent) for path in (folder / arm).glob("*/recipe.yaml")]
        ended = [run for run in runs if f"M{run.recipe.iterations + 1}" in run.evaluations]
        if ended:
            whole[arm] = {run.recipe.seed for run in ended}
    told = {
        "baseline": next(iter(whole)),
        "seeds": sorted(set().union(*whole.values())),
        "methods": [MethodFolder(name=arm, folder=arm) for arm in whole],
    }
    write_sealed(folder / COMPARISON, comparers.model_copy(update=told).as_json())
    write_json(folder / "comparison.json", summarise_comparison(folder).as_json())


def record(folder: Path, family: str, variant: str, seconds: float) -> None:
    """Where and how it ran; the seconds of every call add up."""
    from cream.runs.manifest import describe_environment

    path = folder / "study.json"
    before = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
    told = {
        "family": family,
        "variant": variant,
        "seconds": before + seconds,
        "environment": describe_environment(),
    }
    path.write_text(json.dumps(told, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
