"""Llama-shaped models with random weights, for timing sizes that need no download.

Their shapes are those of published models. Random weights make the distribution of the next token
nearly flat, so a nucleus is as large as it can be: sampling them is the worst case.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cream.models.loading import load_tokenizer
from cream.runs.files import replacing_folder

SHAPES = {
    "random-llama-40m": (288, 768, 16, 9, 3),
    "random-llama-360m": (960, 2560, 32, 15, 5),
    "random-llama-1b": (2048, 8192, 16, 32, 8),
}
"""Hidden size, intermediate size, layers, heads, key-value heads: a small one, SmolLM2-360M
and Llama-3.2-1B. All have the vocabulary of the tokenizer that they are given."""


def random_model(name: str, tokenizer_from: Path, cache_dir: Path) -> Path:
    """Return the folder of a random model, written the first time, in bfloat16.

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
