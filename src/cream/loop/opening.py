"""Opening a run: everything that can be wrong is found before a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from cream.data.dataset import load_data
from cream.data.verifiers import PromptVerifier
from cream.errors import DataError, RunError
from cream.loop.context import Context
from cream.loop.shelf import ModelShelf
from cream.models.chat import ChatEncoder, read_chat_template
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.fingerprints import model_fingerprint, stored_parameters
from cream.models.folders import resolve_model
from cream.models.loading import context_length, generation_eos_ids, load_config, load_tokenizer
from cream.protocols import Progress
from cream.recipe import Recipe
from cream.recipe.model import ModelConfig
from cream.runs.files import remove_leftovers, write_json
from cream.runs.manifest import build_manifest
from cream.runs.store import RECIPE, Run

VERIFIER = "verifier"
"""Score column that holds verdicts."""
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
    )
    _check_lengths(context)
    _check_answers(context)
    _check_disk(context)
    run.claim(resolved, may_change=may_change)  # last: a recipe found wrong can be mended in place
    inputs = {"M0": context.seed_model_fingerprint, "template": context.template_fingerprint}
    write_json(run.root / "manifest.json", build_manifest(resolved, inputs))
    return context


def open_models(
    config: ModelConfig, folder: Path, cache_dir: Path
) -> tuple[ModelShelf, ChatEncoder]:
    """Find M0 and examine its tokenizer and template.

    Args:
        config: The recipe's model section.
        folder: Where trained models go.
        cache_dir: Cream's cache.
    """
    seed_folder = resolve_model(config, cache_dir)
    template = read_chat_template(config.chat_template)
    shape = load_config(seed_folder, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(
        seed_folder, chat_template=template, trust_remote_code=config.trust_remote_code
    )
    device = pick_device(config.device)
    shelf = ModelShelf(
        folder=folder,
        seed_folder=seed_folder,
        seed_name=config.name,
        tokenizer=tokenizer,
        device=device,
        compute_dtype=pick_compute_dtype(device, config.compute_dtype).dtype,
        context_length=context_length(shape),
        trust_remote_code=config.trust_remote_code,
    )
    return shelf, ChatEncoder(tokenizer, template, eos_ids=generation_eos_ids(seed_folder))


def _check_lengths(context: Context) -> None:
    """Encode every prompt and seed example once, so that none fails hours later."""
    recipe = context.recipe
    for t in range(1, recipe.iterations + 1):
        context.encode(context.data.prompts_for(t), recipe.sampling.max_completion_tokens)
    context.encode(context.data.test, recipe.evaluation.max_completion_tokens)
    for example in context.data.seed_examples:
        context.encoder.encode_completion(example.prompt.messages, example.completion)


def _check_answers(context: Context) -> None:
    """A method that ranks by the verifier needs prompts that can be verified."""
    for t in range(1, context.recipe.iterations + 1):
        if VERIFIER not in context.parts(t).score_columns:
            continue
        prompts = context.data.prompts_for(t)
        if all(context.verifier.verify(prompt, "") is None for prompt in prompts):
            raise DataError(
                f"method {context.recipe.method.name} ranks by the verifier, and none of the "
                f"{len(prompts)} prompts of iteration {t} can be verified; give the sources of "
                "data.prompts a `verifier` and their rows an answer"
            )


def _check_disk(context: Context) -> None:
    weights = stored_parameters(context.shelf.seed_folder) * BYTES_PER_WEIGHT
    made = context.recipe.iterations + 1
    at_once = 4 if context.recipe.training.loss_reference == "sft" else 3  # M_{t-1} to M_{t+1}
    kept = made if context.recipe.keep_checkpoints == "all" else min(made, at_once)
    existing = len(list(context.shelf.folder.glob("M*")))
    training_state = 3 * weights  # parameters and two moments, while a stage trains
    needed = max(kept - existing, 0) * weights + training_state
    free = shutil.disk_usage(context.run.root).free
    if free < needed:
        raise RunError(
            f"{context.run.root} needs about {needed / 1e9:.1f} GB for {kept} checkpoints and the "
            f"training state, {free / 1e9:.1f} GB are free; free some, or set keep_checkpoints: "
            "last"
        )
