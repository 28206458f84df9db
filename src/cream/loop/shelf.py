"""The models of a run, by name. At most one is in memory at a time, that of vLLM included."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import torch

from cream.engines.sampler import TorchSampler
from cream.engines.select import EngineChoice
from cream.engines.vllm_sampler import VllmSampler
from cream.errors import RunError
from cream.loop.extensions import OwnSampler
from cream.models.loading import load_model
from cream.models.saving import save_model
from cream.protocols import Sampler
from cream.recipe.engine import TorchEngine, VllmEngine
from cream.runs.files import remove_leftovers

TORCH = EngineChoice(TorchEngine(), "nothing else was asked for")


@dataclass
class ModelShelf:
    """Loads M0 from where the recipe says and M1, M2, ... from the run's ``models`` folder."""

    folder: Path
    """``models`` folder of the run."""
    seed_folder: Path
    """Folder of M0, outside the run."""
    seed_name: str
    """What the recipe calls M0."""
    tokenizer: Any
    """Saved beside every model."""
    device: torch.device
    compute_dtype: torch.dtype
    """Dtype of sampling and scoring; training keeps float32 weights."""
    context_length: int | None
    """Tokens the model can take, or None if it states no limit."""
    trust_remote_code: bool = False
    engine: EngineChoice = TORCH
    """What samples."""
    own_sampler: OwnSampler | None = None
    """What samples in place of the engine, if the user brought it."""
    _vllm: tuple[str, VllmSampler] | None = field(default=None, repr=False)
    _held: tuple[str, torch.dtype, Any] | None = field(default=None, repr=False)

    def path(self, name: str) -> Path:
        """Folder of a model of this run, ``M0`` included."""
        return self.seed_folder if name == "M0" else self.folder / name

    def sampler(self, name: str) -> Sampler:
        """A model to draw completions from, on the engine of this run."""
        if self.own_sampler is not None:
            return self.own_sampler.of(self.for_inference(name))
        match self.engine.settings:
            case TorchEngine():
                return TorchSampler(self.for_inference(name))
            case VllmEngine() as settings:
                if self._vllm is None or self._vllm[0] != name:
                    self.release()
                    sampler = VllmSampler(
                        self._existing(name),
                        settings,
                        device=self.device,
                        dtype=self.compute_dtype,
                        trust_remote_code=self.trust_remote_code,
                    )
                    self._vllm = (name, sampler)
                return self._vllm[1]
            case _:
                assert_never(self.engine.settings)

    def for_inference(self, name: str) -> Any:
        """A model in the compute dtype, to sample from or score with."""
        return self._load(name, self.compute_dtype)

    def for_training(self, name: str) -> Any:
        """A float32 copy to train in place; the shelf forgets it."""
        model = self._load(name, torch.float32)
        self._held = None
        return model

    def save(self, model: Any, name: str, card: str) -> Path:
        """Write a trained model as an ordinary Hugging Face folder, whole or not at all."""
        target = self.path(name)
        if target.exists():  # left by an attempt that was killed before its stage was finished
            shutil.rmtree(target)
        if self.folder.exists():
            remove_leftovers(self.folder)
        save_model(model, self.tokenizer, target, card=card)
        return target

    def close(self) -> None:
        """Hold nothing any more; a process of vLLM's ends."""
        self.release()

    def release(self) -> None:
        """Give the memory of the held model back."""
        if self._vllm is not None:
            self._vllm[1].close()
            self._vllm = None
        self._held = None
        gc.collect()

    def _load(self, name: str, dtype: torch.dtype) -> Any:
        if self._held is not None and self._held[:2] == (name, dtype):
            return self._held[2]
        self.release()
        folder = self._existing(name)
        model = load_model(
            folder, dtype=dtype, device=self.device, trust_remote_code=self.trust_remote_code
        )
        self._held = (name, dtype, model)
        return model

    def _existing(self, name: str) -> Path:
        folder = self.path(name)
        if not folder.exists():
            raise RunError(
                f"{folder} is needed and gone; it was removed by hand or by keep_checkpoints: "
                "last. Delete the stages from the one that made it on, and run again"
            )
        return folder
