"""A model with random weights and a tokenizer of characters, written as a Hugging Face folder.

For studies whose model is trained from nothing: what the recipe describes is made once, kept in
Cream's cache under a name that follows from the description, and read like any other model. The
weights depend on the version of transformers that makes them; their fingerprint is recorded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from cream.cache import expanded
from cream.errors import ModelError
from cream.models.saving import save_model
from cream.recipe.model import FromScratch

SPECIAL = ("<pad>", "<end>", "<unknown>")
"""Tokens that are no characters; the second ends an answer."""
SEPARATOR = "="
"""Stands between prompt and answer."""
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}="
    "{{ message['content'] }}{{ eos_token }}{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}={% endif %}"
)
"""Chat template of a model over characters: the prompt, ``=``, the answer, the end."""


def scratch_model(described: FromScratch, cache_dir: Path) -> Path:
    """Find, or make, the folder of a model from scratch.

    Args:
        described: Architecture, tokenizer and seed.
        cache_dir: Cream's cache.

    Raises:
        ModelError: transformers does not know the architecture or refuses the configuration, or
            there is no such tokenizer.
    """
    digest = hashlib.blake2b(described.model_dump_json().encode(), digest_size=8).hexdigest()
    folder = cache_dir / "from-scratch" / f"{described.model_type}-{digest}"
    if not folder.exists():
        tokenizer = _tokenizer(described)
        save_model(random_model(described, tokenizer), tokenizer, folder)
    return folder


def character_tokenizer(alphabet: str) -> Any:
    """A tokenizer with one token per character, and a chat template that needs no words."""
    characters = dict.fromkeys((*alphabet, SEPARATOR))
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *characters))}
    pad, end, unknown = SPECIAL
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    core.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token=pad, unk_token=unknown
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def random_model(described: FromScratch, tokenizer: Any) -> Any:
    """A model in float32 whose weights follow from the description; on the CPU.

    Raises:
        ModelError: transformers does not know the architecture, or refuses the configuration.
    """
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL_IDS}
    try:
        known = AutoConfig.for_model(described.model_type)  # keeps any key that it is given
        unknown = [key for key in described.config if not hasattr(known, key)]
        if unknown:
            raise ValueError(f"it has no option {unknown[0]}")
        config = AutoConfig.for_model(
            described.model_type, vocab_size=len(tokenizer), **ids, **described.config
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(described.seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except Exception as error:  # a configuration may fail anywhere in the library
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"model.from_scratch: transformers cannot make a {described.model_type} of this "
            f"config: {reason[0]}"
        ) from error


_SPECIAL_IDS = ("bos", "eos", "pad")


def _tokenizer(described: FromScratch) -> Any:
    if described.alphabet is not None:
        return character_tokenizer(described.alphabet)
    name = str(described.tokenizer)
    try:
        return AutoTokenizer.from_pretrained(expanded(name) if name[0] in "/.~" else name)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.from_scratch.tokenizer: {name!r} has no tokenizer that can be read; name a "
            "folder or a hub id"
        ) from error
