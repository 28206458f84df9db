"""A tiny world for falsifiers: prompts of letters, answers of letters, a model of 0.1 M weights."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from typing import Any

import torch

from cream.algorithms.objective import Objective
from cream.algorithms.preference import supervised
from cream.engines.scorer import TorchScorer
from cream.models.chat import ChatEncoder
from cream.recipe.training import SftConfig, TrainingConfig
from cream.stages.transform import score_examples, with_references
from cream.testing import tiny_model, tiny_tokenizer
from cream.training.examples import completion_example
from cream.training.train import TrainingSummary, train
from cream.types import (
    Completion,
    Example,
    FinishReason,
    Message,
    Prompt,
    RankedPair,
    ScoringRequest,
)

LETTERS = string.ascii_lowercase


@cache
def encoder() -> ChatEncoder:
    """Byte by byte, in ChatML."""
    return ChatEncoder(tiny_tokenizer())


def prompt(text: str) -> Prompt:
    """A question."""
    return Prompt(text, (Message("user", text),))


def prompts(count: int, seed: int) -> list[str]:
    """Different words of three letters."""
    draw = random.Random(seed)
    words = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
    return draw.sample(words, count)


def text_pair(
    name: str,
    asked: Prompt,
    said: Sequence[str],
    by: ChatEncoder | None = None,
    *,
    rewards: tuple[float, float] = (1.0, 0.0),
    columns: Mapping[str, float] | None = None,
) -> RankedPair:
    """A pair of two texts, the first one chosen, without sums under any reference."""
    by = by or encoder()
    sides = [
        Completion(
            name,
            f"{name}-{k}",
            by.encode_completion(asked.messages, text),
            text,
            FinishReason.STOP,
            0,
        )
        for k, text in enumerate(said)
    ]
    ids, unknown = by.encode_prompt(asked.messages), float("nan")
    return RankedPair(name, asked, ids, *sides, *rewards, 1.0, 1.0, unknown, unknown, columns or {})


def pair_sums(model: Any, pairs: Sequence[RankedPair]) -> torch.Tensor:
    """Log-prob sums of both sides of pairs, [pair, side], float64."""
    asked = [(p.prompt_token_ids, s.token_ids) for p in pairs for s in (p.chosen, p.rejected)]
    return sums(model, asked).reshape(-1, 2)


def fine_tuned(pairs: Sequence[tuple[str, str]], *, seed: int, epochs: int, rate: float) -> Any:
    """A random model that has seen prompts with answers."""
    model = tiny_model(seed=seed)
    examples = [
        completion_example(
            f"{i}",
            encoder().encode_prompt(prompt(question).messages),
            encoder().encode_completion(prompt(question).messages, answer),
        )
        for i, (question, answer) in enumerate(pairs)
    ]
    settings = SftConfig(
        epochs=epochs,
        optimiser={"learning_rate": rate, "batch_size": 32},
        compute={"precision": "float32"},
    )
    train(model, examples, supervised(), settings, seed=seed)
    return model.eval()


def preferred(
    model: Any,
    examples: Sequence[Example],
    objective: Objective,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> TrainingSummary:
    """Train in place for a number of steps of `batch` examples; the learning rate is constant.

    Examples are gone through again and again, each time in another order.
    """
    drawn: list[Example] = []
    for again in range(-(-steps * batch // len(examples))):
        order = random.Random(1000 * seed + again).sample(examples, len(examples))
        drawn += [replace(e, example_id=f"{again}: {e.example_id}") for e in order]
    settings = TrainingConfig(
        epochs=1,
        optimiser={
            "learning_rate": rate,
            "batch_size": batch,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
        },
        compute={"precision": "float32"},
    )
    summary = train(model, drawn[: steps * batch], objective, settings, seed=seed)
    model.eval()
    return summary


def cost(summary: TrainingSummary, *, seen: int) -> dict[str, float]:
    """Tokens per pair that a training ran through the model, and its microseconds per token.

    Args:
        summary: Of the training.
        seen: Pairs over all its steps.
    """
    return {
        "tokens per pair": summary.real_tokens / seen,
        "us per token": 1e6 * summary.seconds / summary.real_tokens,
    }


def scored(model: Any, examples: Sequence[Example]) -> list[Example]:
    """Examples with the sums of sequences that have none, under a model."""
    return list(with_references(examples, score_examples(examples, TorchScorer(model))))


def sums(model: Any, asked: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> torch.Tensor:
    """Log-prob sums of completions after prompts, ids, float64."""
    runs = [(ids, list(same)) for ids, same in groupby(asked, key=lambda one: one[0])]
    requests = [
        ScoringRequest(str(i), ids, tuple(completion for _, completion in same))
        for i, (ids, same) in enumerate(runs)
    ]
    found = {
        g.prompt_id: [float(one.sum()) for one in g.token_logps]
        for g in TorchScorer(model).score(requests)
    }
    ordered = [value for i in range(len(runs)) for value in found[str(i)]]
    return torch.tensor(ordered, dtype=torch.float64)
