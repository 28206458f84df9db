"""How fast this machine samples from, scores under and trains a model: a few seconds of each.

The work is that of the run in miniature: its prompts, its number of completions, its objective and
optimiser, but made-up completions of one given length, so that nothing depends on what the model
happens to say.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError

from cream.algorithms.preference import supervised
from cream.errors import RecipeError
from cream.protocols import Capability, Engine, LogpScorer, Sampler, SamplingParams
from cream.recipe import Recipe
from cream.recipe.objectives import Dpo, ObjectiveConfig
from cream.records import Record
from cream.training.examples import completion_example, pair_example
from cream.training.loop import OnStep
from cream.training.train import train
from cream.types import SamplingRequest, ScoringRequest, TokenSequence

ENOUGH_SECONDS = 0.5
"""A measurement that took this long is taken; shorter ones are repeated with more work."""
STEP_TOKENS = 1024
"""Most tokens of a training step that is timed; longer steps are extrapolated."""
ANSWER_PROMPTS, ANSWER_TOKENS = 8, 64
"""How many prompts M0 answers, and up to which length, to see how long its answers are."""


class StepCost(Record):
    """Seconds of an optimiser step: ``fixed + per_token * tokens``."""

    fixed: Annotated[float, Field(ge=0)]
    per_token: Annotated[float, Field(ge=0)]


class Rates(Record):
    """What was measured."""

    sampled_per_second: float
    """Completion tokens drawn per second, prompts included in the time."""
    scored_per_second: float
    """Prompt and completion tokens scored per second."""
    fine_tuning: StepCost
    training: StepCost
    seed_model_tokens: float | None
    """Mean length of M0's answers; None if half of them were cut off at `ANSWER_TOKENS`."""
    load_seconds: float
    """Reading a model from disk."""
    start_seconds: float
    """Until a model samples: reading it, or starting the process of an engine that has one."""
    peak_bytes: int
    """Most memory that this process (on a GPU: torch) held meanwhile."""
    seconds: float
    """What the measurement took."""


def read_rates(path: Path) -> Rates:
    """Rates of a machine that is not this one.

    Args:
        path: What `cream plan --json` calls ``timing``, as a JSON object, measured or written by
            hand.

    Raises:
        RecipeError: It cannot be read, or lacks something.
    """
    try:
        return Rates.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecipeError(f"--rates: cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RecipeError(
            f"--rates: {path}: {place}: {first['msg']}; it is to hold what `cream plan --json` "
            "calls `timing`"
        ) from error


def measure_rates(
    recipe: Recipe,
    objective: ObjectiveConfig,
    params: SamplingParams,
    prompts: Sequence[tuple[int, ...]],
    length: int,
    engine: Engine,
    load_for_training: Callable[[], Any],
) -> Rates:
    """Measure all rates with the recipe's own model.

    Args:
        recipe: Says how many completions, and how training is optimised.
        objective: Of the preference stage.
        params: Of sampling.
        prompts: Token ids of some prompts, at least one.
        length: Tokens of a completion.
        engine: What samples and scores in the run; its M0 is timed.
        load_for_training: Gives a float32 copy that may be changed.
    """
    begun = time.perf_counter()
    sampler = engine.sampler("M0")
    answers = _answer_tokens(sampler, params, prompts)
    started = time.perf_counter() - begun
    count = recipe.sampling.num_completions
    sampled = _tokens_per_second(
        lambda n: _sample(sampler, params, prompts, length, n, count), most=len(prompts)
    )
    scorer = engine.scorer("M0")
    scored = _tokens_per_second(
        lambda n: _score(scorer, prompts, length, n, count), most=len(prompts)
    )
    del sampler, scorer
    loading = time.perf_counter()
    trained = load_for_training()
    load_seconds = time.perf_counter() - loading  # the second load: the first imports libraries
    fine_tuning = _fine_tuning_cost(trained, recipe, prompts, length)
    training = _training_cost(trained, recipe, objective, prompts, length)
    return Rates(
        sampled_per_second=sampled,
        scored_per_second=scored,
        fine_tuning=fine_tuning,
        training=training,
        seed_model_tokens=answers,
        load_seconds=load_seconds,
        start_seconds=load_seconds if Capability.IN_PROCESS in engine.capabilities else started,
        peak_bytes=peak_memory(),
        seconds=time.perf_counter() - begun,
    )


