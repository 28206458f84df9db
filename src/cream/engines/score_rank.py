"""The program of a rank that scores: a shard of a model, and questions from a folder.

Every rank reads every question and cuts it in the same way; rank r runs batches r, r + size, ...,
and one that has none left in a round runs a ghost (`cream.training.sharding`). The model runs in
its own form, as in one process that cannot fuse it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cream.engines.batching import out_of_memory
from cream.engines.plain import score_plainly, target_logps
from cream.engines.scorer import (
    TILE_ROWS,
    Collected,
    Unit,
    batch_values,
    batches,
    finite,
    longest,
    units_of,
)
from cream.engines.trial import fast_form, require_causal
from cream.errors import ModelError
from cream.models.hidden import Backbone
from cream.models.loading import load_model, weightless_model
from cream.runs.files import read_json, read_table, write_table
from cream.runs.tables import with_metadata
from cream.training.rank import JOB, main
from cream.training.sharding import World, shard
from cream.types import ScoredGroup, ScoringRequest

SCORES = "cream.engines.score_rank"
"""This module, as it is started."""
QUESTION, ANSWER = "question-{}.parquet", "answer-{}.parquet"
LOOK_SECONDS = 0.01
_IDS = pa.list_(pa.int64())
_QUESTION = pa.schema(
    [("prompt_id", pa.string()), ("prompt", _IDS), ("completions", pa.list_(_IDS))]
)
_ANSWER = pa.schema([("prompt_id", pa.string()), ("token_logps", pa.list_(pa.list_(pa.float32())))])


class _Scoring(nn.Module):
    """A model as one call from a batch to the log-probabilities in it: the root of its shards."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Sequence[Unit], backbone: Backbone | None) -> Tensor:
        """Packed, or, without a backbone, the only completion of a batch by the model itself."""
        if backbone is not None:
            return batch_values(backbone, batch, TILE_ROWS, target_logps).clone()
        ((unit,),) = (batch,)
        alone = ScoringRequest(
            unit.request.prompt_id, unit.request.prompt_token_ids, unit.completions
        )
        return score_plainly(self.model, alone, TILE_ROWS, target_logps)[0].clone()


class Scorer:
    """One rank's part in the scoring of all.

    Args:
        model: On rank 0 with its weights; on the others weights on ``meta`` will do. Changed.
        token_budget: Tokens per forward of a rank.
        world: The ranks.

    Raises:
        ModelError: The model is not causal, or cannot be divided.
    """

    def __init__(self, model: Any, token_budget: int, world: World) -> None:
        found = None
        if world.rank == 0:
            require_causal(model)
            backbone, reach = fast_form(model, fuses=False)
            found = backbone is not None, reach
        packs, self._reach = world.from_first(found)
        dtype = next(model.parameters()).dtype
        self._root = shard(_Scoring(model), model, dtype, world)
        self._backbone = Backbone(model, fuses=False) if packs else None
        self._token_budget, self._world = token_budget, world

    def plain_reason(self, requests: Sequence[ScoringRequest]) -> str:
        """Why (some) of them take the slow path; empty if none do."""
        return "" if all(map(self._fits, requests)) else self._reach.reason

    def _fits(self, request: ScoringRequest) -> bool:
        return self._backbone is not None and self._reach.holds(longest(request))

    def score(self, requests: Sequence[ScoringRequest]) -> list[ScoredGroup]:
        """Groups of all requests, on every rank.

        Raises:
            ModelError: Memory does not hold a batch.
            NotFiniteError: Logits are NaN or infinite.
        """
        collected, work = Collected(requests), list(self._work(requests))
        done = [g for k, values in self._values(work) for g in collected.add(work[k][0], values)]
        return list(finite(requests, [*done, *collected.empty()]))

    def _work(
        self, requests: Sequence[ScoringRequest]
    ) -> Iterator[tuple[list[Unit], Backbone | None]]:
        """Batches of all ranks, whatever their number; each with the form that runs it."""
        units = units_of(requests, self._token_budget)
        for batch in batches([u for u in units if self._fits(u.request)], self._token_budget):
            yield batch, self._backbone
        for unit in units:
            if not self._fits(unit.request):  # a forward each: ranks call layers equally often
                for completion in unit.completions:
                    yield [Unit(unit.index, unit.request, (completion,))], None

    def _values(
        self, work: Sequence[tuple[list[Unit], Backbone | None]]
    ) -> Iterator[tuple[int, Tensor]]:
        """What was read of every batch, with its place in the work; on every rank."""
        mine: list[tuple[int, Tensor]] = []
        for k, counts in self._world.share(range(len(work))):
            values = self._run(*work[k])
            if counts:
                mine.append((k, values.cpu()))
        return chain.from_iterable(self._world.from_all(mine))

    def _run(self, batch: list[Unit], backbone: Backbone | None) -> Tensor:
        try:
            # Not inference mode: shards are gathered into memory that outlives a batch.
            with torch.no_grad():
                return self._root(batch, backbone)
        except (MemoryError, RuntimeError) as error:
            problem = out_of_memory(error)
            raise ModelError(
                f"rank {self._world.rank} of {self._world.size} is out of memory while scoring "
                f"prompt {batch[0].request.prompt_id} ({problem}); lower scoring.token_budget, or "
                "score on more ranks (scoring.ranks)"
            ) from error


def serve(folder: Path, world: World) -> None:
    """Answer questions until standard input ends."""
    job = read_json(folder / JOB)
    start, dtype = Path(job["model"]), getattr(torch, job["dtype"])
    load = load_model if world.rank == 0 else weightless_model
    model = load(start, dtype=dtype, trust_remote_code=job["trust_remote_code"])
    scorer = Scorer(model, job["token_budget"], world)
    for number in count():
        asked = folder / QUESTION.format(number)
        while not asked.exists():
            time.sleep(LOOK_SECONDS)
        requests = _requests_of(read_table(asked))
        groups = scorer.score(requests)
        if world.rank == 0:
            table = _answer(groups, plain_reason=scorer.plain_reason(requests))
            write_table(folder / ANSWER.format(number), table)


def question(requests: Sequence[ScoringRequest]) -> pa.Table:
    """Requests as ranks read them."""
    rows = [
        {"prompt_id": r.prompt_id, "prompt": r.prompt_token_ids, "completions": r.completions}
        for r in requests
    ]
    return pa.Table.from_pylist(rows, _QUESTION)


def _requests_of(table: pa.Table) -> list[ScoringRequest]:
    return [
        ScoringRequest(
            row["prompt_id"], tuple(row["prompt"]), tuple(map(tuple, row["completions"]))
        )
        for row in table.to_pylist()
    ]


def _answer(groups: Sequence[ScoredGroup], *, plain_reason: str) -> pa.Table:
    rows = [{"prompt_id": g.prompt_id, "token_logps": list(g.token_logps)} for g in groups]
    return with_metadata(pa.Table.from_pylist(rows, _ANSWER), {"plain_reason": plain_reason})


def groups_of(table: pa.Table) -> list[ScoredGroup]:
    """What ranks answered."""
    return [
        ScoredGroup(row["prompt_id"], tuple(np.array(x, np.float32) for x in row["token_logps"]))
        for row in table.to_pylist()
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), serve))
