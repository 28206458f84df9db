"""The completions of one iteration with the rewards and ranks that its pairs were made by.

Values are computed again from the score matrix by the quantities of the run's plan, so they are
those that decided. Ranks here are by value alone; the method also treats values within the noise of
each other as tied. `cream explain` and the page both tell of a prompt from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64
from pydantic import Field

from cream.algorithms.groups import chunks, pad
from cream.recipe.columns import (
    EXTRACTED,
    TOKEN_REWARDS,
    VERIFIER,
    ends_column,
    token_column,
)
from cream.recipe.parts import Agreement, MethodParts
from cream.records import Count, MatrixSummary, Record
from cream.runs.files import read_table
from cream.runs.reader import ADVANTAGES, PAIRS, PROMPTS, FinishedStage, RunReader, rows_of
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, matrix_from_tables
from cream.stages.layout import Layout
from cream.types import Origin

ADVANTAGE = "advantage"
VERDICTS = {True: "right", False: "wrong"}


class Turn(Record):
    """One turn of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as the run keeps it."""

    task: str
    turns: Sequence[Turn]
    answer: str | None


class TokenRewards(Record):
    """A reward of every token of a completion."""

    column: str
    ends: list[Count]
    """Where each token ends in the text, in characters."""
    rewards: list[float]


class ExplainedCompletion(Record):
    """A completion of the prompt, in stored order."""

    completion_id: str
    text: str
    num_tokens: Count
    origin: str
    """Who made it: policy, past, future, an editor (``edited``), or the data."""
    truncated: bool
    copy_of: str | None
    """Id of the completion before it that has the same tokens."""
    right: bool | None
    """By the verifier; null without a verdict."""
    extracted: str | None
    """Answer that the verifier found in it."""
    figures: dict[str, float | None]
    """Log-probability sums per model, and each ranking's values, nats."""
    ranks: dict[str, float | None]
    """In each ranking; 1 is best, ties share their mean rank."""
    notes: list[str]
    token_rewards: TokenRewards | None = Field(default=None, exclude_if=lambda value: value is None)
    """Null where its tokens have none."""


