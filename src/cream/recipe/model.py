"""The ``model`` section of a recipe: which causal language model, and how it is run.

It names a model and nothing more: whether the folder exists, whether its weights are safe to read
and whether its template can be trained on is found out by `cream.models`, which may look at disks
and networks. This file may not, so a recipe can be checked anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from cream.recipe.base import Section

EMBEDDED_NAME = "smollm2-135m-instruct"
"""The model that Cream can fetch from the package registry (see `cream.models.embedded`)."""

FROM_SCRATCH = "from_scratch"
"""What ``model.name`` is where the recipe describes the model instead of naming one."""
DECIDED_BY_TOKENIZER = (
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "model_type",
    "architectures",
)
"""Keys of a configuration that a model from scratch takes from elsewhere."""

NonBlank = Annotated[str, StringConstraints(pattern=r"\S")]


class FromScratch(Section):
    """A model with random weights, so that a small study needs no download."""

    model_type: NonBlank
    """Architecture as transformers names it: ``llama``, ``smollm3``, ``gpt2``, ..."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Its configuration, checked by transformers; vocabulary and token ids come from the
    tokenizer."""
    alphabet: str | None = Field(default=None, min_length=1)
    """Characters that the model reads and writes, one token each. What is not among them is
    refused. ``=`` stands between prompt and answer and is always one of them."""
    tokenizer: NonBlank | None = None
    """Folder or hub id whose tokenizer is taken instead of an `alphabet`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the weights: two witnesses of one architecture differ by it."""

    @model_validator(mode="after")
    def _one_tokenizer(self) -> FromScratch:
        if (self.alphabet is None) == (self.tokenizer is None):
            raise ValueError(
                "a model from scratch needs one tokenizer: give `alphabet`, or `tokenizer`"
            )
        if self.alphabet is not None and len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"`alphabet` {self.alphabet!r} names a character twice")
        taken = [key for key in DECIDED_BY_TOKENIZER if key in self.config]
        if taken:
            raise ValueError(
                f"`config.{taken[0]}` is decided by the tokenizer and `model_type`; remove it"
            )
        return self


class ModelConfig(Section):
    """The seed model M0 and the arithmetic of sampling and scoring."""

    name: NonBlank = EMBEDDED_NAME
    """The embedded model (``smollm2-135m-instruct``), a local folder, or a hub id (``org/name``).
    A folder of that name wins over the hub; write ``./name`` to mean a folder whatever happens."""

    from_scratch: FromScratch | None = None
    """A model with random weights, described here; `name` is then left out."""

    revision: NonBlank | None = None
    """Branch, tag or commit of a hub model. A commit makes a recipe repeatable; a branch moves."""

    chat_template: NonBlank | None = None
    """Jinja chat template that replaces the tokenizer's own: the text itself, or a path to a file
    that holds it. Needed for models without one; must end an assistant turn with a stop token."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. It can do anything your user can."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Where the model runs: ``auto`` (a GPU if there is one), ``cpu``, ``mps``, ``cuda`` or
    ``cuda:N``."""

    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of sampling and scoring. ``auto`` is bfloat16 where the hardware multiplies it
    natively, else float32. Weights on disk and in training stay float32."""

    @model_validator(mode="before")
    @classmethod
    def _described_or_named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("from_scratch") is None:
            return values
        given = [key for key in ("name", "revision") if values.get(key) not in (None, FROM_SCRATCH)]
        if given:
            raise ValueError(f"`{given[0]}` and `from_scratch` both say what M0 is; keep one")
        return {**values, "name": FROM_SCRATCH}

    @model_validator(mode="after")
    def _revision_has_a_hub(self) -> ModelConfig:
        if self.revision is not None and self.name == EMBEDDED_NAME:
            raise ValueError(
                f"revision {self.revision!r} is given, but the embedded model {EMBEDDED_NAME!r} "
                "has one pinned revision. Remove `revision`, or name a hub model."
            )
        return self