def peak_memory() -> int:
    """Most bytes held so far: by torch on a GPU if it used one, else by this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def _tokens_per_second(work: Callable[[int], int], most: int) -> float:
    """Do more and more of it (1 to `most` prompts) until it takes long enough."""
    number = 1
    while True:
        begun = time.perf_counter()
        tokens = work(number)
        _wait()
        seconds = time.perf_counter() - begun
        if seconds >= ENOUGH_SECONDS or number >= most:
            return tokens / seconds
        wanted = number * ENOUGH_SECONDS / seconds
        number = min(most, max(2 * number, math.ceil(1.2 * wanted)))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _answer_tokens(
    sampler: Sampler, params: SamplingParams, prompts: Sequence[tuple[int, ...]]
) -> float | None:
    limit = min(ANSWER_TOKENS, params.max_completion_tokens)
    asked = [SamplingRequest(str(i), ids, (i,)) for i, ids in enumerate(prompts[:ANSWER_PROMPTS])]
    groups = sampler.sample(asked, replace(params, max_completion_tokens=limit))
    lengths = [len(group.completions[0].token_ids) for group in groups]
    if limit < params.max_completion_tokens and 2 * lengths.count(limit) >= len(lengths):
        return None
    return sum(lengths) / len(lengths)


def _sample(
    sampler: Sampler,
    params: SamplingParams,
    prompts: Sequence[tuple[int, ...]],
    length: int,
    number: int,
    count: int,
) -> int:
    """Draw `count` completions of exactly `length` tokens for each of `number` prompts."""
    asked = [
        SamplingRequest(str(i), ids, tuple(range(count))) for i, ids in enumerate(prompts[:number])
    ]
    exact = replace(params, max_completion_tokens=length, stop_ids=())
    for _ in sampler.sample(asked, exact):
        pass
    return number * count * length


def _score(
    scorer: LogpScorer,
    prompts: Sequence[tuple[int, ...]],
    length: int,
    number: int,
    count: int,
) -> int:
    asked = [
        ScoringRequest(str(i), ids, tuple(_made_up(ids, length, k) for k in range(count)))
        for i, ids in enumerate(prompts[:number])
    ]
    for _ in scorer.score(asked):
        pass
    return sum(len(r.prompt_token_ids) for r in asked) + number * count * length


def _made_up(prompt: tuple[int, ...], length: int, shift: int) -> tuple[int, ...]:
    """A completion from the tokens of its prompt, another one for another shift."""
    return tuple(islice(cycle(prompt), shift % len(prompt), shift % len(prompt) + length))


def _fine_tuning_cost(
    model: Any, recipe: Recipe, prompts: Sequence[tuple[int, ...]], length: int
) -> StepCost:
    settings = recipe.sft
    batch = _batch(prompts, length, settings.optimiser.batch_size)
    items = [
        completion_example(str(i), ids, _made_up(ids, length, i))
        for i, ids in enumerate(islice(cycle(prompts), 2 * batch + 1))
    ]
    config = settings.model_copy(
        update={
            "epochs": 1,
            "max_length": sys.maxsize,
            "optimiser": settings.optimiser.model_copy(update={"batch_size": batch}),
        }
    )
    tokens = sum(len(e.prompt_token_ids) + length for e in items) / len(items)
    return _step_cost(
        lambda on_step: train(model, items, supervised(), config, seed=0, on_step=on_step),
        batch,
        tokens,
    )


def _training_cost(
    model: Any,
    recipe: Recipe,
    objective: ObjectiveConfig,
    prompts: Sequence[tuple[int, ...]],
    length: int,
) -> StepCost:
    settings = recipe.training
    batch = _batch(prompts, 2 * length, settings.optimiser.batch_size)
    items = [
        pair_example(
            str(i),
            ids,
            TokenSequence(_made_up(ids, length, i), -float(length)),
            TokenSequence(_made_up(ids, length, i + 1), -float(length)),
        )
        for i, ids in enumerate(islice(cycle(prompts), 2 * batch + 1))
    ]
    config = settings.model_copy(
        update={
            "epochs": 1,
            "max_length": sys.maxsize,
            "optimiser": settings.optimiser.model_copy(update={"batch_size": batch}),
        }
    )
    tokens = sum(len(e.prompt_token_ids) + 2 * length for e in items) / len(items)
    # What options add is more tokens of the same kind: the plan counts them at this price.
    extended = objective.additions or objective.optimism
    timed = Dpo().build() if extended else objective.build()
    return _step_cost(
        lambda on_step: train(model, items, timed, config, seed=0, on_step=on_step),
        batch,
        tokens,
    )


def _batch(prompts: Sequence[tuple[int, ...]], rest: int, wanted: int) -> int:
    """Items of a timed step: the recipe's number, or as many as `STEP_TOKENS` allow."""
    longest = max(map(len, prompts)) + rest
    return max(1, min(wanted, STEP_TOKENS // longest))


def _step_cost(train: Callable[[OnStep], Any], batch: int, tokens: float) -> StepCost:
    """Time a training of three steps: a first one, a whole one, and one of a single item."""
    ends: list[float] = []

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        _wait()
        ends.append(time.perf_counter())

    train(on_step)
    whole, single = ends[1] - ends[0], ends[2] - ends[1]
    return step_cost(whole, batch * tokens, single, tokens)


def step_cost(whole: float, whole_tokens: float, single: float, single_tokens: float) -> StepCost:
    """The line through two steps, flat where the longer one was not slower.

    Args:
        whole: Seconds of a step of `whole_tokens`.
        whole_tokens: At least `single_tokens`.
        single: Seconds of a step of `single_tokens`.
        single_tokens: Tokens of one item.
    """
    if whole_tokens <= single_tokens:
        return StepCost(fixed=0.0, per_token=whole / whole_tokens)
    per_token = max(whole - single, 0.0) / (whole_tokens - single_tokens)
    return StepCost(fixed=max(whole - per_token * whole_tokens, 0.0), per_token=per_token)