class ExplainedPair(Record):
    """A pair of the prompt."""

    chosen_id: str
    rejected_id: str
    chosen_reward: float
    rejected_reward: float
    consistency: float
    weight: float


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a prompt."""

    outcome: str
    correlation: float | None
    """Of the rankings that were compared."""
    definedness: str
    """``defined``, why there is no correlation, or empty if nothing was compared."""


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """What a witness answers to a prompt."""

    witness: str
    text: str
    given_by: Sequence[str]
    """Ids of the completions that are the same answer."""


@dataclass(frozen=True)
class RankedSet:
    """Everything numeric about an iteration's completions; texts are read part by part."""

    t: int
    parts: MethodParts
    compared: Agreement | None
    """What the pair stage measured."""
    matrix: FinishedStage
    layout: Layout
    values: Mapping[str, Float64[np.ndarray, "prompt member"]]
    """Of the reward, then of what was compared, by name; the advantages of a method without pairs,
    NaN where a sample is not trained on."""
    ranks: Mapping[str, Float64[np.ndarray, "prompt member"]]
    """1 is best; NaN where a completion may not be paired or has no value."""
    decided: Mapping[str, Decided]
    """By prompt id, as the next."""
    pairs: Mapping[str, list[ExplainedPair]]

    def place(self, prompt_id: str) -> int:
        """Number of a prompt's group."""
        return self.layout.matrix.prompt_ids.tolist().index(prompt_id)

    def groups(self) -> Iterator[tuple[str, list[ExplainedCompletion]]]:
        """Each prompt's id with its completions, in the order of the files."""
        place = {key: g for g, key in enumerate(self.layout.matrix.prompt_ids.tolist())}
        for path in self.matrix.paths:
            for key, texts in self._texts(path).items():
                yield key, self._completions(place[key], texts)

    def completions(self, prompt_id: str) -> list[ExplainedCompletion]:
        """Those of one prompt."""
        for path in self.matrix.paths:
            texts = self._texts(path).get(prompt_id)
            if texts is not None:
                return self._completions(self.place(prompt_id), texts)
        raise KeyError(prompt_id)

    def witness_answers(self, prompt_id: str) -> list[WitnessAnswer]:
        """Answers of the witnesses that were asked for one, in the method's order."""
        asked = self.parts.answered.columns if self.parts.answered else {}
        found = []
        for column, witness in asked.items():
            names = ("prompt_id", "completion_id", column, f"{column}_text")
            rows = [
                (member, same, text)
                for path in self.matrix.paths
                for key, member, same, text in rows_of(read_table(path, list(names)), *names)
                if key == prompt_id
            ]
            given = [member for member, same, _ in rows if same == 1]
            found.append(WitnessAnswer(witness, rows[0][2], given))
        return found

    def _texts(self, path: Any) -> dict[str, dict[str, tuple[Any, ...]]]:
        """Per prompt and completion: text, origin, verdict, extracted answer, token rewards."""
        there = set(pq.read_schema(path).names)
        names = ["prompt_id", "completion_id", "text", "origin"]
        found: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
        rewards = [name for name in TOKEN_REWARDS if name in there]
        lists = [make(name) for name in rewards[:1] for make in (ends_column, token_column)]
        optional = [*(name for name in (VERIFIER, EXTRACTED) if name in there), *lists]
        for key, member, text, origin, *rest in rows_of(
            read_table(path, [*names, *optional]), *names, *optional
        ):
            told = dict(zip(optional, rest, strict=True))
            by_token = None
            if lists and told[lists[1]] is not None:
                ends, values = (told[name] for name in lists)
                by_token = TokenRewards(column=rewards[0], ends=ends, rewards=values)
            verdict, extracted = told.get(VERIFIER), told.get(EXTRACTED)
            found[key][member] = (text, origin, verdict, extracted, by_token)
        return found

    def _completions(
        self, g: int, texts: Mapping[str, tuple[Any, ...]]
    ) -> list[ExplainedCompletion]:
        layout, groups = self.layout, self.layout.groups
        first: dict[int, str] = {}
        found = []
        for member in np.flatnonzero(groups.present[g]).tolist():
            row = groups.rows[g, member]
            key = str(layout.matrix.completion_ids[row])
            same = first.setdefault(int(groups.ids_hash[g, member]), key)
            text, origin, verdict, extracted, by_token = texts[key]
            right = {1.0: True, 0.0: False}.get(verdict)
            truncated = bool(layout.truncated[g, member])
            logps = {LOGP_PREFIX + m: float(v[row]) for m, v in layout.matrix.logps.items()}
            values = {name: float(column[g, member]) for name, column in self.values.items()}
            placed = {name: float(column[g, member]) for name, column in self.ranks.items()}
            notes = [VERDICTS[right]] if right is not None else []
            notes += ["duplicate"] if not groups.distinct[g, member] else []
            notes += ["truncated"] if truncated else []
            notes += [f"origin {origin}"] if origin != Origin.POLICY else []
            found.append(
                ExplainedCompletion(
                    completion_id=key,
                    text=text,
                    num_tokens=int(layout.num_tokens[g, member]),
                    origin=origin,
                    truncated=truncated,
                    copy_of=None if same == key else same,
                    right=right,
                    extracted=extracted,
                    figures={name: _finite(v) for name, v in (logps | values).items()},
                    ranks={name: _finite(v) for name, v in placed.items()},
                    notes=notes,
                    token_rewards=by_token,
                )
            )
        return found


