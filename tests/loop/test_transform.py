"""Between pairs and training: what a transform may change, and what is made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cream import parts, run
from cream.engines.scorer import TorchScorer
from cream.errors import DataError, RecipeError
from cream.models.loading import load_model
from cream.protocols import TextEncoder
from cream.recipe import Recipe
from cream.recipe.objectives import Dpo
from cream.runs.files import read_table
from cream.runs.tables import examples_from_table, examples_to_table
from cream.stages.transform import transform_pairs
from cream.types import (
    Completion,
    Example,
    FinishReason,
    Message,
    Prompt,
    RankedPair,
    ScoringRequest,
    TokenSequence,
    Transformed,
)
from kills import KillAt, Killed
from run_contents import same_weights, weights


class Srlm:
    """SRLM's pairs, put through a transform."""

    name = "transformed"

    def __init__(self, transform: str | None) -> None:
        self.transform, self.fingerprint = transform, f"srlm, {transform}"

    def parts(self, t: int) -> parts.MethodParts:
        return parts.MethodParts(
            reward=parts.LogpQuantity(unit="implicit", model=f"M{t}"),
            pairing=parts.BestWorst(truncated="keep"),
            objective=Dpo(),
            transform=self.transform,
        )


class Same:
    """Every pair as it is."""

    fingerprint = "same v1"

    def transform(self, pairs: Sequence[RankedPair], encoder: TextEncoder) -> Iterator[Transformed]:
        for pair in reversed(pairs):  # the order of the answers must not matter
            yield Transformed(pair.pair_id, (as_example(pair),))


class Polite:
    """Another prompt: every question asked politely; some are left out, with a reason."""

    fingerprint = "polite v1"

    def transform(self, pairs: Sequence[RankedPair], encoder: TextEncoder) -> Iterator[Transformed]:
        for pair in pairs:
            (asked,) = pair.prompt.messages
            if left_out(pair.prompt.prompt_id):
                yield Transformed(pair.pair_id, (), reason="small_id")
                continue
            prompt = encoder.encode_prompt([Message("user", f"please: {asked.content}")])
            unscored = {
                role: replace(sequence, reference_logps=None, prompt_token_ids=prompt)
                for role, sequence in as_example(pair).sequences.items()
            }
            yield Transformed(pair.pair_id, (replace(as_example(pair), sequences=unscored),))


def left_out(prompt_id: str) -> bool:
    return prompt_id < "8"


def as_example(pair: RankedPair) -> Example:
    return Example(
        pair.pair_id,
        pair.prompt_token_ids,
        {
            "chosen": TokenSequence(pair.chosen.token_ids, pair.chosen_reference),
            "rejected": TokenSequence(pair.rejected.token_ids, pair.rejected_reference),
        },
        {"consistency": pair.consistency},
        pair.weight,
    )


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[[str], Recipe]:
    return lambda name: tiny_recipe(tmp_path / name, "iterations=1", "data.test=null")


def rows(stage: Path) -> list[dict[str, Any]]:
    return [row for p in sorted(stage.glob("part-*")) for row in read_table(p).to_pylist()]


def summary(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / stage / "stage.json").read_text("utf-8"))["summary"]


def test_pairs_given_through_as_they_are_train_the_same_model(
    recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
):
    run(recipe("plain"), base_dir=tiny_inputs, method=Srlm(None))
    run(recipe("same"), base_dir=tiny_inputs, method=Srlm("same"), transforms={"same": Same()})

    assert same_weights(weights(tmp_path / "plain", "M2"), weights(tmp_path / "same", "M2"))
    assert summary(tmp_path / "same", "iteration-1/score-examples") == {"scored": 0}


