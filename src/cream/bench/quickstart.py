"""The quickstart's own prompts and short answers, read from its recipe."""

from __future__ import annotations

from pathlib import Path

from cream.bench.sampling import Workload, short_answers
from cream.bench.subject import Subject, load_subject
from cream.data.dataset import load_data
from cream.errors import RunError
from cream.protocols import SamplingParams
from cream.recipe import load_recipe


def quickstart_subject(recipe_path: Path, trained: Path | None, cache_dir: Path) -> Subject:
    """Load the model that answers: M1 of a finished run, else M0 under the recipe's template.

    Raises:
        RunError: The run has no M1.
    """
    config = load_recipe(recipe_path).model
    if trained is not None:
        folder = trained / "models" / "M1"
        if not folder.is_dir():
            raise RunError(f"{folder} is missing; name a finished run of {recipe_path}")
        config = config.model_copy(update={"name": str(folder), "revision": None})
    return load_subject(config, cache_dir)


def quickstart_workload(
    recipe_path: Path, subject: Subject, *, trained: bool, quick: bool
) -> Workload:
    """The first prompts of iteration 1 with the recipe's sampling settings.

    Raises:
        DataError: The data cannot be read.
        DependencyError: reasoning-gym is not installed.
    """
    recipe = load_recipe(recipe_path)
    data = load_data(recipe.data, seed=recipe.seed, iterations=1, base_dir=recipe_path.parent)
    count = 16 if quick else 64
    prompts = [subject.encoder.encode_prompt(p.messages) for p in data.prompts_for(1)[:count]]
    sampling = recipe.sampling
    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_completion_tokens=sampling.max_completion_tokens,
        stop_ids=subject.encoder.stop_ids,
    )
    by = "M1, which answers shortly" if trained else "M0, which was not tuned to answer shortly"
    return short_answers(prompts, sampling.num_completions, params, answered_by=by)
