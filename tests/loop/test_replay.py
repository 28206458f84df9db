"""Seed examples among the pairs of a preference training: how many, which, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.training import ReplayConfig
from cream.stages.train import replayed
from cream.types import Message, Prompt, SeedExample
from run_contents import stage_record, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
SRLM = "method={name: srlm, pairing: {truncated: keep}, objective: {%s}}"
NLL = "nll: {kind: constant, weight: 1.0}"


def seed(count: int) -> list[SeedExample]:
    return [
        SeedExample(Prompt(f"{i:016x}", (Message("user", f"{i}"),), "t", None, {}), f"answer {i}")
        for i in range(count)
    ]


class Lengths:
    """Encodes a completion as its length."""

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (1, 2)

    def encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        return (3, len(text))

    def decode(self, ids: Sequence[int]) -> str:
        raise AssertionError("nothing is masked")


def drawn(count: int, share: float, beside: int, draw: int = 0, epochs: int = 1) -> list[list[str]]:
    """Numbers of the seed examples, by epoch."""
    by_epoch = replayed(
        seed(count),
        ReplayConfig(share=share, weight=2.0),
        beside=beside,
        epochs=epochs,
        seed=draw,
        encoder=Lengths(),
    )
    every = [example for epoch in by_epoch for example in epoch]
    assert all(example.weight == 2.0 for example in every)
    assert all(set(example.sequences) == {"chosen"} for example in every)
    assert len({example.example_id for example in every}) == len(every)
    return [[example.example_id.rpartition("-")[2] for example in epoch] for epoch in by_epoch]


@pytest.mark.parametrize(
    ("share", "beside", "expected"),
    [
        (0.5, 40, 40),
        (0.2, 40, 10),  # 10 of 50
        (0.1, 63, 7),  # 7 of 70, exactly: 0.1 / 0.9 * 63 is 7, and 6.999... in floats
        (0.75, 40, 100),  # 120 would be needed; there are 100
    ],
)
def test_the_share_is_of_all_examples_of_an_epoch(share, beside, expected):
    assert [len(epoch) for epoch in drawn(100, share, beside)] == [expected]


def test_every_epoch_has_others_while_there_are_any():
    """Of 100, three epochs take 40 each: the third begins again after 20."""
    first, second, third = drawn(100, 0.5, 40, epochs=3)

    assert len({*first, *second}) == 80
    assert third[20:] == first[:20]


def test_another_draw_takes_others_and_the_same_draw_the_same():
    assert drawn(100, 0.5, 30) == drawn(100, 0.5, 30)
    assert drawn(100, 0.5, 30) != drawn(100, 0.5, 30, draw=1)
    assert {*drawn(100, 0.5, 20)[0]} <= {*drawn(100, 0.5, 30)[0]}


def test_replayed_examples_are_trained_counted_and_change_the_model(
    tiny_recipe: MakeRecipe, run_whole: RunWhole, tmp_path: Path
):
    options = ("iterations=1", "data.test=null", SRLM % NLL)
    plain = run_whole(tiny_recipe(tmp_path / "plain", *options))
    mixed = run_whole(tiny_recipe(tmp_path / "mixed", *options, "training.replay={share: 0.25}"))

    before, after = (stage_record(root, "iteration-1/train") for root in (plain, mixed))
    pairs = before["summary"]["tally"]["parts"]["trained"]
    assert before["summary"]["replayed"] is None
    again = pairs // 3 * before["spec"]["epochs"]  # other ones in every epoch
    assert after["summary"]["replayed"] == again > 0
    assert after["summary"]["tally"]["parts"]["trained"] == pairs + again
    assert "replay" not in before["inputs"]["settings"]  # runs made before keep their fingerprints
    one, other = weights(plain, "M2"), weights(mixed, "M2")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_objective_without_a_likelihood_term_is_refused_before_anything_runs(
    tiny_recipe: MakeRecipe, run_whole: RunWhole, tmp_path: Path
):
    recipe = tiny_recipe(tmp_path / "run", SRLM % "beta: 0.1", "training.replay={share: 0.5}")

    with pytest.raises(RecipeError, match=r"training\.replay trains seed examples by likelihood"):
        run_whole(recipe)
    assert not (tmp_path / "run/sft").exists()
