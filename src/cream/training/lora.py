"""Low-rank adapters for the length of one stage: put in, trained, merged into the weights.

Every M_t is an ordinary model folder, so the next stage starts from merged weights with a fresh
adapter. A new adapter is the identity (its second matrix is zero), so it does not change M_t at
step 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import TaskType, get_peft_model

from cream.errors import ModelError
from cream.recipe.training import LoraConfig
from cream.runs.seeds import derive_seed


@contextmanager
def adapters(
    model: Any, config: LoraConfig | None, *, seed: int, merges: bool = True
) -> Iterator[None]:
    """Give `model` adapters, all else frozen; on success merge them, on failure take them out.

    Args:
        model: Float32 causal language model, changed in place.
        config: Rank and targets, or None to leave the model alone.
        seed: Seed of the adapters' first matrix.
        merges: Whether the model is of use afterwards; else they are taken out in any case.

    Raises:
        ModelError: The model has no layer of the names given, or one of them is its head or an
            embedding that is tied to it.
    """
    if config is None:
        yield
        return
    refuse_head(model, config)
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    wrapped = _wrap(model, config, seed)
    try:
        yield
    except BaseException:
        wrapped.unload()
        raise
    else:
        wrapped.merge_and_unload(safe_merge=True) if merges else wrapped.unload()
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])


def refuse_unfit(model: Any, config: LoraConfig) -> None:
    """Refuse adapters that `adapters` would refuse, on a model without weights.

    Args:
        model: From `cream.models.loading.empty_model`; changed, not to be used afterwards.
        config: Rank and targets. ``all-linear`` fits every model.

    Raises:
        ModelError: As `adapters`.
    """
    if not isinstance(config.target_modules, str):
        refuse_head(model, config)
        _wrap(model, config, seed=0)


def refuse_head(model: Any, config: LoraConfig) -> None:
    """Refuse adapters that would be lost: of the head, which training applies by its weight alone.

    Tied to the head, the embedding is one with it: a merged adapter of one would change the other.

    Raises:
        ModelError: A target names such a layer.
    """
    if isinstance(config.target_modules, str):
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        return
    tied = head.weight is embedding.weight
    barred = (head, embedding) if tied else (head,)
    for name, module in model.named_modules():
        # peft takes a layer by its whole path or the end of it.
        named = [t for t in config.target_modules if f".{name}".endswith(f".{t}")]
        if named and module in barred:
            what = "the head, tied to the embedding," if tied else "the head"
            raise ModelError(
                f"lora.target_modules: {named[0]!r} is {what} of this model, where an adapter "
                "cannot be trained and merged. Name layers between embedding and head, or "
                "all-linear."
            )


def _wrap(model: Any, config: LoraConfig, seed: int) -> Any:
    targets = config.target_modules
    settings = PeftLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides by rank; floats are fine
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D stores the transpose
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "lora"))
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise ModelError(
                f"lora.target_modules: {targets!r} does not fit this model ({error}). "
                "Use all-linear or names of its linear layers."
            ) from error
