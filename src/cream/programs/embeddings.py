"""Embeddings of users' answers, kept part by part like a stage of a run, and choices among them.

Embeddings are what costs: a job that was killed goes on where it was, and the same answers scored
for another user cost nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from cream.algorithms.steering import Choices
from cream.data.preferences import ContextSet, Response
from cream.engines.embedder import Embedder
from cream.errors import DataError
from cream.loop.context import ExternalSteering
from cream.loop.stage_runner import batched, run_shards
from cream.protocols import Progress
from cream.records import StageSpec
from cream.runs.store import Run, Stage, fingerprint
from cream.stages.score import tally_scores, text_of
from cream.types import Tally, counts

EMBEDDINGS = "embeddings"
TEXTS_PER_PART = 256
SCHEMA = pa.schema(
    [
        ("completion_id", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of different answers: their numbers by id, or why one has none."""

    numbers: Mapping[str, int]
    reasons: Mapping[str, str]
    vectors: Float32[np.ndarray, "completion hidden"]


@dataclass(frozen=True, slots=True)
class ToldChoices:
    """Choices of users, their completions by number."""

    users: list[Choices]
    """In the order given, without choices that cannot be read."""
    tally: Tally
    """Choices: ``trained``, or the reason why a completion has no embedding."""


def embed_responses(
    shown: Sequence[Response],
    make: Callable[[], Embedder],
    identity: Mapping[str, str],
    dtype: str,
    out: Path,
    progress: Progress,
) -> Embedded:
    """Embeddings of answers, equal ones once; what is kept of an earlier attempt is not made.

    Args:
        shown: Answers.
        make: Makes what embeds, if anything is missing.
        identity: What decides an embedding; see `cream.preflight.models.embedding_identity`.
        dtype: Of the model's arithmetic.
        out: Folder whose stage keeps them.
        progress: Shows what happens.

    Raises:
        DataError: No answer can be read.
        RunError: The folder holds embeddings of something else.
    """
    different = list({one.completion_id: one for one in shown}.values())
    spec = StageSpec(
        name=EMBEDDINGS, kind="text_score", label="embeddings", completions=len(different)
    )
    ids = [one.completion_id for one in different]
    inputs = {**identity, "dtype": dtype, "completions": fingerprint(ids)}
    made: list[Embedder] = []

    def work(shard: Sequence[Response]) -> pa.Table:
        if not made:
            made.append(make())
        found = {e.text_id: e for e in made[0].embed([text_of(one) for one in shard])}
        rows = [found[one.completion_id] for one in shard]
        told = [
            {"completion_id": e.text_id, "embedding": e.vector, "reason": e.reason} for e in rows
        ]
        return pa.Table.from_pylist(told, schema=SCHEMA)

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        reasons = pa.concat_tables(stage.tables(["reason"]))["reason"].to_pylist()
        tally = tally_scores(reasons)
        words = counts(tally.parts)
        return {"tally": {"total": tally.total, "parts": dict(tally.parts)}}, words

    stage = Run(out).stage(spec, inputs)
    run_shards(
        stage,
        progress,
        label=spec.label,
        unit="completions",
        shards=batched(different, TEXTS_PER_PART),
        work=work,
        summarise=summarise,
    )
    return _read(stage)


def embed_for(
    reward: ExternalSteering, shown: Sequence[Response], out: Path, progress: Progress
) -> Embedded:
    """Embeddings of answers that a reward reads; see `embed_responses`."""
    dtype = str(reward.checkpoints.compute_dtype)
    identity = reward.fitted.record["embedding"]
    return embed_responses(shown, reward.embedder, identity, dtype, out, progress)


def _read(stage: Stage) -> Embedded:
    table = pa.concat_tables(stage.tables(SCHEMA.names))
    embedding = table["embedding"]
    there, left = table.filter(embedding.is_valid()), table.filter(embedding.is_null())
    reasons = dict(zip(left["completion_id"].to_pylist(), left["reason"].to_pylist(), strict=True))
    if not len(there):
        raise DataError(f"no completion can be read: {dict(Counter(reasons.values()))}")
    flat = there["embedding"].combine_chunks().flatten().to_numpy().copy()  # arrow's is read-only
    numbers = {name: k for k, name in enumerate(there["completion_id"].to_pylist())}
    return Embedded(numbers, reasons, flat.reshape(len(there), -1))


def numbered_choices(users: Sequence[ContextSet], found: Embedded) -> ToldChoices:
    """Choices of users whose completions both have an embedding."""
    counts: Counter[str] = Counter()
    told = []
    for user in users:
        numbers = []
        for row in user.rows:
            sides = (row.winner.completion_id, row.loser.completion_id)
            why = next((found.reasons[i] for i in sides if i in found.reasons), None)
            counts[why or "trained"] += 1
            if why is None:
                numbers.append([found.numbers[i] for i in sides])
        pairs = np.array(numbers, dtype=np.int64).reshape(-1, 2)
        told.append(Choices(pairs[:, 0], pairs[:, 1]))
    parts = {"trained": counts.pop("trained", 0), **dict(sorted(counts.items()))}
    return ToldChoices(told, Tally(sum(parts.values()), parts))


def hashed_user(user_id: str) -> str:
    """How a reward remembers whom it was trained on."""
    return hashlib.blake2b(user_id.encode(), digest_size=8).hexdigest()
