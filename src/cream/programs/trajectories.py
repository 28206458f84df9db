"""Seed data for trajectories: sample a model's own answers to the seed prompts, and write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cream.data.dataset import load_data
from cream.data.trajectories import WRITTEN, Check, build_trajectories
from cream.data.verifiers import PromptVerifier
from cream.engines.engine import choose_engine, open_engine
from cream.errors import DataError, RecipeError
from cream.loop.context import encode_prompts
from cream.loop.stage_runner import batched
from cream.preflight.models import open_models
from cream.protocols import Progress, SamplingParams
from cream.recipe import Recipe
from cream.runs.files import replacing_file
from cream.runs.seeds import derive_seed
from cream.stages.sample import sample
from cream.types import Completion, Prompt, Tally, counts


@dataclass(frozen=True, slots=True)
class Drawing:
    """Whose answers, how many, and how."""

    model: str | None = None
    """None: the recipe's M0."""
    num_samples: int = 5
    """Per prompt."""
    temperature: float = 0.7
    """With top-p 1."""


def write_trajectories(
    recipe: Recipe,
    out: Path,
    drawing: Drawing,
    *,
    most_rounds: int,
    check: Check | None = None,
    base_dir: Path,
    cache_dir: Path,
    progress: Progress,
) -> Tally:
    """Write a seed file of trajectories for a recipe whose method reads them.

    Args:
        recipe: Its phrases, seed prompts (with answers and a verifier), model and limits.
        out: JSONL file.
        drawing: Of the answers.
        most_rounds: Solutions in a trajectory.
        check: See `build_trajectories`.
        base_dir: Folder that relative data paths start from.
        cache_dir: Cream's cache.
        progress: Shows what happens.

    Returns:
        Seed prompts by what became of them.

    Raises:
        RecipeError: The method cuts no completions.
        DataError: No prompt has an answer, or none was answered rightly.
    """
    rule = recipe.parts(1).trajectory
    if rule is None:
        raise RecipeError(
            f"method {recipe.method.name} reads no trajectories; set method: s2r, whose phrases "
            "they are written with"
        )
    verifier = PromptVerifier()
    prompts = _prompts(recipe, verifier, base_dir)
    groups = _sampled(recipe, list(prompts.values()), drawing, base_dir, cache_dir, progress)
    samples = [(prompts[group[0].prompt_id], group) for group in groups]
    rows, tally = build_trajectories(
        samples, verifier, rule.phrases, check=check, most_rounds=most_rounds
    )
    if not rows:
        told = counts(tally.parts)
        raise DataError(
            f"no trajectory could be written of {tally.total} seed prompts ({told}); take easier "
            "prompts, more --samples, or another --model"
        )
    with replacing_file(out) as temporary:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")
    progress.finish(f"{tally.parts[WRITTEN]} of {tally.total} prompts written to {out}")
    return tally


def _prompts(recipe: Recipe, verifier: PromptVerifier, base_dir: Path) -> dict[str, Prompt]:
    data = load_data(recipe.data, seed=recipe.seed, iterations=1, base_dir=base_dir)
    prompts = {e.prompt.prompt_id: e.prompt for e in data.seed_examples}
    if all(verifier.verify(prompt, "") is None for prompt in prompts.values()):
        raise DataError(
            f"none of {len(prompts)} seed prompts can be verified; give the sources of data.seed a "
            "`verifier` and their rows an `answer`"
        )
    return prompts


def _sampled(
    recipe: Recipe,
    prompts: list[Prompt],
    drawing: Drawing,
    base_dir: Path,
    cache_dir: Path,
    progress: Progress,
) -> Iterator[list[Completion]]:
    settings, model = recipe.sampling, recipe.model
    if drawing.model is not None:
        named = {"name": drawing.model, "revision": None, "from_scratch": None}
        model = model.model_copy(update=named)
    checkpoints, encoder = open_models(model, base_dir, cache_dir)
    limit = settings.max_completion_tokens
    encoded = encode_prompts(prompts, encoder, checkpoints.context_length, limit)
    choice = choose_engine(recipe.engine, checkpoints.device)
    opened = open_engine(choice, checkpoints)
    progress.note(f"completions are sampled by {choice}")
    progress.start(f"sample answers of {model.name}", len(prompts), "prompts")
    params = SamplingParams(drawing.temperature, 1.0, limit, encoder.stop_ids)
    with closing(checkpoints):
        for shard in batched(encoded, settings.prompts_per_shard):
            yield from sample(
                shard,
                opened.sampler("M0"),
                params,
                num_completions=drawing.num_samples,
                seed_of=lambda key, k: derive_seed(recipe.seed, "trajectories", key, k),
                decode=encoder.decode,
            )
            progress.advance(len(shard))
