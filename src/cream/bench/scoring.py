"""Scoring cases: the torch scorer and the padded forward with all logits, on the same completions.

The padded forward follows the description of the original CREAM code (one padded row per prompt and
completion, logits of all tokens, log-softmax in the model's dtype, then a gather); nothing of it is
copied. Both compute in the same dtype. Before the timing both score a few groups in float32, where
they must agree to `TOLERANCE`, and everything in the dtype that is timed, where the baseline's
log-softmax is rounded to that dtype and the mean difference is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from cream.bench.contest import Case, Contestant
from cream.bench.floors import Floor, Group, forward_seconds
from cream.bench.inputs import Subject, batched, padding_share, scoring_requests
from cream.engines.scorer import TorchScorer
from cream.errors import BenchmarkError
from cream.types import ScoredGroup, ScoringRequest

PADDED_ROWS = 16
"""Rows per forward with all logits: 16 x 500 tokens x 49152 numbers are 0.8 GB in bfloat16."""
TOLERANCE = 1e-4
"""Largest difference of a token log-probability in float32, nats."""
LOW_PRECISION_TOLERANCE = 0.1
"""Largest mean difference in bfloat16, nats: its numbers near 8 are 0.06 apart."""
CHECKED_GROUPS = 2
"""Groups that are compared in float32, two completions each."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long prompts and completions are: uniform within these ranges, ends included."""

    name: str
    prompts: tuple[int, int]
    completions: tuple[int, int]

    @property
    def longest(self) -> int:
        """Longest prompt and completion together, in tokens."""
        return self.prompts[1] + self.completions[1]


LENGTHS = (
    Lengths("P~100, R~100", (80, 120), (60, 140)),
    Lengths("P~400, R~100", (360, 440), (60, 140)),
)


def scoring_case(subject: Subject, lengths: Lengths, floor: Floor, *, quick: bool) -> Case:
    """Check that both score alike, and make the case.

    Raises:
        BenchmarkError: They differ by more than the tolerances.
    """
    count, n = (4 if quick else 16), 5
    requests = scoring_requests(subject.encoder, count, n, lengths.prompts, lengths.completions)
    pad_id = subject.encoder.end_of_turn_id
    scorer = TorchScorer(subject.model)
    notes = check_scores(subject, scorer, requests, pad_id)
    tokens = sum(len(c) for r in requests for c in r.completions)
    rows = [len(r.prompt_token_ids) + len(c) for r in requests for c in r.completions]
    padding = padding_share(rows, PADDED_ROWS)
    groups = [Group(len(r.prompt_token_ids), tuple(map(len, r.completions))) for r in requests]

    def run(scored: Iterable[ScoredGroup]) -> float:
        return float(sum(len(logps) for group in scored for logps in group.token_logps))

    assert run(scorer.score(requests)) == tokens
    return Case(
        name=f"scoring: {lengths.name}, {count} x {n}",
        unit="completion tokens/s",
        contestants=(
            Contestant("cream", lambda: run(scorer.score(requests))),
            Contestant(
                "padded, all logits",
                lambda: run(score_padded(subject.model, requests, pad_id=pad_id)),
            ),
        ),
        least_seconds=forward_seconds(subject.shape, floor, groups, subject.dtype_name),
        notes=(
            f"both {subject.dtype_name}; baseline: {PADDED_ROWS} rows a forward, {padding:.0%} of "
            "its tokens are padding",
            *notes,
        ),
    )


def check_scores(
    subject: Subject, scorer: TorchScorer, requests: Sequence[ScoringRequest], pad_id: int
) -> tuple[str, ...]:
    """Compare both ways; returns what was found, in words.

    Raises:
        BenchmarkError: They differ by more than the tolerances.
    """
    found = []
    if subject.dtype != torch.float32:
        model: Any = deepcopy(subject.model).float()
        few = [replace(r, completions=r.completions[:2]) for r in requests[:CHECKED_GROUPS]]
        gaps = _gaps(TorchScorer(model).score(few), score_padded(model, few, pad_id=pad_id))
        _require(float(gaps.max()), TOLERANCE, "float32", "largest")
        found.append(f"float32: largest difference {gaps.max():.1e} nats of {TOLERANCE} allowed")
    gaps = _gaps(scorer.score(requests), score_padded(subject.model, requests, pad_id=pad_id))
    if subject.dtype == torch.float32:
        _require(float(gaps.max()), TOLERANCE, "float32", "largest")
        found.append(f"float32: largest difference {gaps.max():.1e} nats of {TOLERANCE} allowed")
    else:
        mean, name = float(gaps.mean()), subject.dtype_name
        _require(mean, LOW_PRECISION_TOLERANCE, name, "mean")
        found.append(f"{name}: mean difference {mean:.3f} nats, {LOW_PRECISION_TOLERANCE} allowed")
    return tuple(found)


def _gaps(ours: Iterable[ScoredGroup], theirs: Iterable[ScoredGroup]) -> np.ndarray:
    """Absolute differences of all token log-probabilities, groups joined by id."""
    known = {group.prompt_id: group.token_logps for group in ours}
    parts = [
        np.abs(a - b)
        for group in theirs
        for a, b in zip(known.pop(group.prompt_id), group.token_logps, strict=True)
    ]
    assert not known
    return np.concatenate(parts)


def _require(found: float, allowed: float, dtype: str, which: str) -> None:
    if not found <= allowed:
        raise BenchmarkError(
            f"ours and the padded forward differ in {dtype}: {which} difference {found:.2e} nats "
            f"per token, {allowed} allowed. One of them is wrong; nothing was timed"
        )


def score_padded(
    model: Any, requests: Sequence[ScoringRequest], *, pad_id: int
) -> Iterator[ScoredGroup]:
    """Score with a padded row per prompt and completion and the logits of every token.

    Yields:
        As `LogpScorer` does; the sums are float32, the log-softmax is in the model's dtype.
    """
    rows = [(r.prompt_token_ids, completion) for r in requests for completion in r.completions]
    scored: list[Float32[np.ndarray, " token"]] = []
    with torch.inference_mode():
        for batch in batched(rows, PADDED_ROWS):
            scored += _score_rows(model, batch, pad_id)
    at = 0
    for request in requests:
        count = len(request.completions)
        yield ScoredGroup(request.prompt_id, tuple(scored[at : at + count]))
        at += count


def _score_rows(
    model: Any, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], pad_id: int
) -> list[Float32[np.ndarray, " token"]]:
    device = next(model.parameters()).device
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.full((len(rows), width), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for index, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion)
        ids[index, :length] = torch.tensor(prompt + completion, device=device)
        mask[index, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logps = logits[:, :-1].log_softmax(-1)
    chosen = logps.gather(2, ids[:, 1:, None])[..., 0].float().cpu().numpy()
    return [
        chosen[index, len(prompt) - 1 : len(prompt) + len(completion) - 1]
        for index, (prompt, completion) in enumerate(rows)
    ]
