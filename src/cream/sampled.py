"""What one model answers to some prompts: the set, the stage that samples it, and its readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cream.recipe.columns import (
    EDITED,
    FROM_DATA,
    HEAD,
    IMPLICIT,
    LAST_ANSWER,
    SELF_CERTAINTY,
    TOKEN_REWARDS,
    VERIFIER,
)
from cream.recipe.parts import MethodParts
from cream.records import StageKind, StageSpec
from cream.types import Goal, Prompt

HEAD_READS = "M0"
"""Model whose states the heads of all iterations read."""
COLUMNS_WITHOUT_MODEL: Mapping[str, tuple[StageKind, str]] = {
    VERIFIER: ("verify", "verify"),
    FROM_DATA: ("mark", "mark the data's completions"),
    EDITED: ("mark", "mark the edits"),
    LAST_ANSWER: ("segment", "cut into solutions and checks"),
}
"""Score columns that no model fills: the kind of their stage, and what it does in words."""


@dataclass(frozen=True)
class SampleSet:
    """Prompts that one model answers, with what the data answer to them."""

    prompts: tuple[Prompt, ...]
    answers: Mapping[str, Sequence[str]]
    """Per prompt id the completions that the data have for it. They join the sampled ones. Empty
    if no prompt has any."""
    seed_name: tuple[str | int, ...]
    """Name from which the seeds of the completions derive."""
    greedy: bool = False
    """One answer per prompt, at temperature 0."""
    goal: Goal | None = None
    """What the model is told beside each prompt; it is scored under the same."""


@dataclass(frozen=True)
class Sampled:
    """A stage that samples, with what the stages that read its completions are called after."""

    spec: StageSpec
    folder: str
    label: str
    completions: int
    """Those of the data included."""

    def reader(
        self,
        name: str,
        kind: StageKind,
        words: str,
        *,
        model: str | None = None,
        column: str | None = None,
    ) -> StageSpec:
        """A stage that reads the completions."""
        return StageSpec(
            name=f"{self.folder}/{name}",
            kind=kind,
            label=f"{self.label}: {words}",
            t=self.spec.t,
            inputs=(self.spec.name,),
            source=self.spec.source,
            prompts=self.spec.prompts,
            completions=self.completions,
            model=model,
            column=column,
        )

    def tokens_under(self, model: str) -> StageSpec:
        """The stage that scores every token of the completions under a model."""
        name, words = f"score-tokens/{model}", f"score tokens under {model}"
        return self.reader(name, "score_tokens", words, model=model)

    def token_reward(self, name: str) -> StageSpec:
        """The stage that fills a column of token rewards."""
        spec = self.reader(f"score/{name}", "token_reward", f"token rewards ({name})", column=name)
        if name == HEAD:
            read = (*spec.inputs, f"{self.folder}/{HEAD}")
            return spec.model_copy(update={"model": HEAD_READS, "inputs": read})
        under = (f"M{spec.t}", "M0") if name == IMPLICIT else ()
        read = (*spec.inputs, *(self.tokens_under(model).name for model in under))
        return spec.model_copy(update={"inputs": read})

    def score(self, model: str) -> StageSpec:
        """The stage that scores the completions under a model."""
        return self.reader(f"score/{model}", "score", f"score under {model}", model=model)

    def score_column(self, name: str, parts: MethodParts, limit: int) -> StageSpec:
        """The stage that fills a score column, for whose answers `limit` tokens are drawn."""
        witness = parts.answered.columns.get(name) if parts.answered else None
        if witness is not None:
            words = f"answers of {witness}"
            spec = self.reader(f"answer/{witness}", "answer", words, model=witness)
            return spec.model_copy(update={"column": name, "max_completion_tokens": limit})
        if name == SELF_CERTAINTY:
            model = str(self.spec.model)
            words = f"certainty of {model}"
            return self.reader(f"score/{name}", "certainty", words, model=model, column=name)
        if name in TOKEN_REWARDS:
            return self.token_reward(name)
        kind, words = COLUMNS_WITHOUT_MODEL.get(name, ("text_score", f"score by {name}"))
        return self.reader(f"score/{name}", kind, words, column=name)
