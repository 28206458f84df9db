"""The models of a run, by name. At most one is in memory at a time, those of engines included."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cream.engines.trial import require_causal
from cream.errors import RunError
from cream.models.loading import load_model
from cream.models.positions import Reach
from cream.models.saving import save_model
from cream.runs.files import remove_folder, remove_leftovers


@dataclass(frozen=True, slots=True)
class _Held:
    """What is in memory."""

    key: Hashable
    thing: Any
    close: Callable[[Any], None] | None
    made: dict[str, Any] = field(default_factory=dict)
    """What was made of it, by name."""


@dataclass
class Checkpoints:
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
    fast: Reach = field(default_factory=lambda: Reach(None))
    """How long a sequence the fast forms of this architecture can take, by its configuration."""
    check: Callable[[str], None] | None = None
    """Called with the name of a model of the run before it is read: raises unless it is what its
    stage wrote. None: there is no record of what was written."""
    say: Callable[[str], None] | None = None
    """Tells the user what happens to the engines of these models."""
    _held: _Held | None = field(default=None, repr=False)

    def path(self, name: str) -> Path:
        """Folder of a model of this run, ``M0`` included."""
        return self.seed_folder if name == "M0" else self.folder / name

    def for_inference(self, name: str) -> Any:
        """A model in the compute dtype, to sample from or score with."""
        return self._load(name, self.compute_dtype)

    def made_of(self, name: str, what: str, make: Callable[[Any], Any]) -> Any:
        """What is made of a model for inference, made once for as long as the model is held.

        Fusing weights and trying what a model allows cost a few forward passes; a stage asks for
        its sampler or scorer at every part.
        """
        model = self.for_inference(name)
        assert self._held is not None
        if what not in self._held.made:
            self._held.made[what] = make(model)
        return self._held.made[what]

    def for_training(self, name: str) -> Any:
        """A float32 copy to train in place; it is not held any more."""
        model = self._load(name, torch.float32)
        self._held = None
        return model

    def save(self, model: Any, name: str, card: str) -> Path:
        """Write a trained model as an ordinary Hugging Face folder, whole or not at all."""
        target = self.path(name)
        remove_folder(target)  # left by an attempt that was killed before its stage was finished
        if self.folder.exists():
            remove_leftovers(self.folder)
        save_model(model, self.tokenizer, target, card=card)
        return target

    def hold(
        self, key: Hashable, make: Callable[[], Any], close: Callable[[Any], None] | None = None
    ) -> Any:
        """The thing of this key; made, and what was held before it given up, if it is not held."""
        if self._held is None or self._held.key != key:
            self.release()
            self._held = _Held(key, make(), close)
        return self._held.thing

    def close(self) -> None:
        """Hold nothing any more; an engine's process ends."""
        self.release()

    def release(self) -> None:
        """Give the memory of what is held back."""
        if self._held is not None and self._held.close is not None:
            self._held.close(self._held.thing)
        self._held = None
        gc.collect()

    def existing(self, name: str) -> Path:
        """Folder of a model that must be there.

        Raises:
            RunError: It is gone, or is not what its stage wrote.
        """
        folder = self.path(name)
        if not folder.exists():
            raise RunError(
                f"{folder} is needed and gone; it was removed by hand or by keep_checkpoints: "
                "last. Delete the stages from the one that made it on, and run again"
            )
        if self.check is not None and name != "M0":
            self.check(name)
        return folder

    def _load(self, name: str, dtype: torch.dtype) -> Any:
        def load() -> Any:
            model = load_model(
                self.existing(name),
                dtype=dtype,
                device=self.device,
                trust_remote_code=self.trust_remote_code,
            )
            if name == "M0":  # all others are made of it
                require_causal(model)
            return model

        return self.hold((name, dtype), load)