def read_ranked_set(run: RunReader, t: int) -> RankedSet:
    """Read iteration t of a run, whose pairs or weights are finished.

    Raises:
        RunError: A stage of it is not finished, or a file is damaged.
    """
    decisive, matrix, parts = run.decisions[t], run.needed("matrix", t), run.plan.parts[t]
    compared = run.compared(t)
    layout = _layout(matrix, parts)
    asked = [parts.reward, *((compared.first, compared.second) if compared else ())]
    values = {str(q): layout.quantity(q).values for q in dict.fromkeys(asked)}
    counted = layout.usable & layout.groups.distinct
    placed = {name: ranks(one, counted) for name, one in values.items()}
    if parts.advantage is not None:
        values[ADVANTAGE] = _advantages(decisive, layout)
    return RankedSet(
        t=t,
        parts=parts,
        compared=compared,
        matrix=matrix,
        layout=layout,
        values=values,
        ranks=placed,
        decided=_decided(decisive, paired=parts.advantage is None),
        pairs={} if parts.advantage is not None else _pairs(decisive),
    )


def _decided(stage: FinishedStage, *, paired: bool) -> dict[str, Decided]:
    compared = ("correlation", "definedness") if paired else ()
    names = ("prompt_id", "outcome", *compared)
    nothing = () if paired else (None, "")
    rows = rows_of(stage.file(PROMPTS, names), *names)
    return {key: Decided(*told, *nothing) for key, *told in rows}


def _advantages(stage: FinishedStage, layout: Layout) -> Float64[np.ndarray, "prompt member"]:
    """Of every sample, joined by id."""
    names = ("completion_id", ADVANTAGE)
    known = dict(rows_of(stage.file(ADVANTAGES, names), *names))
    flat = [known.get(key) for key in layout.matrix.completion_ids.tolist()]  # an edit has none
    return pad(np.array(flat, dtype=np.float64), layout.groups)


def ranks(
    values: Float64[np.ndarray, "prompt member"], counted: Bool[np.ndarray, "prompt member"]
) -> Float64[np.ndarray, "prompt member"]:
    """Rank of each counted value in its group, 1 the highest, ties their mean rank; else NaN."""
    found = np.full(values.shape, np.nan)
    counted = counted & ~np.isnan(values)
    count, width = values.shape
    for rows in chunks(count, width * width):
        some, counts = values[rows], counted[rows]
        others, own = some[:, None, :], some[:, :, None]
        larger = ((others > own) & counts[:, None, :]).sum(axis=2)
        equal = ((others == own) & counts[:, None, :]).sum(axis=2)
        found[rows] = np.where(counts, 1 + larger + (equal - 1) / 2, np.nan)
    return found


def read_asked(stages: Iterable[FinishedStage]) -> dict[str, Asked]:
    """Prompts that stages keep, by id."""
    return {
        key: Asked(task, [Turn.model_validate(turn) for turn in turns], answer)
        for stage in stages
        for key, turns, task, answer in stage.rows("prompt_id", "prompt", "task", "answer")
    }


def _layout(stage: FinishedStage, parts: MethodParts) -> Layout:
    there = pq.read_schema(stage.paths[0]).names
    logps = stage.summary(MatrixSummary).columns
    scores = [name for name in dict.fromkeys((*parts.score_columns, VERIFIER)) if name in there]
    columns = [
        *BASE_COLUMNS,
        *(LOGP_PREFIX + name for name in logps),
        *scores,
        *parts.label_columns,
    ]
    tables = list(stage.tables(list(dict.fromkeys(columns))))
    matrix = matrix_from_tables(tables, logps, scores, parts.label_columns)
    return Layout(matrix, parts.rule, parts.reward)


def _pairs(paired: FinishedStage) -> dict[str, list[ExplainedPair]]:
    found: dict[str, list[ExplainedPair]] = defaultdict(list)
    names = tuple(ExplainedPair.model_fields)
    for key, *told in rows_of(paired.file(PAIRS, ("prompt_id", *names)), "prompt_id", *names):
        found[key].append(ExplainedPair(**dict(zip(names, told, strict=True))))
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
