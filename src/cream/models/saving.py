"""Saving a model as an ordinary Hugging Face folder, whole or not at all.

The folder loads with ``AutoModelForCausalLM.from_pretrained`` and needs nothing of Cream. Tied
weights are written once. Optimizer and other training state are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.errors import ModelError
from cream.runs.files import replacing_folder
from cream.runs.store import CARD

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights whose numbers can be looked at."""


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that has a NaN or an infinity, or None if all numbers are finite.

    One pass over memory, without a copy: the extremes of a tensor are finite if all of it is.
    """
    for name, tensor in tensors:
        if tensor.dtype in FLOATS and tensor.numel():
            low, high = torch.aminmax(tensor.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                return name
    return None


def save_model(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    card: str | None = None,
) -> None:
    """Write weights (safetensors), configuration, generation settings and tokenizer to `folder`.

    Args:
        model: The model; left as it is. An adapted one must be merged first.
        tokenizer: Its tokenizer, chat template included.
        folder: A path that does not exist yet. It appears only once everything is written.
        dtype: Type of floating-point weights on disk: float32, or bfloat16 at half the size for
            publishing (rounding away small updates, so not for checkpoints to train on from).
        card: Text of the model card (``README.md``); none is written without it.

    Raises:
        ModelError: `folder` exists, or a weight is NaN or infinite.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists already. Remove it or choose another folder.")
    state = _cast(model.state_dict(), dtype)
    bad = first_not_finite((name, state[name]) for name, _ in model.named_parameters())
    if bad is not None:
        raise ModelError(
            f"the model for {folder} was not saved: its weights are not finite (first: {bad})"
        )
    with replacing_folder(folder) as temporary:
        with _without_generation_config(model) as generation:
            model.save_pretrained(temporary, state_dict=state)
        generation.to_json_file(temporary / "generation_config.json")
        for weights in temporary.glob("*.safetensors"):
            # The library writes them for the owner alone.
            weights.chmod(temporary.stat().st_mode & 0o666)
        _state_dtype(temporary / "config.json", dtype)
        tokenizer.save_pretrained(temporary)
        if card is not None:
            (temporary / CARD).write_text(card, encoding="utf-8")


@contextmanager
def _without_generation_config(model: Model) -> Iterator[GenerationConfig]:
    """Take a model's generation settings away while the library saves it; give them to the caller.

    The library reads contradictory settings (a temperature without sampling, as several published
    models have) but refuses to write them, which would lose a trained model. They are kept as is.
    """
    generation = model.generation_config or GenerationConfig()
    model.generation_config = GenerationConfig()
    try:
        yield generation
    finally:
        model.generation_config = generation


def _cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast floating-point tensors; those that share memory (tied weights) still share it after."""
    done: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    cast = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.dtype != dtype:
            place = (tensor.data_ptr(), tensor.shape, tensor.stride())
            tensor = done.setdefault(place, tensor.to(dtype))
        cast[name] = tensor
    return cast


def _state_dtype(config_file: Path, dtype: torch.dtype) -> None:
    # The library records the type in memory, which need not be the one just written.
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
