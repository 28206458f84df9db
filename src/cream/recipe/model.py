"""The ``model`` section of a recipe: which causal language model, and how it is run.

It names a model and nothing more: whether the folder exists, whether its weights are safe to read
and whether its template can be trained on is found out by `cream.models`, which may look at disks
and networks. This file may not, so a recipe can be checked anywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from cream.recipe.base import Section

EMBEDDED_NAME = "smollm2-135m-instruct"
"""The model that Cream can fetch from the package registry (see `cream.models.embedded`)."""

NonBlank = Annotated[str, StringConstraints(pattern=r"\S")]


class ModelConfig(Section):
    """The seed model M0 and the arithmetic of sampling and scoring."""

    name: NonBlank = EMBEDDED_NAME
    """The embedded model (``smollm2-135m-instruct``), a local folder, or a hub id (``org/name``).
    A folder of that name wins over the hub; write ``./name`` to mean a folder whatever happens."""

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

    @model_validator(mode="after")
    def _revision_has_a_hub(self) -> ModelConfig:
        if self.revision is not None and self.name == EMBEDDED_NAME:
            raise ValueError(
                f"revision {self.revision!r} is given, but the embedded model {EMBEDDED_NAME!r} "
                "has one pinned revision. Remove `revision`, or name a hub model."
            )
        return self
