"""What is timed: a model, and ordinary English of stated lengths, the same on every machine.

No input is drawn at random from the vocabulary: a model is far less sure of random tokens than of
text, and how sure it is decides how much work the nucleus is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cream.bench.floors import ModelShape, model_shape
from cream.models.chat import ChatEncoder, read_chat_template
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.folders import resolve_model
from cream.models.loading import (
    generation_eos_ids,
    load_model,
    load_tokenizer,
)
from cream.models.positions import context_length
from cream.recipe.model import ModelConfig
from cream.runs.files import replacing_folder
from cream.types import Message, SamplingRequest, ScoringRequest

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with what turns text into its ids."""

    name: str
    folder: Path
    model: Any
    """Causal language model in evaluation mode, in `dtype`."""
    encoder: ChatEncoder
    device: torch.device
    dtype: torch.dtype
    shape: ModelShape
    context_length: int | None
    """Longest sequence in tokens; None if the model states no limit."""

    @property
    def dtype_name(self) -> str:
        """``bfloat16`` or ``float32``."""
        return str(self.dtype).removeprefix("torch.")


def load_subject(config: ModelConfig, cache_dir: Path) -> Subject:
    """Load a model for inference.

    Raises:
        ModelError: It cannot be used.
    """
    folder = resolve_model(config, cache_dir)
    template = read_chat_template(config.chat_template)
    tokenizer = load_tokenizer(
        folder, chat_template=template, trust_remote_code=config.trust_remote_code
    )
    device = pick_device(config.device)
    dtype = pick_compute_dtype(device, config.compute_dtype).dtype
    model = load_model(
        folder, dtype=dtype, device=device, trust_remote_code=config.trust_remote_code
    )
    encoder = ChatEncoder(tokenizer, template, eos_ids=generation_eos_ids(folder))
    return Subject(
        config.name,
        folder,
        model,
        encoder,
        device,
        dtype,
        model_shape(model.config),
        context_length(model.config),
    )


SHAPES = {
    "random-llama-40m": (288, 768, 16, 9, 3),
    "random-llama-360m": (960, 2560, 32, 15, 5),
    "random-llama-1b": (2048, 8192, 16, 32, 8),
}
"""Hidden size, intermediate size, layers, heads, key-value heads: a small one, SmolLM2-360M
and Llama-3.2-1B. All have the vocabulary of the tokenizer that they are given."""


def random_model(name: str, tokenizer_from: Path, cache_dir: Path) -> Path:
    """Return the folder of a model with random weights, written the first time, in bfloat16.

    For timing sizes that need no download. Random weights make the distribution of the next token
    nearly flat, so a nucleus is as large as it can be: sampling them is the worst case.

    Args:
        name: One of `SHAPES`.
        tokenizer_from: Model folder whose tokenizer and template it takes.
        cache_dir: Cream's cache.
    """
    folder = cache_dir / "bench" / name
    if folder.is_dir():
        return folder
    tokenizer = load_tokenizer(tokenizer_from)
    hidden, intermediate, layers, heads, key_value_heads = SHAPES[name]
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with replacing_folder(folder) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
    return folder


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


def sampling_requests(prompt_token_ids: Sequence[tuple[int, ...]], n: int) -> list[SamplingRequest]:
    """Ask for n completions of each prompt."""
    return [
        SamplingRequest(f"p{index}", ids, tuple(range(index * n, (index + 1) * n)))
        for index, ids in enumerate(prompt_token_ids)
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
    prompt_token_ids = long_prompts(encoder, prompt_lengths)
    pieces = completions(encoder, completion_lengths)
    return [
        ScoringRequest(f"p{index}", ids, tuple(pieces[index * n : (index + 1) * n]))
        for index, ids in enumerate(prompt_token_ids)
    ]


def padding_share(lengths: Sequence[int], rows: int) -> float:
    """Share of padding in the tokens computed, if rows are batched in the order given."""
    computed = sum(len(batch) * max(batch) for batch in batched(lengths, rows))
    return 1 - sum(lengths) / computed


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive batches in the order given; the last may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
