"""The training case: our preference stage and TRL's DPOTrainer on the same pairs.

Each side trains in a child process (`cream.bench.training_worker`), in turns. Both log the mean
log-probabilities of the chosen and rejected completions, which must agree before a figure is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch

from cream.bench.floors import Floor, Group, training_seconds
from cream.bench.load import LoadWatch
from cream.bench.results import Row, row_of
from cream.bench.rounds import Contestant, compare, take_turns
from cream.bench.subject import Subject
from cream.bench.workers import Worker
from cream.bench.workloads import scoring_requests
from cream.engines.scorer import TorchScorer
from cream.errors import BenchmarkError
from cream.types import ScoringRequest

BASELINE = "TRL DPOTrainer"
SIDES = {"cream": "cream", "trl": BASELINE}
RELATIVE_TOLERANCE = 0.01
"""Largest relative difference of mean log-probabilities: bfloat16 rounds at 0.4 %."""
LOSS_TOLERANCE = 0.03
"""Largest difference of the mean loss, which starts at log 2."""


def why_no_trl() -> str | None:
    """Why TRL cannot take part, or None if it can."""
    if find_spec("trl") is None:
        return "TRL is not installed; pip install 'cream-align[trl]'"
    return None


def training_rows(
    subject: Subject, floor: Floor, watch: LoadWatch, *, rounds: int, quick: bool
) -> Iterator[Row]:
    """Time both sides in turns: a row of speed and a row of memory.

    Raises:
        BusyMachineError: Other processes use the cores.
        BenchmarkError: The two sides do not compute the same.
    """
    count, batch_size = (4, 4) if quick else (16, 8)
    ranges = ((30, 40), (20, 40)) if quick else ((80, 120), (60, 140))
    requests = scoring_requests(subject.encoder, count, 2, *ranges)
    pairs = list(_with_reference(subject, requests))
    watch.check("training")
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(_start(side, subject, pairs, batch_size))
            for side, name in SIDES.items()
        }
        note = check_sides({name: side.ask({}) for name, side in sides.items()})
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}

        def turn(name: str) -> float:
            answers[name].append(sides[name].ask({}))
            return float(count)

        contestants = [Contestant(name, lambda name=name: turn(name)) for name in sides]
        with watch.during("during training") as load:
            turns = take_turns(contestants, rounds, warm_ups=0)
    groups = [Group(len(r.prompt_ids), tuple(map(len, r.completions))) for r in requests]
    least = training_seconds(subject.shape, floor, groups, subject.dtype_name)
    name = f"training: {count} pairs, {batch_size} a step"
    notes = (
        f"DPO, reference given, float32 weights, {subject.dtype_name} compute, no activation "
        f"checkpointing; prompts of {ranges[0][0]} to {ranges[0][1]} tokens, completions of "
        f"{ranges[1][0]} to {ranges[1][1]}",
        note,
    )
    yield row_of(
        name,
        BASELINE,
        "pairs/s",
        compare(turns["cream"], turns[BASELINE]),
        floor_share=least / median(turn.seconds for turn in turns["cream"]),
        foreign_cores=load.cores,
        notes=notes,
    )
    yield _memory_row(name, answers, load.cores)


def _with_reference(subject: Subject, requests: list[ScoringRequest]) -> Iterator[dict[str, Any]]:
    groups = {g.prompt_id: g.token_logps for g in TorchScorer(subject.model).score(requests)}
    for request in requests:
        chosen, rejected = (float(logps.sum()) for logps in groups[request.prompt_id])
        yield {
            "prompt_ids": list(request.prompt_ids),
            "chosen_ids": list(request.completions[0]),
            "rejected_ids": list(request.completions[1]),
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
        }


def _start(side: str, subject: Subject, pairs: list[dict[str, Any]], batch_size: int) -> Worker:
    threads = torch.get_num_threads()
    worker = Worker(
        [sys.executable, "-m", "cream.bench.training_worker"], {"OMP_NUM_THREADS": str(threads)}
    )
    options = {
        "side": side,
        "model": str(subject.folder),
        "device": str(subject.device),
        "threads": threads,
        "batch_size": batch_size,
        "pairs": pairs,
    }
    worker.ask({"load": options})
    return worker


def check_sides(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """Compare what both sides logged; returns it in words.

    Raises:
        BenchmarkError: They differ by more than the tolerances.
    """
    ours, theirs = answers["cream"]["metrics"], answers[BASELINE]["metrics"]
    gaps = {
        key: abs(ours[key] - theirs[key]) / abs(theirs[key])
        for key in ("logps/chosen", "logps/rejected")
    }
    loss_gap = abs(ours["loss"] - theirs["loss"])
    if max(gaps.values()) > RELATIVE_TOLERANCE or loss_gap > LOSS_TOLERANCE:
        raise BenchmarkError(
            f"cream and TRL do not compute the same: {dict(ours)} against {dict(theirs)}; "
            "nothing was timed"
        )
    return (
        f"mean log-probabilities differ by {max(gaps.values()):.2%} ({RELATIVE_TOLERANCE:.0%} "
        f"allowed), the loss by {loss_gap:.4f} ({LOSS_TOLERANCE} allowed)"
    )


def _memory_row(
    name: str, answers: Mapping[str, list[dict[str, Any]]], foreign_cores: float | None
) -> Row:
    """Peak memory above weights, gradients and moments; lower is better."""
    above = {side: [a["bytes_above"] / 1e6 for a in found] for side, found in answers.items()}
    ratios = [a / b for a, b in zip(above["cream"], above[BASELINE], strict=True)]
    ours, theirs = median(above["cream"]), median(above[BASELINE])
    return Row(
        name=f"{name}, memory",
        baseline=BASELINE,
        unit="MB",
        better="lower",
        ours=ours,
        theirs=theirs,
        ratio=ours / theirs,
        low=min(ratios),
        high=max(ratios),
        n=len(ratios),
        floor_share=None,
        foreign_cores=foreign_cores,
        notes=(
            "peak of the process during training, less its size before the model was loaded and "
            "16 bytes per parameter (weights, gradients, two moments)",
        ),
    )
