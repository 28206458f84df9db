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
    parser.add_argument("--groups", default="whole,halves,thirds,published,greedy,known")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--short", action="store_true", help="only arms marked `short`")
    parser.add_argument("--arms", default="", help="only these arms")
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
    sets = [*(arms["variants"][given.variant] if given.variant else ()), *given.set]
    for_all = [override for override in sets if not override.startswith("method.")]
    seed_model = make_seed_model(recipe, folder / "seed-model", [*for_all, *arms["seed_model"]])
    for group in given.groups.split(","):
        chosen = [
            arm
            for arm in arms["groups"][group]["arms"]
            if (arm.get("short", False) or not given.short)
            and (not given.arms or arm["name"] in given.arms.split(","))
        ]
        if not chosen:
            continue
        overrides = [
            *arms["groups"][group]["set"],
            *(override for override in sets if not override.startswith("model.")),
            f"model={{name: {seed_model.resolve()}, device: cpu, compute_dtype: float32}}",
        ]
        compare(recipe, folder / group, chosen, overrides, [int(s) for s in given.seeds.split(",")])
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
    """One group as a comparison; what the folder holds already is kept, and reported with it."""
    from cream.cache import cache_dir
    from cream.cli.console import ConsoleProgress, messages
    from cream.comparison.members import make_plan, read_methods
    from cream.comparison.running import run_comparison
    from cream.report.comparison import comparers_of, summarise_comparison
    from cream.runs.files import write_json, write_sealed
    from cream.runs.sharing import COMPARISON

    listed = folder.with_suffix(".methods.yaml")
    methods = [{"name": arm["name"], "method": arm["method"]} for arm in arms]
    listed.write_text(yaml.safe_dump({"methods": methods}), encoding="utf-8")
    plan = make_plan(recipe, overrides, read_methods(listed), seeds=seeds, root=folder)
    earlier = comparers_of(folder)[0] if (folder / COMPARISON).exists() else None
    progress = ConsoleProgress(messages(quiet=False))
    run_comparison(plan, progress, base_dir=recipe.parent, cache_dir=cache_dir())
    progress.close()
    if earlier:
        now = comparers_of(folder)[0]
        there = [method for method in earlier.methods if (folder / method.folder).exists()]
        methods = {method.name: method for method in [*there, *now.methods]}
        seeds = sorted({*earlier.seeds, *now.seeds})
        both = earlier.model_copy(update={"seeds": seeds, "methods": list(methods.values())})
        write_sealed(folder / COMPARISON, both.as_json())
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
