"""Advantages from matrices small enough to decide by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.algorithms.policy_gradient import policy_gradient, product_ratio
from cream.recipe.pairing import Penalise
from cream.recipe.parts import (
    Advantage,
    AnyQuantity,
    BestWorst,
    LogpQuantity,
    Majority,
    MethodParts,
    ScoreQuantity,
    Votes,
)
from cream.recipe.policy_gradient import PolicyGradient, RewardKl
from cream.stages.advantage import Advantages, WeighedSample, sample_examples, weigh
from cream.types import ScoreMatrix

REWARD = ScoreQuantity(column="score")


def matrix(*groups: Mapping[str, Sequence[float]], labels: bool = False) -> ScoreMatrix:
    """Groups a, b, ... with their columns; ``M0`` and ``M1`` are 0 if left out."""
    sizes = [len(next(iter(columns.values()))) for columns in groups]
    total = sum(sizes)

    def flat(name: str, default: float) -> np.ndarray:
        pairs = zip(groups, sizes, strict=True)
        return np.concatenate([np.asarray(g.get(name, [default] * n), float) for g, n in pairs])

    names = [chr(ord("a") + g) for g in range(len(groups))]
    hashes = flat("hash", np.nan)
    return ScoreMatrix(
        prompt_ids=np.array(names, dtype=object),
        group_offsets=np.cumsum([0, *sizes]).astype(np.int64),
        completion_ids=np.array(
            [f"{n}{k}" for n, size in zip(names, sizes, strict=True) for k in range(size)],
            dtype=object,
        ),
        num_tokens=np.full(total, 4, dtype=np.int32),
        truncated=flat("cut", 0) > 0,
        ids_hash=np.where(np.isnan(hashes), np.arange(total), hashes).astype(np.int64),
        logps={name: flat(name, 0.0) for name in ("M0", "M1")},
        noise={"M0": 0.0, "M1": 0.0},
        scores={"score": flat("score", np.nan), "verifier": flat("verifier", np.nan)},
        labels={"extracted": flat("answer", -1).astype(np.int64)} if labels else {},
    )


def weighed(scores: ScoreMatrix, reward: AnyQuantity = REWARD, **rule) -> Advantages:
    parts = MethodParts(reward=reward, advantage=Advantage(**rule), objective=PolicyGradient())
    return weigh(scores, parts, policy="M1", reference="M0")


WORKED = {"score": [1, -1, -1, 1], "M1": [2, 1, 0.5, 4]}
"""Rewards, and KL sums 2, 1, .5, 4 (M0 is 0)."""


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("advantage", [1.2333, -1.3833, -1.3583, 1.1333]),
        ("reward", [1.3250, -1.2750, -1.2417, 1.1917]),
    ],
)
def test_divergence_beside_and_inside_the_reward_by_hand(place, expected):
    """beta .05. Beside: (4/3, -4/3, -4/3, 4/3) - .05 (2, 1, .5, 4). Inside: of R - .05 KL."""
    found = weighed(matrix(WORKED), kl=RewardKl(place=place, beta=0.05))
    np.testing.assert_allclose(found.advantage[0], expected, atol=1e-4)
    assert found.kl is not None
    np.testing.assert_allclose(found.kl[0], [2, 1, 0.5, 4])
    assert weighed(matrix(WORKED)).kl is None


def test_group_normalisation_by_hand():
    """(1, -1, -1, 1) over its mean 0 by its deviation sqrt(4 / 3): +-.8660."""
    found = weighed(matrix(WORKED), baseline="group_mean", scale="group_std")
    np.testing.assert_allclose(found.advantage[0], [0.8660, -0.8660, -0.8660, 0.8660], atol=1e-4)


def test_the_scale_of_the_rewards_is_gone_after_group_normalisation_and_only_then():
    tenfold = {"score": [10, -10, -10, 10]}
    for scale, factor in (("none", 10), ("group_std", 1)):
        small, large = (
            weighed(matrix(given), scale=scale).advantage[0] for given in (WORKED, tenfold)
        )
        np.testing.assert_allclose(large, factor * small)


def test_groups_without_variance_are_left_out_and_counted_or_kept_for_their_divergence():
    scores = matrix(WORKED, {"score": [1, 1, 1, 1], "M1": [2, 1, 0.5, 4]})
    found = weighed(scores)
    assert found.outcome.tolist() == ["trained", "no_variance"]
    assert found.tally.parts == {"trained": 1, "no_variance": 1, "unscored": 0, "truncated": 0}
    assert np.isnan(found.advantage[1]).all()
    kept = weighed(scores, without_variance="keep", kl=RewardKl(place="advantage", beta=0.1))
    assert kept.outcome.tolist() == ["trained", "trained"]
    np.testing.assert_allclose(kept.advantage[1], [-0.2, -0.1, -0.05, -0.4])


def test_what_is_not_trained_on_is_named():
    """a: one of four without a score; b: one score only; c: two cut off, one of the rest alone."""
    nan = float("nan")
    scores = matrix(
        {"score": [1, 0, nan, 0]},
        {"score": [1, nan, nan, nan]},
        {"score": [1, 0, 1], "cut": [1, 1, 0]},
    )
    found = weighed(scores, truncated="drop")
    assert found.outcome.tolist() == ["trained", "unscored", "truncated"]
    assert found.sample_outcome[0].tolist() == ["trained", "trained", "unscored", "trained"]
    assert found.sample_outcome[1].tolist() == ["alone", "unscored", "unscored", "unscored"]
    assert found.sample_outcome[2].tolist() == ["truncated", "truncated", "alone", ""]
    np.testing.assert_allclose(found.advantage[0], [1, -0.5, nan, -0.5])
    assert found.sample_tally.total == 11
    assert weighed(scores).outcome.tolist() == ["trained", "unscored", "trained"]


def test_truncated_samples_may_pay():
    found = weighed(matrix({"score": [1, 1], "cut": [0, 1]}), truncated=Penalise(penalty=2.0))
    np.testing.assert_allclose(found.reward[0], [1, -1])
    np.testing.assert_allclose(found.advantage[0], [2, -2])


def test_every_copy_of_a_completion_counts():
    """Copies of the first answer: three votes of four, each copy with the reward and a weight."""
    scores = matrix({"answer": [5, 5, 5, 6], "hash": [9, 9, 9, 8]}, labels=True)
    found = weighed(scores, Votes())
    np.testing.assert_allclose(found.reward[0], [0.75, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(found.advantage[0], [1 / 6, 1 / 6, 1 / 6, -0.5])
    by_majority = weighed(scores, Majority())
    np.testing.assert_allclose(by_majority.reward[0], [1, 1, 1, 0])
    assert by_majority.vote_share.tolist() == [0.75]


def test_a_group_without_a_majority_has_no_label():
    scores = matrix({"answer": [5, 5, 6, 6]}, {"answer": [5, 5, 6, -1]}, labels=True)
    found = weighed(scores, Majority())
    assert found.outcome.tolist() == ["unscored", "trained"]
    np.testing.assert_allclose(found.advantage[1], [2 / 3, 2 / 3, -2 / 3, -2 / 3])


def test_parts_make_pairs_or_advantages_and_never_ignore_anything():
    given = {"reward": REWARD, "objective": PolicyGradient(), "advantage": Advantage()}
    for change, said in (
        ({"pairing": BestWorst()}, "it has both"),
        ({"advantage": None}, "it has neither"),
        ({"advantage": None, "pairing": BestWorst()}, "does not train on pairs"),
        ({"objective": {"name": "dpo"}}, "does not train on advantages"),
        ({"tie_break": LogpQuantity(unit="likelihood", model="M1")}, "tie_break would be ignored"),
        ({"prompts": "seed"}, "prompts: seed would be ignored"),
    ):
        with pytest.raises(ValidationError, match=said):
            MethodParts(**{**given, **change})
    for wrong, said in (
        ({"baseline": "none"}, "without a baseline"),
        ({"scale": "group_std", "without_variance": "keep"}, "divides by zero"),
        ({"kl": {"place": "reward", "beta": 1, "estimator": "k3"}}, "k1 is the unbiased one"),
    ):
        with pytest.raises(ValidationError, match=said):
            Advantage.model_validate(wrong)
    with pytest.raises(ValidationError, match="k1 has, on average, no gradient"):
        PolicyGradient.model_validate({"kl": {"beta": 0.1, "estimator": "k1"}})


def test_samples_of_a_prompt_are_one_example_with_the_advantage_at_every_token():
    samples = [
        WeighedSample("a", "a0", 1.0, 0.5),
        WeighedSample("b", "b1", 0.0, -2.0),
        WeighedSample("a", "a2", 0.0, -0.5),
    ]
    ids = {"a0": (1, 2), "a2": (3,), "b1": (4, 5, 6)}
    reference = {key: tuple(map(float, value)) for key, value in ids.items()}
    first, second = sample_examples(
        samples, ids, {"a": (7,), "b": (8,)}, {"a": 0.5, "b": np.nan}, reference
    )
    assert first.example_id == "a"
    assert first.prompt_token_ids == (7,)
    assert [s.token_ids for s in first.sequences.values()] == [(1, 2), (3,)]
    assert first.sequences["sample_0"].token_columns["advantage"] == (0.5, 0.5)
    assert first.sequences["sample_1"].token_columns["reference"] == (3,)
    assert first.columns == {"reward": 0.5, "vote_share": 0.5}
    assert list(second.sequences) == ["sample_0"]


def test_exchanged_rewards_negate_the_gradient_of_a_step():
    """From the matrix to the gradient: what was good is lowered and the other way about."""

    def gradient(scores: list[float]) -> torch.Tensor:
        found = weighed(matrix({"score": scores}))
        policy = torch.full((1, 3), -1.0, requires_grad=True)
        objective = policy_gradient("x", 2, ratio=product_ratio, clip=0.2)
        roles = objective.needs.scored
        sequences = {
            role: SequenceInputs(
                torch.ones(1, 3, dtype=torch.bool),
                policy * (1 if k == 0 else 2),
                torch.ones(1, dtype=torch.bool),
                None,
                (policy * (1 if k == 0 else 2)).detach(),
                {"advantage": torch.full((1, 3), float(found.advantage[0, k]))},
            )
            for k, role in enumerate(roles)
        }
        columns = {"reward": torch.zeros(1), "vote_share": torch.zeros(1)}
        objective.loss(ObjectiveInputs(sequences, columns)).sum().backward()
        assert policy.grad is not None
        return policy.grad

    up, down = gradient([1, 0]), gradient([0, 1])
    torch.testing.assert_close(up, -down)
    # d/dp of -(A0 p + A1 2p) / 2 with A = (1, -1): +1/2 a token.
    torch.testing.assert_close(up, torch.full((1, 3), 0.5))
