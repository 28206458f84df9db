"""A training that ranks are told of, and the ranks that a folder has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cream.algorithms.consistency import StageScale
from cream.algorithms.preference import supervised
from cream.models.loading import load_tokenizer
from cream.recipe.training import SftConfig
from cream.testing import tiny_model_folder
from cream.training.examples import completion_example
from cream.training.launch import TRAINS, RankedTraining

COMPUTE = {"precision": "float32", "micro_batch_tokens": 16}


def ranked_training(
    folder: Path, *, epochs: int = 2, save_state_every_minutes: float = 0, **optimiser: Any
) -> RankedTraining:
    """Epochs over six completions of two micro-batches a step, two steps each."""
    model = tiny_model_folder(folder / "model")
    values = {"learning_rate": 1e-3, "batch_size": 3, **optimiser}
    compute = {**COMPUTE, "save_state_every_minutes": save_state_every_minutes}
    settings = {"epochs": epochs, "optimiser": values, "compute": compute}
    return RankedTraining(
        start=model,
        result=folder / "trained",
        card="a card",
        tokenizer=load_tokenizer(model),
        examples=[completion_example(f"e{i}", (5 + i, 6), (7, 8 + i, 2)) for i in range(6)],
        only_in={},
        described=None,
        objective=supervised().fingerprint,
        section="sft",
        settings=SftConfig.model_validate(settings),
        seed=1,
        scale=StageScale(),
        state_dir=folder / "state",
        objective_file=folder / "objective.safetensors",
        device="cpu",
        trust_remote_code=False,
        threads=1,
    )


def rank_pids(folder: Path, program: str = TRAINS) -> list[int]:
    """Processes of a program whose command names this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if program.encode() in words and os.fsencode(folder) in words:
            found.append(int(place.name))
    return sorted(found)
