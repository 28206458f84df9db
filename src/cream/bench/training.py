"""The training case: our preference stage and TRL's DPOTrainer on the same pairs.

Each side trains in a child process, so that its peak memory is its own, in turns: this module, run
as a program. Both do the same maths: DPO, float32 weights, gradients and moments, bfloat16 forward
and backward where it is native, the reference log-probabilities given. The learning rate is so
small that every turn computes the same. Both log the mean log-probabilities of the chosen and
rejected completions, which must agree before a figure is made.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import torch

from cream.bench.contest import Contestant, ContestRow, compare, row_of, take_turns
from cream.bench.floors import Floor, Group, training_seconds
from cream.bench.inputs import Subject, scoring_requests
from cream.bench.machine import LoadWatch
from cream.bench.vllm_worker import serve
from cream.bench.workers import BenchWorker
from cream.engines.scorer import TorchScorer
from cream.errors import BenchmarkError
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.loading import count_parameters, load_model, load_tokenizer
from cream.recipe.objectives import Dpo
from cream.recipe.training import PreferenceOptimiserConfig, TrainingConfig
from cream.training.examples import pair_example
from cream.training.train import train
from cream.types import ScoringRequest, TokenSequence

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
) -> Iterator[ContestRow]:
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
    groups = [Group(len(r.prompt_token_ids), tuple(map(len, r.completions))) for r in requests]
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
            "prompt_ids": list(request.prompt_token_ids),
            "chosen_ids": list(request.completions[0]),
            "rejected_ids": list(request.completions[1]),
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
        }


def _start(
    side: str, subject: Subject, pairs: list[dict[str, Any]], batch_size: int
) -> BenchWorker:
    threads = torch.get_num_threads()
    worker = BenchWorker(
        [sys.executable, "-m", "cream.bench.training"], {"OMP_NUM_THREADS": str(threads)}
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
) -> ContestRow:
    """Peak memory above weights, gradients and moments; lower is better."""
    above = {side: [a["bytes_above"] / 1e6 for a in found] for side, found in answers.items()}
    ratios = [a / b for a, b in zip(above["cream"], above[BASELINE], strict=True)]
    ours, theirs = median(above["cream"]), median(above[BASELINE])
    return ContestRow(
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


LEARNING_RATE = 1e-9
BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in float32: what both sides hold whatever they do."""
METRICS = ("loss", "logps/chosen", "logps/rejected")
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

Turn = Callable[[], list[dict[str, float]]]
"""Trains once over all pairs; returns the metrics of each step."""


def main() -> None:
    """Load what the first question names, then train once per question."""
    side = _TrainingSide()
    serve(side.answer)


class _TrainingSide:
    """The contestant of this process."""

    def __init__(self) -> None:
        self._turn: Turn | None = None
        self._floor_bytes = 0
        self._device = torch.device("cpu")

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Load, or train once and say how long it took and what it held at most."""
        if "load" in question:
            self._load(**question["load"])
            return {"ready": True}
        assert self._turn is not None
        _reset_peak(self._device)
        started = time.perf_counter()
        steps = self._turn()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "bytes_above": _peak_bytes(self._device) - self._floor_bytes,
            "metrics": {name: fmean(step[name] for step in steps) for name in METRICS},
        }

    def _load(
        self,
        *,
        side: Literal["cream", "trl"],
        model: str,
        device: str,
        threads: int,
        batch_size: int,
        pairs: list[dict[str, Any]],
    ) -> None:
        torch.set_num_threads(threads)
        self._device = pick_device(device)
        if side == "trl":
            import_trl()  # before memory is counted from here on
        before = _resident_bytes() if self._device.type == "cpu" else 0
        loaded = load_model(Path(model), device=self._device)
        self._floor_bytes = before + BYTES_PER_PARAMETER * count_parameters(loaded)
        make = _cream_turn if side == "cream" else _trl_turn
        self._turn = make(loaded, Path(model), pairs, batch_size)


def _cream_turn(model: Any, folder: Path, pairs: list[dict[str, Any]], batch_size: int) -> Turn:
    config = TrainingConfig(
        optimiser=PreferenceOptimiserConfig(learning_rate=LEARNING_RATE, batch_size=batch_size)
    )
    examples = [
        pair_example(
            f"pair {index}",
            tuple(pair["prompt_ids"]),
            TokenSequence(tuple(pair["chosen_ids"]), pair["ref_chosen_logps"]),
            TokenSequence(tuple(pair["rejected_ids"]), pair["ref_rejected_logps"]),
        )
        for index, pair in enumerate(pairs)
    ]
    objective = Dpo().build()
    return lambda: [dict(m) for m in train(model, examples, objective, config, seed=0).metrics]


def import_trl() -> tuple[Any, Any]:
    """Import the parts of TRL that are needed; the package is an extra (``trl``)."""
    from trl import DPOConfig, DPOTrainer

    return DPOConfig, DPOTrainer


def _trl_turn(model: Any, folder: Path, pairs: list[dict[str, Any]], batch_size: int) -> Turn:
    from datasets import Dataset

    DPOConfig, DPOTrainer = import_trl()
    device = next(model.parameters()).device
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="cream-bench-"),
        beta=Dpo().beta,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=batch_size,
        num_train_epochs=1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=None,
        bf16=pick_compute_dtype(device).dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model,
        args=config,
        # The trainer wants text and encodes it itself; the ids of the contest take its place below.
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=load_tokenizer(folder),
    )
    trainer.train_dataset = Dataset.from_list(pairs)

    def turn() -> list[dict[str, float]]:
        trainer.state.log_history.clear()
        trainer.train()
        return [entry for entry in trainer.state.log_history if "logps/chosen" in entry]

    return turn


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        CLEAR_REFS.write_text("5", encoding="utf-8")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{STATUS} has no {key}")


if __name__ == "__main__":
    sys.exit(main())
