"""The records that stages exchange. Frozen, without behaviour beyond their own invariants.

Shapes use these letters: ``prompt`` (groups), ``completion`` (all completions of a table, flat),
``member`` (position inside a padded group), ``pair``, ``token``. Log-probabilities are natural
logarithms (nats) of completion tokens only, the end token included when it was sampled. Terms:
``docs/glossary.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int32, Int64

from cream.errors import DataError, TallyError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


@dataclass(frozen=True, slots=True)
class Goal:
    """A score that the policy is told to reach."""

    text: str
    """What it is told, the number included."""
    place: Literal["system", "user"]
    """In whose message."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is given. Identified by content, so equal prompts have equal ids."""

    prompt_id: str
    messages: tuple[Message, ...]
    task: str = "default"
    """Name of the task or dataset it belongs to; accuracy is reported per task."""
    answer: str | None = None
    """Reference answer, if the prompt is verifiable. Read by verifiers and reports only."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that a verifier needs beside the answer."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt with its token ids, the generation prompt (assistant header) included."""

    prompt: Prompt
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SeedExample:
    """A prompt with the completion that supervised fine-tuning imitates."""

    prompt: Prompt
    completion: str
    masked: tuple[tuple[int, int], ...] = ()
    """Spans of characters, [first, after the last), in order and apart, that no loss is taken of:
    what the policy reads in its own completion and shall not learn to say."""

    @property
    def content(self) -> list[Any]:
        """What it is, for fingerprints."""
        return [self.prompt.prompt_id, self.completion, *([self.masked] if self.masked else [])]


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The policy sampled an end token, which is the last of ``token_ids``."""
    LENGTH = "length"
    """The token limit cut it off; there is no end token."""


class Origin(StrEnum):
    """Who made a completion of an iteration's prompts."""

    POLICY = "policy"
    """The policy M_t."""
    PAST = "past"
    """An earlier model."""
    FUTURE = "future"
    """The future model, a first version of the next policy."""
    EDITED = "edited"
    """An editor, out of a completion of the policy."""
    GREEDY = "greedy"
    """The policy M_t at temperature 0; such an answer joins no group."""
    DATA = "data"
    """Nobody: a data set holds it."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy (or a data set) produced after a prompt. Token ids are the truth."""

    prompt_id: str
    completion_id: str
    token_ids: tuple[int, ...]
    """Completion tokens, the sampled end token included. These ids are scored and trained."""
    text: str
    """``token_ids`` decoded without special tokens: for people and verifiers; never tokenised."""
    finish_reason: FinishReason
    seed: int
    """Seed of this completion's own random stream."""
    sampling_logp: float | None = None
    """Log-probability under the *sampling* distribution (temperature and top-p applied), nats."""
    origin: Origin = Origin.POLICY


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """Ask for ``len(seeds)`` completions of one prompt, given as token ids."""

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """`prompt_token_ids` by its first name, which scripts outside use."""
        return self.prompt_token_ids


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One sampled completion, before it is decoded."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    sampling_logp: float


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """All completions of one request, in the order of its seeds."""

    prompt_id: str
    completions: tuple[SampledTokens, ...]


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """Given completions of one prompt, all as token ids, to be scored under a model."""

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """`prompt_token_ids` by its first name, which scripts outside use."""
        return self.prompt_token_ids


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """Token log-probabilities of a request's completions, in the order of the request."""

    prompt_id: str
    token_logps: tuple[np.ndarray, ...]
    """One float32 array per completion; entry i is log p(token i | prompt, tokens before i)."""


@dataclass(frozen=True)
class ScoreMatrix:
    """Completions x models: everything the method decides is a function of this table.

    Rows are grouped by prompt: group g holds rows ``group_offsets[g]:group_offsets[g + 1]``.
    """

    prompt_ids: np.ndarray
    """Unique prompt ids, one per group (object or str array, shape ``(prompt,)``)."""
    group_offsets: Int64[np.ndarray, " prompt_plus_one"]
    completion_ids: np.ndarray
    num_tokens: Int32[np.ndarray, " completion"]
    truncated: np.ndarray
    """Boolean: the completion was cut off at the token limit."""
    ids_hash: Int64[np.ndarray, " completion"]
    """Hash of the token ids (end token included); equal hashes are duplicates."""
    logps: Mapping[str, Float64[np.ndarray, " completion"]]
    """Per model (``M0``, ``M1``, ...): token log-prob sums, nats. NaN where not scored."""
    noise: Mapping[str, float]
    """Per model: noise floor of scoring, nats per square root of a token (see `stages.score`)."""
    scores: Mapping[str, Float64[np.ndarray, " completion"]] = field(default_factory=dict)
    """Other columns (``verifier``, ``judge``, ...). NaN where absent; why is in the file."""
    labels: Mapping[str, Int64[np.ndarray, " completion"]] = field(default_factory=dict)
    """Text columns as codes (``extracted``): equal codes are equal texts; -1 where absent."""
    origin: np.ndarray | None = None
    """Who made each completion (`Completion.origin`); None where it was not read."""


