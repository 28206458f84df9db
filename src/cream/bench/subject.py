"""The model that is timed, loaded once in the arithmetic of sampling and scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cream.bench.floors import ModelShape, model_shape
from cream.models.chat import ChatEncoder, read_chat_template
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.folders import resolve_model
from cream.models.loading import (
    context_length,
    generation_eos_ids,
    load_model,
    load_tokenizer,
)
from cream.recipe.model import ModelConfig


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
