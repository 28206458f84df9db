"""From the name of a model to a folder that is safe to read: embedded, from scratch, local, hub.

Everything after this deals with folders only. A folder is accepted if it is an ordinary Hugging
Face model or peft adapter whose weights are safetensors; pickled weights can run code when they are
read, so they are refused, not converted. Nothing here loads a weight.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from cream.cache import expanded
from cream.errors import ModelError
from cream.models.embedded import embedded_model
from cream.models.scratch import scratch_model
from cream.recipe.model import EMBEDDED_NAME, ModelConfig

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of weight files that are pickles, or may be."""

SHOWN = 80
"""Characters of a file's name in a message; a stranger's index may hold any."""
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
HUB_CODE = ("*.py",)
HUB_UNWANTED = ("*/*", "consolidated*")
"""Subfolders hold exports to other formats; ``consolidated`` repeats the weights of the shards."""


def resolve_model(config: ModelConfig, cache_dir: Path) -> Path:
    """Find, or fetch, the folder of the model that a recipe names, and check it.

    Args:
        config: The recipe's model section. A name that looks like a path (starts with ``/``, ``.``
            or ``~``) or is an existing folder is local; anything else but the embedded name is a
            hub id, fetched into the hub's own cache.
        cache_dir: Cream's cache, where the embedded model lives, and models from scratch.

    Raises:
        ModelError: No such model, or its files cannot be used (see `check_model_folder`).
    """
    if config.from_scratch is not None:
        return scratch_model(config.from_scratch, cache_dir)
    if config.name == EMBEDDED_NAME:
        return embedded_model(cache_dir)
    local = expanded(config.name)
    if config.name[0] in "/.~" or local.is_dir():
        if config.revision is not None:
            raise ModelError(
                f"model.revision {config.revision!r} is given, but model.name {config.name!r} is a "
                "local folder, which has no revisions. Remove model.revision."
            )
        folder = local.resolve()
    else:
        folder = fetch_from_hub(
            config.name, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    check_model_folder(folder)
    return folder


def fetch_from_hub(name: str, *, revision: str | None, trust_remote_code: bool = False) -> Path:
    """Bring a hub model into the hub's cache (safetensors, config and tokenizer only).

    Raises:
        ModelError: The hub has no such model or revision, wants a token, or cannot be reached
            while the model is not cached.
    """
    patterns = [*HUB_FILES, *(HUB_CODE if trust_remote_code else ())]
    try:
        snapshot = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=list(HUB_UNWANTED)
        )
    except HFValidationError as error:
        raise ModelError(
            f"model.name {name!r} is neither an existing folder nor a hub id (org/name). "
            "Check the path or the spelling."
        ) from error
    except OSError as error:
        # All of the hub's own errors, gated and missing repositories included, are OSErrors.
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"model.name {name!r}{at} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {_first_line(error)}). Check the name, the network and, for "
            "a gated model, your token (`hf auth login`)."
        ) from error
    return Path(snapshot)


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a config and complete safetensors weights, without loading them.

    Raises:
        ModelError: The folder is missing, has no readable ``config.json`` (or
            ``adapter_config.json``), lacks a shard, or has no safetensors weights.
    """
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist. Check model.name in the recipe.")
    read_json(folder / (ADAPTER_CONFIG if is_adapter(folder) else CONFIG))
    # A stranger's name may be longer than any file's: `Path.is_file` would raise.
    missing = [file.name[:SHOWN] for file in weight_files(folder) if not os.path.isfile(file)]
    if not missing:
        return
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"model folder {folder} has pickled weights ({', '.join(pickled[:3])}) and no "
            f"{missing[0]}. Pickles can run code when read, so they are refused: convert the model "
            "to safetensors in a place you trust (load it there and call save_pretrained)."
        )
    raise ModelError(
        f"model folder {folder} lacks {', '.join(missing[:3])}. The copy is incomplete, or the "
        "weights are in another format; Cream reads safetensors only."
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that a model's weights are loaded from.

    Publishers repeat weights in the same folder in another layout (``consolidated.safetensors``,
    ``original-*``); those are neither loaded nor counted.

    Raises:
        ModelError: The list of shards cannot be read.
    """
    if is_adapter(folder):
        return [folder / ADAPTER_WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return [folder / name for name in _shards(folder / WEIGHTS_INDEX)]
    return [folder / WEIGHTS]


def is_adapter(folder: Path) -> bool:
    """Tell a peft adapter (no ``config.json`` of its own) from a whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()


def adapter_base(folder: Path) -> Path:
    """Find the base model of a peft adapter: a folder as recorded, else the hub.

    Raises:
        ModelError: The adapter names no base, or the base is gone or cannot be used.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is empty. "
            "Write the folder or hub id of the base model there."
        )
    base = expanded(name)
    if not base.is_dir():
        if name[0] in "/.~":
            raise ModelError(
                f"{folder / ADAPTER_CONFIG}: the base model {name!r} does not exist any more. "
                "Set base_model_name_or_path to where it is now."
            )
        base = fetch_from_hub(name, revision=config.get("revision"))
    check_model_folder(base)
    return base


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that belongs to a model.

    Raises:
        ModelError: The file is missing or is not a JSON object.
    """
    if not file.is_file():
        raise ModelError(
            f"model folder {file.parent} has no {file.name}. Point model.name at a Hugging Face "
            "model folder (config.json, tokenizer files and model.safetensors)."
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is not valid JSON ({error}). Restore it from its source."
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} is not a JSON object. Restore it from its source.")
    return value


_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
"""Names that an index may list: nothing that leads elsewhere, and all of it fingerprinted."""


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} lists no weights (weight_map). Restore it from its source.")
    names = set(map(str, weight_map.values()))
    foreign = sorted(name for name in names if not _SHARD.fullmatch(name))
    if foreign:
        raise ModelError(
            f"{index} lists the weight file {foreign[0]!r}, which is no plain name of a "
            "safetensors file in its own folder. Restore it from its source."
        )
    return sorted(names)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no details"
