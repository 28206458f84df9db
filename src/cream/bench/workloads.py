"""The inputs of the cases: ordinary English, the same on every machine, with stated lengths.

Nothing is drawn at random from the vocabulary: a model is far less sure of random tokens than of
text, and how sure it is decides how much work the nucleus is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from cream.models.chat import ChatEncoder
from cream.types import Message, SamplingRequest, ScoringRequest

SUBJECTS = (
    "rain", "bread", "the moon", "a bicycle", "wool", "glass", "a lighthouse", "honey",
    "the tide", "paper", "salt", "a clock", "thunder", "coffee", "a bridge", "snow",
)  # fmt: skip
QUESTIONS = (
    "Explain in a few sentences how {} comes to be, as you would to a child.",
    "Write the opening of a short story in which {} matters more than anyone thinks.",
    "List three things that most people get wrong about {} and say what is true.",
    "What would a day without {} be like? Answer with one concrete example.",
)
PASSAGE = (
    "The harbour lay quiet in the early light, and the boats that had come in overnight were "
    "unloading their catch. An old man counted the crates twice, wrote the number in a small book, "
    "and told the driver that the road to the market was closed beyond the mill. Nobody hurried. "
    "Bread was still warm at the bakery, the school bell had not rung, and the ferry would not "
    "leave before nine, because the captain had gone to look for his hat. "
)


def prompts(encoder: ChatEncoder, count: int) -> list[tuple[int, ...]]:
    """Different short prompts, encoded, the generation prompt included; at most 64."""
    pairs = [(question, subject) for question in QUESTIONS for subject in SUBJECTS]
    texts = [question.format(subject) for question, subject in pairs]
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    return [encoder.encode_prompt([Message("user", texts[index])]) for index in order]


def long_prompts(encoder: ChatEncoder, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Prompts of exactly these lengths: a passage before the question, its middle cut out."""
    return [
        _fitted(encoder, f"{index}. {PASSAGE}", length) for index, length in enumerate(lengths, 1)
    ]


def _fitted(encoder: ChatEncoder, text: str, length: int) -> tuple[int, ...]:
    ids = encoder.encode_prompt([Message("user", text)])
    tail = _common_end(ids, encoder.encode_prompt([Message("user", "x")]))
    if length <= tail + 1:
        raise ValueError(f"a prompt of {length} tokens leaves no room for the template's {tail}")
    body, wanted = ids[: len(ids) - tail], length - tail
    filled = tuple(islice(cycle(body[len(body) // 2 :]), max(0, wanted - len(body))))
    return (*(body + filled)[:wanted], *ids[len(ids) - tail :])


def _common_end(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def completions(encoder: ChatEncoder, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Different pieces of text of exactly these lengths, each ending with the end token."""
    ids = encoder.encode_completion([Message("user", "x")], PASSAGE.strip())[:-1]
    pieces = []
    for index, length in enumerate(lengths):
        start = index % len(ids)  # so that pieces of one prompt are no duplicates
        turned = islice(cycle(ids), start, start + length - 1)
        pieces.append((*turned, encoder.end_of_turn_id))
    return pieces


def sampling_requests(prompt_ids: Sequence[tuple[int, ...]], n: int) -> list[SamplingRequest]:
    """Ask for n completions of each prompt."""
    return [
        SamplingRequest(f"p{index}", ids, tuple(range(index * n, (index + 1) * n)))
        for index, ids in enumerate(prompt_ids)
    ]


def scoring_requests(
    encoder: ChatEncoder,
    count: int,
    n: int,
    prompt_range: tuple[int, int],
    completion_range: tuple[int, int],
) -> list[ScoringRequest]:
    """Prompts with n completions each, lengths uniform in the ranges (ends included), seed 0."""
    draw = np.random.default_rng(0)
    prompt_lengths = draw.integers(*prompt_range, count, endpoint=True).tolist()
    completion_lengths = draw.integers(*completion_range, count * n, endpoint=True).tolist()
    prompt_ids = long_prompts(encoder, prompt_lengths)
    pieces = completions(encoder, completion_lengths)
    return [
        ScoringRequest(f"p{index}", ids, tuple(pieces[index * n : (index + 1) * n]))
        for index, ids in enumerate(prompt_ids)
    ]
