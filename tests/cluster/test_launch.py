"""Ranks started by a run: told by a folder, heard, ended, and started again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Command
from ranked import rank_pids, ranked_training

from cream.errors import Interrupted, NotFiniteError, RecipeError, TrainingError
from cream.models.loading import load_model
from cream.recipe.load import load_recipe
from cream.recipe.training import ComputeConfig
from cream.training import launch, rank
from cream.training.launch import (
    ThisMachine,
    environments,
    number_of_ranks,
    train_in_ranks,
)
from cream.training.rank import Described, method_objective
from run_contents import contents, same_weights, weights

cluster = pytest.mark.cluster
RECIPES = Path(__file__).parents[2] / "recipes"


@cluster
def test_a_rank_that_is_killed_ends_all_and_they_go_on_from_the_last_state(tmp_path: Path):
    """Bit for bit the weights of two ranks that nobody disturbed; the file has nothing of Cream."""
    notes: list[str] = []
    steps: list[int] = []

    def kill_once(step: int, total: int, metrics: Mapping[str, float]) -> None:
        steps.append(step)
        if step == 2 and not notes:
            os.kill(rank_pids(tmp_path / "killed" / "ranks")[1], signal.SIGKILL)

    killed, whole = ranked_training(tmp_path / "killed"), ranked_training(tmp_path / "whole")
    half = killed.result.parent / ".tmp-half a model"
    half.mkdir()
    summary = train_in_ranks(
        killed, tmp_path / "killed" / "ranks", ThisMachine(2), on_step=kill_once, note=notes.append
    )
    undisturbed = train_in_ranks(
        whole,
        tmp_path / "whole" / "ranks",
        ThisMachine(2),
        on_step=lambda *_: None,
        note=notes.append,
    )

    assert notes == [
        "rank 1 of 2 was killed by signal 9; all 2 ranks start again from the last state"
    ]
    assert steps.count(1) == 1
    assert summary.metrics == undisturbed.metrics
    assert summary.steps == 4
    one, other = load_model(killed.result), load_model(whole.result)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    head = one.get_output_embeddings()
    assert head is not None
    assert head.weight is one.get_input_embeddings().weight
    assert rank_pids(tmp_path / "killed" / "ranks") == []
    assert not (tmp_path / "killed" / "ranks").exists()
    assert not half.exists()


@cluster
def test_ranks_that_die_again_and_again_end_with_their_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch, "RESTARTS", 1)
    folder = tmp_path / "ranks"

    def kill(step: int, total: int, metrics: Mapping[str, float]) -> None:
        for pid in rank_pids(folder)[:1]:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"rank 0 of 2 was killed by signal 9, 2 times"):
        train_in_ranks(
            ranked_training(tmp_path), folder, ThisMachine(2), on_step=kill, note=lambda text: None
        )
    assert rank_pids(folder) == []


@cluster
def test_what_a_rank_raises_is_raised_at_once(tmp_path: Path):
    notes: list[str] = []
    with pytest.raises(
        NotFiniteError, match=r"^training step 2: .*Lower the learning rate"
    ) as seen:
        train_in_ranks(
            ranked_training(tmp_path, learning_rate=1e30, warmup_ratio=0.0),
            tmp_path / "ranks",
            ThisMachine(2),
            on_step=lambda *_: None,
            note=notes.append,
        )
    assert notes == []
    assert seen.value.batch["step"] == 2
    assert len(seen.value.batch["examples"]) == 3


@cluster
def test_ranks_that_are_told_to_stop_keep_their_steps(tmp_path: Path):
    """A state is due in a day: what is kept is kept because Cream was told to stop."""
    job = ranked_training(tmp_path, epochs=20, save_state_every_minutes=1440)
    steps: list[int] = []

    def stop(step: int, total: int, metrics: Mapping[str, float]) -> None:
        steps.append(step)
        raise Interrupted

    notes: list[str] = []
    with pytest.raises(Interrupted):
        train_in_ranks(job, tmp_path / "ranks", ThisMachine(2), on_step=stop, note=notes.append)
    assert notes == []
    (state,) = (tmp_path / "state").glob("step-*")
    assert rank_pids(tmp_path / "ranks") == []

    kept, left = int(state.name.removeprefix("step-")), []
    summary = train_in_ranks(
        job,
        tmp_path / "ranks",
        ThisMachine(2),
        on_step=lambda step, *_: left.append(step),
        note=notes.append,
    )
    assert left == list(range(kept + 1, 41))
    assert summary.steps == 40


@cluster
def test_a_run_on_two_ranks_is_the_run_of_one_process(
    tmp_path: Path, tiny_recipe: Any, run_whole: Callable[..., Path]
):
    """Each training within rounding, if it starts from the same model.

    From M1s that differ by rounding alone M2 may differ by as much as the learning rate: Adam
    divides a gradient by its own size, so what is next to 0 takes its sign from rounding. One
    process in another form (fused or not, other micro-batches) does the same.
    """
    changes = ("iterations=1", "sft.optimiser.learning_rate=1e-3", "sft.epochs=2")
    ranks = ("sft.compute.ranks=2", "training.compute.ranks=2")
    alone = run_whole(tiny_recipe(tmp_path / "alone", *changes))
    two = run_whole(tiny_recipe(tmp_path / "two", *changes, *ranks))
    later = run_whole(tiny_recipe(tmp_path / "later", *changes, ranks[1]))
    assert same_weights(weights(later, "M1"), weights(alone, "M1"))
    for run, model in ((two, "M1"), (later, "M2")):
        one, other = weights(alone, model), weights(run, model)
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.allclose(value, other[key], rtol=0, atol=5e-5), key
    names = {name for name in contents(two) if name not in contents(alone)}
    assert names == {"sft/train/world.json", "iteration-1/train/world.json"}
    again = run_whole(tiny_recipe(tmp_path / "two", *changes))  # of other ranks: nothing is refused
    assert same_weights(weights(two, "M2"), weights(again, "M2"))


@cluster
def test_ctrl_c_ends_the_ranks(recipe_file: Path, tmp_path: Path):
    given = (f"run_dir={tmp_path / 'run'}", "sft.compute.ranks=2", "sft.epochs=400")
    command = Command("run", str(recipe_file), *(part for c in given for part in ("--set", c)))
    command.wait_for(lambda: any((tmp_path / "run" / "sft" / "train" / "state").glob("step-*")))
    command.process.send_signal(signal.SIGINT)
    command.process.send_signal(signal.SIGINT)
    said = command.said()
    assert command.process.returncode == 130, said
    assert command.left() == []


@cluster
def test_a_killed_driver_leaves_no_rank(recipe_file: Path, tmp_path: Path):
    given = (f"run_dir={tmp_path / 'run'}", "sft.compute.ranks=2", "sft.epochs=400")
    command = Command("run", str(recipe_file), *(part for c in given for part in ("--set", c)))
    command.wait_for(lambda: any((tmp_path / "run" / "sft" / "train" / "state").glob("step-*")))
    command.process.kill()
    command.said()
    assert command.left() == []


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_ranks_make_the_objective_of_every_recipe_again(path: Path):
    recipe = load_recipe(path)
    for t in range(1, recipe.iterations + 1):
        parts, told = recipe.parts(t), recipe.sampling.num_completions
        objective = method_objective(parts, told, reads_reference=True)
        job = json.loads(json.dumps(asdict(Described(parts.model_dump(mode="json"), told, True))))
        made = rank.objective_of(job, objective.fingerprint)
        assert (made.name, made.needs) == (objective.name, objective.needs)
        with pytest.raises(TrainingError, match=r"ranks would train under .* compute\.ranks: 1"):
            rank.objective_of(job, "another")


def test_ranks_that_there_cannot_be_are_refused_by_key():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    here = partial(number_of_ranks, divisible=True, reaches_nodes=False)
    assert here(ComputeConfig(), cpu) == 1
    assert here(ComputeConfig(ranks=3), cpu) == 3
    with pytest.raises(RecipeError, match=r"compute\.ranks: 2 ranks cannot be given an objective"):
        number_of_ranks(ComputeConfig(ranks=2), cpu, divisible=False, reaches_nodes=False)
    with pytest.raises(RecipeError, match=r"compute\.nodes: 2 nodes .* cluster: ray"):
        here(ComputeConfig(nodes=2), cpu)
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="2 ranks, and this machine has 0 GPUs"):
            here(ComputeConfig(ranks=2), cuda)


def test_ranks_are_counted_over_all_nodes():
    cpu = torch.device("cpu")
    there = partial(number_of_ranks, reaches_nodes=True)
    assert there(ComputeConfig(nodes=2), cpu, divisible=True) == 2
    assert there(ComputeConfig(nodes=2, ranks=3), cpu, divisible=True) == 6
    with pytest.raises(RecipeError, match=r"compute\.ranks: 2 ranks cannot be given an objective"):
        there(ComputeConfig(nodes=2), cpu, divisible=False)


def test_every_rank_of_every_node_is_told_its_place():
    first, second = environments(2, 2, "10.0.0.7", 4321)
    assert [(e["RANK"], e["LOCAL_RANK"]) for e in (*first, *second)] == [
        ("0", "0"),
        ("1", "1"),
        ("2", "0"),
        ("3", "1"),
    ]
    assert {(e["WORLD_SIZE"], e["LOCAL_WORLD_SIZE"]) for e in (*first, *second)} == {("4", "2")}
    assert {(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in second} == {("10.0.0.7", "4321")}
