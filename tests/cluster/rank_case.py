"""Trainings of a tiny model, alone or as one rank: ``rank_case.py FOLDER CASE,... STEP_TO_DIE_AT``.

Without torchrun's variables it trains alone. Of each case rank 0 writes ``metrics.json`` and
``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from cream.algorithms.consistency import StageScale
from cream.algorithms.objective import Auxiliary, Needs, Objective, ObjectiveInputs
from cream.algorithms.preference import PAIR, supervised
from cream.models.loading import load_model, weightless_model
from cream.recipe.objectives import ConstantNll, Cream, SrlmKl
from cream.recipe.training import SftConfig, TrainingConfig
from cream.training.examples import completion_example, pair_example
from cream.training.sharding import World, joined_world
from cream.training.train import train
from cream.types import Example, TokenSequence

COMPUTE = {"precision": "float32", "micro_batch_tokens": 24, "save_state_every_minutes": 0}
OPTIMISER = {"learning_rate": 3e-4, "batch_size": 7}
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.2}


def sequence(seed: int, length: int) -> tuple[int, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 259, (length,), generator=draw).tolist())


def completions() -> list[Example]:
    """Eleven of unequal lengths: steps of 7 and 4 in micro-batches that do not divide evenly."""
    return [
        completion_example(f"e{i}", sequence(i, 3 + i % 4), sequence(100 + i, 2 + i % 5))
        for i in range(11)
    ]


def pairs() -> list[Example]:
    return [
        pair_example(
            f"p{i}",
            sequence(i, 3 + i % 4),
            TokenSequence(sequence(100 + i, 2 + i % 5), -20.0),
            TokenSequence(sequence(200 + i, 3 + i % 3), -25.0),
            consistency=0.6 + 0.03 * i,
        )
        for i in range(11)
    ]


def unanimous() -> list[Example]:
    """Without a rejected sequence: only a likelihood trains on them."""
    return [
        Example(
            f"u{i}",
            sequence(30 + i, 3 + i % 4),
            {"chosen": TokenSequence(sequence(300 + i, 2 + i % 4))},
            {"consistency": 1.0},
            0.5 + 0.25 * i,
        )
        for i in range(5)
    ]


def undecided(model: Any) -> list[Example]:
    """Pairs of C = 1/2 at a margin of 0: their gradient is rounding alone."""

    def summed(prompt: tuple[int, ...], given: TokenSequence) -> TokenSequence:
        ids = torch.tensor([[*prompt, *given.token_ids]])
        with torch.no_grad():
            logps = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        taken = logps.gather(-1, ids[0, len(prompt) :, None])
        return TokenSequence(given.token_ids, float(taken.sum()))

    return [
        pair_example(
            f"h{pair.example_id}",
            pair.prompt_token_ids,
            *(summed(pair.prompt_token_ids, pair.sequences[role]) for role in PAIR),
            consistency=0.5,
        )
        for pair in pairs()[:7]
    ]


def probe(hidden_size: int) -> Mapping[str, Auxiliary]:
    return {"probe": Auxiliary(nn.Linear(hidden_size, 1), learning_rate=1e-2, max_grad_norm=0.05)}


def probed_loss(inputs: ObjectiveInputs) -> torch.Tensor:
    chosen = inputs["chosen"]
    assert chosen.hidden is not None
    value = inputs.auxiliary["probe"](chosen.hidden).squeeze(-1)
    return (value - 1).square() - 0.1 * chosen.logps


PROBED = Objective(
    "probed",
    "a head on the last hidden state",
    Needs(("chosen",), hidden={"chosen": "last"}),
    probed_loss,
    auxiliary=probe,
)


def cramped_loss(inputs: ObjectiveInputs) -> torch.Tensor:
    if os.environ["RANK"] == "1":
        raise MemoryError("no room for it")
    return -inputs["chosen"].logps


CRAMPED = Objective("cramped", "no room on rank 1", Needs(("chosen",)), cramped_loss)


def case(name: str, folder: Path) -> dict[str, Any]:
    """Arguments of `train`, for the model of a folder."""
    settings: dict[str, Any] = {"optimiser": OPTIMISER, "compute": dict(COMPUTE)}
    if name == "sft":
        config = SftConfig.model_validate({**settings, "epochs": 2})
        return {"examples": completions(), "objective": supervised(), "settings": config}
    settings["epochs"] = 2
    objective = Cream(name="cream", set_level_action="train").build()
    if name == "lora":
        settings["lora"] = LORA
    if name == "bfloat16":
        settings["compute"]["precision"] = "bfloat16"
    if name == "checkpointed":
        settings["compute"]["gradient_checkpointing"] = True
    if name in ("probed", "resumed"):
        objective = PROBED
    if name == "cramped":
        objective = CRAMPED
    if name == "start":
        settings["lora"] = LORA
        objective = SrlmKl(name="srlm_kl", kl_weight=0.5).build()
    config = TrainingConfig.model_validate(settings)
    if name == "mixed":  # u3 and u4 as seed examples are replayed: in one epoch each, other weights
        return {
            "examples": pairs() + unanimous(),
            "objective": Cream(
                name="cream", set_level_action="train", nll=ConstantNll(weight=0.3)
            ).build(),
            "settings": config,
            "only_in": {"u3": 0, "u4": 1},
            "scale": StageScale(0.4),
        }
    if name == "undecided":
        return {
            "examples": undecided(load_model(folder / "model")) + pairs()[:4],
            "objective": objective,
            "settings": config,
            "only_in": {f"p{i}": 1 for i in range(4)},
        }
    return {"examples": pairs(), "objective": objective, "settings": config}


def train_case(name: str, folder: Path, world: World | None, dies_at: int) -> None:
    if world is None or world.rank == 0:
        model: Any = load_model(folder / "model")
    else:
        model = weightless_model(folder / "model")

    def told(step: int, total: int, metrics: Any) -> None:
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    summary = train(
        model,
        **case(name, folder),
        seed=1,
        state_dir=folder / "state",
        objective_file=folder / "objective.safetensors",
        on_step=told,
        world=world,
    )
    if world is None or world.rank == 0:
        weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
        save_file(weights, folder / "weights.safetensors")
        (folder / "metrics.json").write_text(json.dumps(list(summary.metrics)))


def main(folder: Path, cases: list[str], dies_at: int) -> None:
    torch.set_num_threads(1)
    alone = "RANK" not in os.environ
    with nullcontext() if alone else joined_world("cpu", timeout_seconds=60) as world:
        for name in cases:
            train_case(name, folder / name, world, dies_at)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]))
