"""Every method on random matrices: ties, copies, missing scores, any sizes, any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cream.algorithms.pair_consistency import Calibration
from cream.errors import DataError
from cream.loop.pair_summary import summarise_pairs
from cream.recipe.methods import MethodConfig
from cream.recipe.methods.confidence import SpaMethod
from cream.recipe.methods.cream import (
    CreamMethod,
    CreamPairMethod,
    CreamReferenceMethod,
    CreamSampleMethod,
)
from cream.recipe.methods.cream_cross import CreamCrossMethod
from cream.recipe.methods.judged import OracleMethod, SrlmJudgeMethod
from cream.recipe.methods.length import DiceMethod
from cream.recipe.methods.spin import SpinMethod
from cream.recipe.methods.srlm import FixedSmoothingMethod, SrlmMethod
from cream.recipe.methods.temporal import TemporalMethod
from cream.recipe.methods.votes import ScpoMethod
from cream.recipe.pairing import AllPairs, TopBottom
from cream.stages.pair import PairingResult, pair
from cream.types import ScoreMatrix

METHODS: dict[str, MethodConfig] = {
    "cream": CreamMethod(),
    "cream top_order allow": CreamMethod(statistic="top_order", below_half="allow"),
    "cream weighted_tau drop": CreamMethod(level="sample", statistic="weighted_tau"),
    "cream residual": CreamMethod(statistic="residual_kendall", level="shrunken"),
    "cream partial": CreamMethod(statistic="partial_kendall"),
    "cream filter": CreamMethod(filter="agreeing", pairing=AllPairs(min_gap=0.5)),
    "cream_sample": CreamSampleMethod(level="shrunken", below_half="drop"),
    "cream_pair": CreamPairMethod(),
    "cream_reference": CreamReferenceMethod(),
    "cream_cross filter": CreamCrossMethod(witness="twin"),  # pyright: ignore
    "cream_cross smooth": CreamCrossMethod(witness="twin", use="smooth"),  # pyright: ignore
    "srlm top_bottom": SrlmMethod(reward="mean_likelihood", pairing=TopBottom(k=3)),
    "fixed_smoothing": FixedSmoothingMethod(consistency=0.8),
    "dice": DiceMethod(),
    "scpo": ScpoMethod(),
    "spa": SpaMethod(),
    "spin": SpinMethod(rejected="all"),
    "oracle": OracleMethod(),
    "srlm_judge": SrlmJudgeMethod(),
    "temporal": TemporalMethod(),
}
BY_POSITION = {"cream_reference"}
"""Rules that order equal values by their place in the list, as their page says."""
SHAPES = [(1, 2), (1, 64), (40, 64), (300, 5), (2000, 8)]
COUNTS = Calibration(9, 10, 4, 10, "made up")


def random_matrix(rng: np.random.Generator, num_prompts: int, largest: int) -> ScoreMatrix:
    """Values on a coarse grid; equal tokens have equal values; a tenth of the scores is missing."""
    sizes = rng.integers(2, largest + 1, num_prompts) if largest > 2 else np.full(num_prompts, 2)
    total = int(sizes.sum())
    prompt = np.repeat(np.arange(num_prompts), sizes)
    tokens = rng.integers(0, 2 * largest, total)  # which completion it is, so some are equal
    names = ["M0", "M1", "M2", "twin", "judge", "verifier", "cut", "length", "answer", "data"]
    grid = {
        name: rng.integers(-4, 5, (num_prompts, 2 * largest)).astype(float)[prompt, tokens]
        for name in names
    }
    for name in ("M1", "M2", "twin", "judge", "verifier"):
        missing = rng.random((num_prompts, 2 * largest)) < 0.1
        grid[name][missing[prompt, tokens]] = np.nan
    verdict = np.where(np.isnan(grid["verifier"]), np.nan, grid["verifier"] > 1)
    return ScoreMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(num_prompts)], dtype=object),
        group_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        completion_ids=np.array([f"c{i}" for i in range(total)], dtype=object),
        num_tokens=(5 + grid["length"]).astype(np.int32),
        truncated=grid["cut"] > 2,
        ids_hash=rng.permutation(2 * largest).astype(np.int64)[tokens],
        logps={name: grid[name] for name in ("M0", "M1", "M2", "twin")},
        noise=dict.fromkeys(("M0", "M1", "M2", "twin"), 0.1),
        scores={
            "judge": grid["judge"],
            "verifier": verdict,
            "from_data": (grid["data"] > 2).astype(float),
        },
        labels={"extracted": np.maximum(grid["answer"], -1).astype(np.int64)},
        origin=rng.choice(np.array(["policy", "past", "future"], dtype=object), total),
    )


def reorder(matrix: ScoreMatrix, rng: np.random.Generator, *, inside: bool) -> ScoreMatrix:
    """Other order of prompts and, if `inside`, of the completions of each."""
    order = rng.permutation(len(matrix.prompt_ids))
    starts = matrix.group_offsets.tolist()
    groups = [np.arange(starts[p], starts[p + 1]) for p in order.tolist()]
    rows = np.concatenate([rng.permutation(g) if inside else g for g in groups])
    assert matrix.origin is not None
    return replace(
        matrix,
        prompt_ids=matrix.prompt_ids[order],
        group_offsets=np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64),
        completion_ids=matrix.completion_ids[rows],
        num_tokens=matrix.num_tokens[rows],
        truncated=matrix.truncated[rows],
        ids_hash=matrix.ids_hash[rows],
        logps={name: column[rows] for name, column in matrix.logps.items()},
        scores={name: column[rows] for name, column in matrix.scores.items()},
        labels={name: column[rows] for name, column in matrix.labels.items()},
        origin=matrix.origin[rows],
    )


def decide(matrix: ScoreMatrix, name: str) -> PairingResult | None:
    """Pairs at t = 2; None if C enters the loss and exists for no prompt."""
    parts = METHODS[name].parts(2)
    try:
        return pair(matrix, parts, generator=np.random.default_rng(0), calibration=COUNTS)
    except DataError as error:
        if "no prompt" not in str(error):
            raise
        return None


def content(matrix: ScoreMatrix, result: PairingResult) -> dict[tuple[str, int, int], tuple]:
    """Pairs by prompt and tokens, with C and weight."""
    hashes = dict(zip(matrix.completion_ids, matrix.ids_hash.tolist(), strict=True))
    p = result.pairs
    return {
        (prompt, hashes[chosen], hashes[rejected]): (round(c, 9), round(w, 9))
        for prompt, chosen, rejected, c, w in zip(
            p.prompt_ids, p.chosen_ids, p.rejected_ids, p.consistency, p.weight, strict=True
        )
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_decides_any_matrix_without_nan_and_counts_everything(name, shape):
    for seed in range(2 if shape[0] < 1000 else 1):
        matrix = random_matrix(np.random.default_rng(seed), *shape)
        result = decide(matrix, name)
        if result is None:
            assert shape[0] == 1 or name in BY_POSITION  # it skips groups with a missing score
            continue
        pairs = result.pairs

        for column in (pairs.chosen_reward, pairs.rejected_reward, pairs.weight):
            assert np.isfinite(column).all()
        assert ((pairs.consistency >= 0) & (pairs.consistency <= 1)).all()
        assert (pairs.chosen_reward > pairs.rejected_reward).all()
        assert (pairs.chosen_ids != pairs.rejected_ids).all()
        assert result.tally.total == shape[0]
        assert sum(result.tally.parts.values()) == shape[0]
        assert result.pair_tally.parts["kept"] == len(pairs)
        assert result.tally.parts["paired"] == len(set(pairs.prompt_ids.tolist()))
        assert set(pairs.prompt_ids) == set(
            result.prompts.prompt_ids[result.prompts.outcome == "paired"]
        )


@pytest.mark.parametrize("name", METHODS)
def test_no_method_depends_on_the_order_of_prompts_or_completions(name):
    rng = np.random.default_rng(7)
    matrix = random_matrix(rng, 300, 8)
    # The origins of copies differ here, and which copy is met first must not matter.
    moved = reorder(matrix, rng, inside=name not in BY_POSITION)
    before, after = decide(matrix, name), decide(moved, name)

    assert before is not None
    assert after is not None
    assert content(matrix, before) == content(moved, after)
    assert before.tally == after.tally
    assert len(before.pairs) > 10


@pytest.mark.parametrize("name", METHODS)
def test_the_summary_of_any_matrix_holds_numbers_or_null(name):
    matrix = random_matrix(np.random.default_rng(3), 200, 6)
    result = decide(matrix, name)
    assert result is not None
    summary = summarise_pairs(
        METHODS[name].parts(2), 2, result, report=True, generator=np.random.default_rng(0)
    ).as_json()

    def leaves(value):
        if isinstance(value, dict):
            value = list(value.values())
        return [x for v in value for x in leaves(v)] if isinstance(value, list) else [value]

    numbers = [x for x in leaves(summary) if isinstance(x, float)]
    assert np.isfinite(numbers).all()
    decidable = [
        sum(w[f"{kind}_n"] for kind in ("agree", "disagree", "silent"))
        for w in summary["witnesses"].values()
    ]
    assert len(set(decidable)) == 1
    if name != "oracle":
        assert len(decidable) >= 5