@dataclass(frozen=True)
class PairTable:
    """Preference pairs as columns; row i is one pair. Joined to completions by id."""

    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray
    chosen_reward: Float64[np.ndarray, " pair"]
    rejected_reward: Float64[np.ndarray, " pair"]
    consistency: Float64[np.ndarray, " pair"]
    """The C that enters the loss, in [0, 1], after averaging, shrinking and the floor."""
    weight: Float64[np.ndarray, " pair"]
    """Factor on the pair's loss, >= 0; 1 unless the method weighs pairs."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def completion_ids(self) -> set[str]:
        """Those of both sides of all pairs."""
        return {*self.chosen_ids.tolist(), *self.rejected_ids.tolist()}

    def rows(self) -> Iterator[PairRow]:
        """One pair after another."""
        columns = (getattr(self, column.name).tolist() for column in fields(self))
        return (PairRow(*values) for values in zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair of a `PairTable`."""

    prompt_id: str
    chosen_id: str
    rejected_id: str
    chosen_reward: float
    rejected_reward: float
    consistency: float
    weight: float

    @property
    def pair_id(self) -> str:
        """Names the pair wherever it goes: as a training example, in a transform, in an export."""
        return f"{self.chosen_id}>{self.rejected_id}"


@dataclass(frozen=True, slots=True)
class Tally:
    """How many items a stage took and what became of each kind. Raises if it does not add up."""

    total: int
    parts: Mapping[str, int]

    def __post_init__(self) -> None:
        if sum(self.parts.values()) != self.total or min(self.parts.values(), default=0) < 0:
            raise TallyError(f"tally does not add up: total {self.total}, parts {dict(self.parts)}")


def counts(parts: Mapping[str, int], *, without: Sequence[str] = ()) -> str:
    """Named counts that are not 0, on a line."""
    return ", ".join(f"{name} {n}" for name, n in parts.items() if n and name not in without)


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids that follow a prompt, with what is known of them token by token.

    Raises:
        DataError: A mask or column has another length than the token ids.
    """

    token_ids: tuple[int, ...]
    reference_logps: float | None = None
    """Log-prob sum over the tokens of `loss_mask` under the loss reference, nats; None: absent."""
    prompt_token_ids: tuple[int, ...] | None = None
    """Its own prompt, where it is not the example's."""
    loss_mask: tuple[bool, ...] | None = None
    """Which tokens the objective may score; None: all."""
    token_columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Further values by name, one per token: entry i judges token i."""

    def __post_init__(self) -> None:
        aligned = {name: len(values) for name, values in self.token_columns.items()}
        if self.loss_mask is not None:
            aligned["loss_mask"] = len(self.loss_mask)
        for name, length in aligned.items():
            if length != len(self.token_ids):
                raise DataError(f"{name}: {length} values for {len(self.token_ids)} tokens")


@dataclass(frozen=True, slots=True)
class Example:
    """What one loss is computed from: a prompt and named sequences, with what is known of them."""

    example_id: str
    prompt_token_ids: tuple[int, ...]
    sequences: Mapping[str, TokenSequence]
    """By role: ``completion`` for fine-tuning, ``chosen`` and ``rejected`` for a pair, or any other
    that an objective names."""
    columns: Mapping[str, float] = field(default_factory=dict)
    """Further values of the example by name, such as ``consistency``."""
    weight: float = 1.0
    """Factor on the example's loss, >= 0."""

    def prompt_of(self, role: str) -> tuple[int, ...]:
        """Prompt of a sequence: its own, else the example's."""
        own = self.sequences[role].prompt_token_ids
        return self.prompt_token_ids if own is None else own


@dataclass(frozen=True, slots=True)
class RankedPair:
    """A preference pair with everything the run knows of it: what a transform is given."""

    pair_id: str
    prompt: Prompt
    prompt_token_ids: tuple[int, ...]
    chosen: Completion
    rejected: Completion
    chosen_reward: float
    rejected_reward: float
    consistency: float
    """The C that enters the loss."""
    weight: float
    chosen_reference: float
    """Log-prob sum of the chosen completion under the loss reference, nats."""
    rejected_reference: float
    columns: Mapping[str, float] = field(default_factory=dict)
    """What the score matrix knows of both sides: ``chosen_x`` and ``rejected_x`` for every column x
    of a completion that has a value, such as ``chosen_logps_M0``."""


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform makes of one pair: examples, or none and why."""

    pair_id: str
    examples: tuple[Example, ...]
    """A sequence without ``reference_logps`` is scored under the loss reference afterwards."""
    reason: str | None = None
    """Why there is none, in a word that can be counted; None if there are examples."""


@dataclass(frozen=True, slots=True)
class Added:
    """What an option of the objective adds to the example of a pair."""

    sequences: Mapping[str, TokenSequence] = field(default_factory=dict)
    """Further sequences by role."""
    columns: Mapping[str, float] = field(default_factory=dict)
    """Further values of the example."""
    reason: str | None = None
    """Why the pair has none of these, in a word that can be counted; it is trained on without."""


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """Tokens that run through the model beside those of a pair in training, as multiples."""

    prompts: float = 0.0
    """Of a prompt's tokens, per pair."""
    completions: float = 0.0
    """Of a completion's tokens, per pair."""
    verdicts: float = 0.0
    """Of the tokens of a verdict question without prompt and responses, per pair."""

    def __add__(self, other: AddedTokens) -> AddedTokens:
        """Both."""
        return AddedTokens(
            self.prompts + other.prompts,
            self.completions + other.completions,
            self.verdicts + other.verdicts,
        )


@dataclass(frozen=True, slots=True)
class SetConsistency:
    """The C of a whole set of pairs, with its interval."""

    rate: float
    low: float
    high: float
    level: Literal["set", "sample", "pair"]
    """Which level the pairs carry; only ``set`` can decide about the stage as a whole."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's answer about one completion."""

    correct: bool
    partial_credit: float
    """The task's own graded score in [0, 1]; reported apart and never counted as accuracy."""
    extracted: str | None
    """The answer found in the text, or None if none could be found (counted, never guessed)."""