def test_sequences_under_a_changed_prompt_are_scored_under_it_by_the_loss_reference(
    recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
):
    given: Any = {"method": Srlm("polite"), "transforms": {"polite": Polite()}}
    root = run(recipe("polite"), base_dir=tiny_inputs, **given).root
    iteration = root / "iteration-1"

    pairs = read_table(iteration / "pair/pairs.parquet")["prompt_id"].to_pylist()
    small = sum(map(left_out, pairs))
    assert 0 < small < len(pairs)
    tally = {"transformed": len(pairs) - small, "small_id": small}
    assert summary(root, "iteration-1/transform")["tally"]["parts"] == tally
    assert summary(root, "iteration-1/train")["tally"]["total"] == len(pairs) - small

    model = load_model(root / "models/M1", dtype=torch.float32, device=torch.device("cpu"))
    sums = {
        (row["example_id"], row["role"]): row["reference_logps"]
        for row in rows(iteration / "score-examples")
    }
    tables = map(read_table, sorted((iteration / "transform").glob("part-*")))
    examples = [example for table in tables for example in examples_from_table(table)]
    assert sums.keys() == {(e.example_id, role) for e in examples for role in e.sequences}
    for (key, role), found in sums.items():
        example = next(e for e in examples if e.example_id == key)
        prompt, ids = example.prompt_of(role), example.sequences[role].token_ids
        assert prompt != example.prompt_token_ids
        (group,) = TorchScorer(model).score([ScoringRequest("x", prompt, (ids,))])
        assert found == pytest.approx(float(np.sum(group.token_logps[0])), abs=1e-4)


@pytest.mark.parametrize("kills", [1, 2, 4])
def test_killed_on_the_way_it_ends_like_an_uninterrupted_run(
    kills: int, recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
):
    given: Any = {
        "base_dir": tiny_inputs,
        "method": Srlm("polite"),
        "transforms": {"polite": Polite()},
    }
    run(recipe("whole"), **given)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("transform", "score-examples", "train"):
        shutil.rmtree(tmp_path / "killed/iteration-1" / name)
    shutil.rmtree(tmp_path / "killed/models/M2")
    with pytest.raises(Killed):
        run(recipe("killed"), progress=KillAt("kept", kills), **given)
    run(recipe("killed"), **given)

    assert same_weights(weights(tmp_path / "killed", "M2"), weights(tmp_path / "whole", "M2"))


def test_a_transform_that_is_not_there_is_refused_before_anything_runs(
    recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(RecipeError, match=r"transform 'gone', and cream\.run was given none"):
        run(recipe("run"), base_dir=tiny_inputs, method=Srlm("gone"))
    assert not (tmp_path / "run/recipe.yaml").exists()


class Answers:
    """A transform that gives what it was told to."""

    def __init__(self, *answers: Transformed) -> None:
        self.answers = answers

    def transform(self, pairs: Sequence[RankedPair], encoder: TextEncoder) -> Iterable[Transformed]:
        return self.answers


class Letters:
    """A letter is its code; turns follow one another."""

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(ord, "".join(message.content for message in messages)))

    def encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def a_pair(key: str) -> RankedPair:
    completion = Completion(key, f"{key}-0", (1, 2), "", FinishReason.STOP, 0)
    prompt = Prompt(key, (Message("user", "?"),))
    return RankedPair(key, prompt, (3,), completion, completion, 1.0, 0.0, 0.75, 1.0, -1.0, -2.0)


GOOD = as_example(a_pair("a"))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((), "left out or made up 1 pairs, a among them"),
        ((Transformed("a", (GOOD,)),) * 2, "answered pair a twice"),
        ((Transformed("a", ()),), "0 examples and the reason None"),
        ((Transformed("a", (GOOD,), "why"),), "1 examples and the reason 'why'"),
        ((Transformed("a", (GOOD,) * 2),), "gave 1 ids to two examples, a"),
        ((Transformed("a", (), "x"), Transformed("b", (), "x")), "made up 1 pairs, b among them"),
    ],
)
def test_answers_that_do_not_fit_the_pairs_are_refused(answers: tuple[Transformed, ...], said: str):
    with pytest.raises(DataError, match=said):
        transform_pairs([a_pair("a")], Answers(*answers), Letters())


def test_examples_come_back_from_their_table_as_they_were():
    rich = Example(
        "x",
        (1, 2),
        {
            "chosen": TokenSequence((3, 4), -1.5, (9,), (True, False), {"advantage": (0.5, -1.0)}),
            "rejected": TokenSequence((5,)),
        },
        {"consistency": 0.75, "degree": -2.0},
        0.5,
    )
    plain = Example("y", (7,), {"completion": TokenSequence(())})

    assert examples_from_table(examples_to_table([rich, plain])) == [rich, plain]
