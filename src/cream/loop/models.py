"""Finding a causal language model that a recipe names, with its tokenizer and template."""

from __future__ import annotations

from pathlib import Path

from cream.loop.shelf import ModelShelf
from cream.models.chat import ChatEncoder, read_chat_template
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.folders import resolve_model
from cream.models.loading import generation_eos_ids, load_config, load_tokenizer
from cream.models.positions import context_length
from cream.recipe.model import ModelConfig


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
