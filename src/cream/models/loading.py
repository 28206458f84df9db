"""Loading causal language models, reward models and tokenizers from checked folders.

Stricter than the library underneath: safetensors only, no weight may be missing (the library would
fill it with random numbers and say so in a log line), no token id may lie outside the embedding.
Adapters are merged into their base, so that everything after this sees one ordinary model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers import PretrainedConfig as ModelShape
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.errors import ModelError
from cream.models.folders import (
    ADAPTER_WEIGHTS,
    CONFIG,
    adapter_base,
    check_model_folder,
    is_adapter,
    read_json,
    weight_files,
)
from cream.models.saving import first_not_finite

MAX_LAYERS = 10_000
"""The deepest models in use have some hundreds; building one takes time for each."""


def load_config(folder: Path, *, trust_remote_code: bool = False) -> ModelShape:
    """Load the configuration of a model, or of an adapter's base, without its weights.

    Raises:
        ModelError: The folder is not a usable model or its architecture is unknown.
    """
    check_model_folder(folder)
    source = adapter_base(folder) if is_adapter(folder) else folder
    with _explained(source, "configuration"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is not None and not (isinstance(layers, int) and 0 <= layers <= MAX_LAYERS):
        raise ModelError(
            f"{source / CONFIG}: a model of {layers!r} layers cannot be built. Restore the file "
            "from its source."
        )
    return config


def load_tokenizer(
    folder: Path, *, chat_template: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """Load the tokenizer of a model; an adapter without one uses its base's.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned.
        chat_template: Jinja text that replaces the tokenizer's template, so that checkpoints saved
            with this tokenizer carry it. See `cream.models.chat.read_chat_template`.
        trust_remote_code: Allow a tokenizer that comes as Python code.

    Raises:
        ModelError: No tokenizer, or one with more ids than the model has embeddings.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    own = any(folder.glob("tokenizer*"))
    source = folder if own or not is_adapter(folder) else adapter_base(folder)
    with _explained(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest < 0:
        raise ModelError(f"{source} has no tokenizer files. Copy those of its base model there.")
    if rows is not None and highest >= rows:
        raise ModelError(
            f"{source}: the tokenizer has token id {highest}, but the model embeds only {rows} "
            "tokens. Tokenizer and weights do not belong together."
        )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Model:
    """Load a causal language model in evaluation mode; an adapter is merged into its base.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned.
        dtype: Type of the weights in memory, whatever they are on disk. Adapters are merged in
            float32 and cast afterwards.
        device: Where the weights go.
        trust_remote_code: Allow a model that comes as Python code.

    Raises:
        ModelError: The folder is not a usable model, not a causal language model, its weights are
            damaged, incomplete or not finite, or they do not fit into memory.
    """
    check_model_folder(folder)
    if is_adapter(folder):
        model: Any = _merged(folder, trust_remote_code)
    else:
        model = _whole(AutoModelForCausalLM, folder, dtype, trust_remote_code)
    with _explained(folder, "model"):
        model = model.to(device=device, dtype=dtype)
    return model.eval()


def empty_model(folder: Path, *, trust_remote_code: bool = False) -> Model:
    """Build a causal language model of a folder's configuration, without reading its weights.

    Parameters are on the device ``meta``: names, shapes and ties are those of the real model.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned.
        trust_remote_code: Allow a model that comes as Python code.

    Raises:
        ModelError: There is no causal language model of this configuration.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    with _explained(folder, "model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def weightless_model(
    folder: Path, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> Model:
    """The model of a folder with parameters on ``meta`` and buffers as they are.

    Its weights are to come from elsewhere (`cream.training.sharding`); tables that a model computes
    when it is built, such as rotary frequencies, are there.

    Raises:
        ModelError: There is no causal language model of this configuration.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    with _explained(folder, "model"), init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    return model.to(dtype).eval()


def check_reward_model(folder: Path, config: ModelShape) -> None:
    """Check that a folder is a whole model whose configuration states a head of one output.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned.
        config: Its configuration (`load_config`).

    Raises:
        ModelError: It is an adapter, or its head has another number of outputs (a causal language
            model has none, which transformers takes for two).
    """
    if is_adapter(folder):
        raise ModelError(
            f"{folder} is an adapter; a reward model must be whole. Merge it into its base model "
            "with peft and save the result."
        )
    if config.num_labels != 1:
        raise ModelError(
            f"{folder} has {config.num_labels} outputs by its config.json (num_labels), or is no "
            "classifier at all; a reward model has one output. Name another model."
        )


def load_reward_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Model:
    """Load a sequence classifier with one output in evaluation mode.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned.
        dtype: Type of the weights in memory, whatever they are on disk.
        device: Where the weights go.
        trust_remote_code: Allow a model that comes as Python code.

    Raises:
        ModelError: As `check_reward_model`, or the weights are damaged or incomplete (a head that
            is missing is never made up), or do not fit into memory.
    """
    check_reward_model(folder, load_config(folder, trust_remote_code=trust_remote_code))
    kind = AutoModelForSequenceClassification
    model: Any = _whole(kind, folder, dtype, trust_remote_code)
    with _explained(folder, "model"):
        model = model.to(device=device, dtype=dtype)
    return model.eval()


def generation_eos_ids(folder: Path) -> tuple[int, ...]:
    """Read the token ids that end generation, as the model's publisher set them; often several."""
    source = adapter_base(folder) if is_adapter(folder) else folder
    for name in ("generation_config.json", "config.json"):
        if (source / name).is_file():
            ids = read_json(source / name).get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def count_parameters(model: torch.nn.Module) -> int:
    """Count the parameters in memory; tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _whole(kind: Any, folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Model:
    """Load weights into an auto class of transformers, refusing to make up what is missing."""
    with _explained(folder, "model"):
        loaded: Any = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, info = loaded
    absent = sorted([*map(str, info["missing_keys"]), *map(str, info["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} of the model's weights (first: {absent[0]}), or they "
            "have another shape. It is incomplete, or not the kind of model that it says."
        )
    _refuse_not_finite(model, folder)
    return model


def _merged(folder: Path, trust_remote_code: bool) -> Model:
    source = adapter_base(folder)
    base = _whole(AutoModelForCausalLM, source, torch.float32, trust_remote_code)
    with _explained(folder, "adapter"), warnings.catch_warnings():
        # Only a warning there, an error below.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        adapted = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
            absent = sorted(set(get_peft_model_state_dict(adapted)) - set(tensors.keys()))
    if absent:
        raise ModelError(
            f"adapter {folder} lacks {len(absent)} of its weights (first: {absent[0]}). "
            "It is incomplete, or belongs to another base model."
        )
    merged: Any = adapted.merge_and_unload(safe_merge=True)
    _refuse_not_finite(merged, folder)
    return merged


def refuse_not_finite_files(folder: Path) -> None:
    """Refuse a model folder whose stored weights are not all finite, tensor by tensor.

    For who loads it by other means than `load_model`; each file is read once per process.

    Raises:
        ModelError: A weight is NaN or infinite, or a file is damaged.
    """
    for file in weight_files(folder):
        state = file.stat()
        bad = _first_not_finite_in(file.resolve(), state.st_size, state.st_mtime_ns)
        if bad is not None:
            raise ModelError(f"weights of {folder} are not finite (first: {bad}). {_NOTHING}")
    if is_adapter(folder):
        refuse_not_finite_files(adapter_base(folder))


@lru_cache(maxsize=64)
def _first_not_finite_in(file: Path, *state: int) -> str | None:
    with _explained(file.parent, "model"), safe_open(file, framework="pt") as tensors:
        names = tensors.keys()
        return first_not_finite((name, tensors.get_tensor(name)) for name in names)


_NOTHING = "Nothing can be computed with them; take an earlier or another copy of the model."


def _refuse_not_finite(model: Model, folder: Path) -> None:
    bad = first_not_finite(model.named_parameters())
    if bad is not None:
        raise ModelError(
            f"weights of {folder} are not finite (first: {bad} has a NaN or an infinity). "
            f"{_NOTHING}"
        )


@contextmanager
def _explained(folder: Path, what: str) -> Iterator[None]:
    """Turn what the libraries raise over an unusable folder into one sentence that names it."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of a configuration that makes no sense any kind comes through
        lines = str(error).strip().splitlines() or ["no details"]
        raise ModelError(
            f"the {what} in {folder} could not be loaded ({type(error).__name__}: {lines[0]}). "
            "Check that it is a complete model of a kind that transformers knows."
        ) from error
