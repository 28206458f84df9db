"""The edges of the house: what a heavy part must offer to be plugged in. One or two methods each.

Implementations are plain final classes; nothing inherits from anything here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from cream.types import (
    Added,
    Example,
    Message,
    Prompt,
    RankedPair,
    SampledGroup,
    SamplingRequest,
    ScoredGroup,
    ScoringRequest,
    Transformed,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn."""

    temperature: float
    """>= 0; 0 is greedy."""
    top_p: float
    """Nucleus mass in (0, 1]; 1 keeps the whole vocabulary."""
    max_completion_tokens: int
    """Tokens after which a completion is cut off (finish reason ``length``)."""
    stop_ids: tuple[int, ...]
    """Token ids that end a completion; the sampled one is kept as its last token."""


@runtime_checkable
class Sampler(Protocol):
    """Draws completions, ids in and ids out."""

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """Yield one group per request, in any order, joined by ``prompt_id``.

        A completion depends on its prompt, its seed and the params; on its neighbours in the
        batch only through floating-point order.
        """
        ...


@runtime_checkable
class LogpScorer(Protocol):
    """Log-probabilities of given completions, ids in and numbers out."""

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        """Yield one group per request, in any order, joined by ``prompt_id``."""
        ...


class Capability(StrEnum):
    """What an engine can do with a model beside drawing completions."""

    LOGPS = "log_probabilities"
    """Its scorer is its own; elsewhere log-probabilities come from torch."""
    IN_PROCESS = "in_process"
    """Its sampler runs on the loaded checkpoint that also scores; nothing is started for it."""
    HIDDEN_STATES = "hidden_states"
    """Hidden states at any position can be had."""
    GRADIENTS = "gradients"
    """The very model that samples can be trained."""
    LORA = "lora"
    """An adapter is applied to its base without being merged into it."""


@runtime_checkable
class Engine(Protocol):
    """Samples from and scores under the models of a run, named M0, M1, ..."""

    @property
    def name(self) -> str:
        """What it is called in recipes and records."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beside drawing completions."""
        ...

    def sampler(self, model: str) -> Sampler:
        """A model to draw completions from; the one before it may be given up."""
        ...

    def scorer(self, model: str) -> LogpScorer:
        """A model to score completions under; the one before it may be given up."""
        ...


@runtime_checkable
class OwnSampler(Protocol):
    """Makes a `Sampler` of each model that completions are drawn from."""

    fingerprint: str

    def of(self, model: Any) -> Sampler:
        """A sampler of this model (transformers, in the compute dtype, on the run's device)."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Tells whether a completion answers its prompt correctly."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if this prompt cannot be verified (no reference answer)."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Messages and texts to the token ids that the policy reads and would have to sample."""

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """A conversation up to where the assistant begins to speak."""
        ...

    def encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """An answer to it, end token included."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, for people and verifiers."""
        ...


@runtime_checkable
class Transform(Protocol):
    """Stands between pairs and training: the pairs of an iteration in, training examples out."""

    def transform(self, pairs: Sequence[RankedPair], encoder: TextEncoder) -> Iterable[Transformed]:
        """Answer every pair once, in any order, joined by ``pair_id``."""
        ...


@runtime_checkable
class Addition(Protocol):
    """Adds what an option of the objective reads to the example of each pair."""

    name: str
    """As it stands in a recipe."""
    fingerprint: str
    """A text that changes whenever what is added changes."""
    columns: tuple[str, ...]
    """Columns of a pair (`cream.types.RankedPair.columns`) that its example keeps."""

    def add(self, pair: RankedPair, encoder: TextEncoder) -> Added:
        """What this pair gets."""
        ...

    def figures(self, examples: Sequence[Example]) -> Mapping[str, float | None]:
        """What a report should show of them all, by name; None where there is no figure.

        Raises:
            RunError: Too few pairs got what the option needs.
        """
        ...


@runtime_checkable
class Tracker(Protocol):
    """Takes metrics as they come. Names follow the field (``rewards/margins``, ``loss``)."""

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Record metrics of one step of one stage."""
        ...

    def close(self) -> None:
        """Write or send whatever is still held. A later `log` opens the tracker again."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Told what is happening, shows it. One stage at a time.

    A user who wants to stop is heard here: `advance` and `start` may raise to leave.
    """

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A stage begins: `total` units, `done` of which are kept from an earlier attempt.

        A `total` of 0 says that it is not known yet, and that nothing is kept before the end.
        """
        ...

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """`count` more units are done and kept; `live` holds figures worth showing."""
        ...

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """`done` of `total` units are done, whether kept already or not."""
        ...

    def finish(self, result: str = "") -> None:
        """The stage is done; `result` is its outcome in a few words."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know."""
        ...
