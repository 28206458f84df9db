"""Identity of a model folder by content, for run manifests; and facts read from its headers.

Two folders have the same fingerprint exactly if the files that decide what the model computes are
byte for byte the same. Names of folders, cards and modification times play no part.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cream.errors import ModelError
from cream.models.folders import adapter_base, check_model_folder, is_adapter, weight_files

DECISIVE = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "*.py",
)
"""Files that decide what a model computes or how text becomes ids."""


def model_fingerprint(folder: Path) -> str:
    """Hash weights, configuration and tokenizer of a model folder, and an adapter's base with it.

    Unchanged files (path, size, modification time) are hashed once per process. About one second
    per gigabyte otherwise.

    Returns:
        40 hexadecimal digits (BLAKE2b, 160 bits).

    Raises:
        ModelError: The folder is not a usable model (see `check_model_folder`).
    """
    check_model_folder(folder)
    files = {file for pattern in DECISIVE for file in folder.glob(pattern) if file.is_file()}
    total = hashlib.blake2b(digest_size=20)
    for file in sorted(files):
        state = file.stat()
        content = _file_digest(file.resolve(), state.st_size, state.st_mtime_ns)
        total.update(f"{file.name}\0{content}\n".encode())
    if is_adapter(folder):
        total.update(f"base\0{model_fingerprint(adapter_base(folder))}\n".encode())
    return total.hexdigest()


def stored_parameters(folder: Path) -> int:
    """Count the numbers in a folder's weight files from their headers, without reading weights.

    Tied weights are stored once and counted once; so are weights that the folder holds in two
    layouts. Times four, it is the size in bytes of a float32
    checkpoint of a whole model.

    Raises:
        ModelError: The folder is not a usable model, or a weight file is damaged.
    """
    check_model_folder(folder)
    total = 0
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged ({error}). Copy or fetch it again.") from error
    return total


@lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, modified_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
