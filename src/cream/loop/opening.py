"""Opening a run: everything that can be wrong is found before a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from cream.data.dataset import load_data
from cream.data.verifiers import PromptVerifier
from cream.errors import DataError, RecipeError, RunError
from cream.loop.context import Context
from cream.loop.models import open_models
from cream.loop.score_columns import VERIFIER, check_score_columns
from cream.loop.scorer_models import open_scorers
from cream.models.fingerprints import model_fingerprint, stored_parameters
from cream.protocols import Progress
from cream.recipe import Recipe
from cream.recipe.parts import Calibrated
from cream.runs.files import remove_leftovers, write_json
from cream.runs.manifest import build_manifest
from cream.runs.store import RECIPE, Run

BYTES_PER_WEIGHT = 4
"""Checkpoints and the training state are float32."""


def may_change(key: str) -> bool:
    """Recipe keys that may differ from the run directory's: they do not touch finished stages."""
    return key in ("iterations", "keep_checkpoints", "run_dir") or key.endswith(
        ".save_state_every_minutes"
    )


def open_context(
    recipe: Recipe, run: Run, progress: Progress, *, base_dir: Path, cache_dir: Path
) -> Context:
    """Check recipe, data, tokenizer, run directory and disk; load no weights.

    Args:
        recipe: What to run.
        run: Where; held by the caller (`Run.locked`).
        progress: Shows what happens.
        base_dir: Folder that relative data paths start from.
        cache_dir: Where the embedded model is, or will be fetched to.

    Raises:
        CreamError: One of the categories of exit code 2, naming what is wrong.
    """
    resolved = recipe.model_dump(mode="json")
    remove_leftovers(run.root)
    if (run.root / RECIPE).exists():
        run.claim(resolved, may_change=may_change)
    data = load_data(recipe.data, seed=recipe.seed, iterations=recipe.iterations, base_dir=base_dir)
    shelf, encoder = open_models(recipe.model, run.root / "models", cache_dir)
    for text in encoder.notes:
        progress.note(text)
    context = Context(
        recipe=recipe,
        run=run,
        data=data,
        encoder=encoder,
        shelf=shelf,
        progress=progress,
        seed_model_fingerprint=model_fingerprint(shelf.seed_folder),
        verifier=PromptVerifier(),
        scorers=open_scorers(recipe, shelf, encoder, cache_dir),
    )
    _check_models(context)
    _check_calibration(context)
    check_score_columns(context)
    _check_lengths(context)
    _check_answers(context)
    _check_disk(context)
    run.claim(resolved, may_change=may_change)  # last: a recipe found wrong can be mended in place
    inputs = {
        "M0": context.seed_model_fingerprint,
        "template": context.template_fingerprint,
        **context.scorers.fingerprints,
    }
    write_json(run.root / "manifest.json", build_manifest(resolved, inputs))
    return context


def _check_models(context: Context) -> None:
    """A method that names a model which the run will not have fails now, not after sampling."""
    witnesses = tuple(context.recipe.witnesses)
    for t in range(1, context.recipe.iterations + 1):
        made = {*(f"M{m}" for m in range(t + 1)), *witnesses}
        unknown = [name for name in context.columns(t) if name not in made]
        if unknown:
            raise RecipeError(
                f"method {context.recipe.method.name} asks {', '.join(unknown)} at iteration {t}; "
                f"models there: M0 to M{t}, and the witnesses of the recipe "
                f"({', '.join(witnesses) or 'none'}). Add it under `witnesses`"
            )


def _check_calibration(context: Context) -> None:
    """A method whose C is calibrated needs something to calibrate it on."""
    agreement = context.parts(1).agreement
    calibrated = agreement is not None and isinstance(agreement.level, Calibrated)
    if calibrated and context.recipe.calibration is None:
        raise RecipeError(
            f"method {context.recipe.method.name} calibrates C on held-out seed examples and there "
            "are none; add a section `calibration: {seed_share: 0.2}`"
        )


def _check_lengths(context: Context) -> None:
    """Encode every prompt and seed example once, so that none fails hours later."""
    recipe = context.recipe
    for t in range(1, recipe.iterations + 1):
        context.encode(context.prompts(t), recipe.sampling.max_completion_tokens)
    if recipe.calibration is not None:
        held_out = context.calibration_set().prompts
        context.encode(held_out, recipe.sampling.max_completion_tokens)
    context.encode(context.data.test, recipe.evaluation.max_completion_tokens)
    for example in context.data.seed_examples:
        context.encoder.encode_completion(example.prompt.messages, example.completion)


def _check_answers(context: Context) -> None:
    """A method that ranks by the verifier needs prompts that can be verified."""
    for t in range(1, context.recipe.iterations + 1):
        if VERIFIER not in context.parts(t).score_columns:
            continue
        prompts = context.prompts(t)
        if all(context.verifier.verify(prompt, "") is None for prompt in prompts):
            raise DataError(
                f"method {context.recipe.method.name} ranks by the verifier, and none of the "
                f"{len(prompts)} prompts of iteration {t} can be verified; give the sources of "
                "data.prompts a `verifier` and their rows an answer"
            )


def _check_disk(context: Context) -> None:
    weights = stored_parameters(context.shelf.seed_folder) * BYTES_PER_WEIGHT
    witnesses = len(context.recipe.witnesses)  # kept whatever keep_checkpoints says
    made = context.recipe.iterations + 1
    at_once = 4 if context.recipe.training.loss_reference == "sft" else 3  # M_{t-1} to M_{t+1}
    kept = made if context.recipe.keep_checkpoints == "all" else min(made, at_once)
    kept += witnesses
    existing = len(list(context.shelf.folder.glob("*")))
    training_state = 3 * weights  # parameters and two moments, while a stage trains
    needed = max(kept - existing, 0) * weights + training_state
    free = shutil.disk_usage(context.run.root).free
    if free < needed:
        raise RunError(
            f"{context.run.root} needs about {needed / 1e9:.1f} GB for {kept} checkpoints and the "
            f"training state, {free / 1e9:.1f} GB are free; free some, or set keep_checkpoints: "
            "last"
        )
