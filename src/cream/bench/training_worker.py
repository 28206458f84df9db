"""One side of the training contest, in a process of its own so that its peak memory is its own.

Both sides train the same pairs on the same maths: DPO, float32 weights, gradients and moments,
bfloat16 forward and backward where it is native, the reference log-probabilities given. The
learning rate is so small that every turn computes the same.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from cream.bench.vllm_worker import serve
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.loading import count_parameters, load_model, load_tokenizer
from cream.recipe.objectives import Dpo
from cream.recipe.training import PreferenceOptimiserConfig, TrainingConfig
from cream.training.preference import train_pairs
from cream.types import TokenisedPair

LEARNING_RATE = 1e-9
BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in float32: what both sides hold whatever they do."""
METRICS = ("loss", "logps/chosen", "logps/rejected")
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

Turn = Callable[[], list[dict[str, float]]]
"""Trains once over all pairs; returns the metrics of each step."""


def main() -> None:
    """Load what the first question names, then train once per question."""
    side = _Side()
    serve(side.answer)


class _Side:
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
    tokenised = [
        TokenisedPair(
            pair_id=f"pair {index}",
            prompt_ids=tuple(pair["prompt_ids"]),
            chosen_ids=tuple(pair["chosen_ids"]),
            rejected_ids=tuple(pair["rejected_ids"]),
            reference_chosen_logps=pair["ref_chosen_logps"],
            reference_rejected_logps=pair["ref_rejected_logps"],
        )
        for index, pair in enumerate(pairs)
    ]
    return lambda: [dict(m) for m in train_pairs(model, tokenised, Dpo(), config, seed=0).metrics]


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
