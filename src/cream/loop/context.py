"""What the steps of a run share: recipe, run directory, data, template, models, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cream.data.dataset import LoadedData
from cream.errors import DataError
from cream.loop.shelf import ModelShelf
from cream.methods import method_parts
from cream.models.chat import ChatEncoder
from cream.protocols import Progress, Verifier
from cream.recipe import Recipe
from cream.recipe.parts import MethodParts
from cream.runs.store import Run, Stage, fingerprint
from cream.types import EncodedPrompt, Prompt


@dataclass
class Context:
    """Everything a step needs. Holds no results: those are in the run directory."""

    recipe: Recipe
    run: Run
    data: LoadedData
    encoder: ChatEncoder
    shelf: ModelShelf
    progress: Progress
    seed_model_fingerprint: str
    verifier: Verifier
    """Checks a completion the way its prompt says."""

    @cached_property
    def template_fingerprint(self) -> str:
        """Fingerprint of what turns messages into ids."""
        return fingerprint([self.encoder.template, list(self.encoder.stop_ids)])

    def parts(self, t: int) -> MethodParts:
        """Parts of the recipe's method at iteration t."""
        return method_parts(self.recipe.method, t)

    def loss_reference(self, t: int) -> str:
        """Name of the model that is the reference of the loss at iteration t."""
        match self.recipe.training.loss_reference:
            case "policy_at_start":
                return f"M{t}"
            case "sft":
                return "M1"
            case "seed":
                return "M0"

    def columns(self, t: int) -> tuple[str, ...]:
        """Models whose log-probabilities iteration t needs, M_t first, M0 always (for the KL)."""
        parts = self.parts(t)
        reported = parts.reported_columns if self.recipe.scoring.report_consistency else ()
        wanted = (f"M{t}", *parts.logp_columns, *reported, self.loss_reference(t), "M0")
        return tuple(dict.fromkeys(wanted))

    def encode(self, prompts: Sequence[Prompt], max_completion_tokens: int) -> list[EncodedPrompt]:
        """Token ids of prompts, refused where prompt and completion would not fit the context."""
        return encode_prompts(
            prompts, self.encoder, self.shelf.context_length, max_completion_tokens
        )

    def stage(self, name: str, inputs: dict[str, Any]) -> Stage:
        """A stage of this run; the run's seed is always among the inputs."""
        return self.run.stage(name, {"seed": self.recipe.seed, **inputs})

    def model_fingerprint(self, m: int) -> str:
        """Fingerprint of M_m: of the weights for M0, of the stage that trained it otherwise."""
        if m == 0:
            return self.seed_model_fingerprint
        trained = "sft/train" if m == 1 else f"iteration-{m - 1}/train"
        return self.run.finished(trained).fingerprint

    def prompts_fingerprint(self, prompts: Sequence[Prompt]) -> str:
        """Fingerprint of prompts, their answers included."""
        return fingerprint([[p.prompt_id, p.task, p.answer, dict(p.metadata)] for p in prompts])


def encode_prompts(
    prompts: Sequence[Prompt],
    encoder: ChatEncoder,
    context_length: int | None,
    max_completion_tokens: int,
) -> list[EncodedPrompt]:
    """Token ids of prompts.

    Raises:
        DataError: A prompt and its completion would not fit the context.
    """
    encoded = [EncodedPrompt(p, encoder.encode_prompt(p.messages)) for p in prompts]
    for item in encoded:
        length = len(item.token_ids)
        if context_length is not None and length + max_completion_tokens > context_length:
            start = item.prompt.messages[-1].content[:50]
            raise DataError(
                f"prompt {item.prompt.prompt_id} ({start!r}) has {length} tokens; with "
                f"max_completion_tokens {max_completion_tokens} it exceeds the model's context of "
                f"{context_length}"
            )
    return encoded
