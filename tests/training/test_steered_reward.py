"""Steered rewards: what the encoder may and may not see, the forms of the loss, the artifact."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cream.algorithms.steering import (
    NO_CHOICES,
    Choices,
    SteeringTask,
    choice_nll,
    disagreement,
    gaussian_kl,
    hits,
    predicted,
)
from cream.errors import DataError, ModelError, RecipeError, RunError
from cream.models.artifacts import CONFIG, WEIGHTS
from cream.models.steered_reward import (
    RewardNet,
    SteeredReward,
    load_steered_reward,
    require_same_embedding,
    save_steered_reward,
)
from cream.recipe.load import validate_section
from cream.recipe.steering import SteeringConfig
from cream.runs.files import read_sealed, write_sealed
from cream.training.steering import SteeringFit, fit_steering, principal_components, task_loss

WIDTH = 6
COMPLETIONS = 40


def config(**changed: object) -> SteeringConfig:
    values = {"components": WIDTH, "latent": 8, "steps": 3, "users_per_step": 8, "seed": 1}
    return SteeringConfig.model_validate(values | changed)


def net(form: str = "deterministic", **changed: object) -> RewardNet:
    torch.manual_seed(0)
    built = RewardNet(WIDTH, config(form=form, **changed))
    torch.nn.init.normal_(built.empty)
    return built.eval()


def forget_count(encoder: RewardNet) -> None:
    """Take the feature log(1 + C) out."""
    dict(encoder.set.named_parameters())["0.weight"][:, -1] = 0


def embeddings(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COMPLETIONS, WIDTH)).astype(np.float32)


def taste(rows: np.ndarray, sign: int, seed: int, count: int = 30) -> Choices:
    """A user who prefers the larger (or smaller) first entry."""
    draw = np.random.default_rng(seed)
    pairs = np.array([draw.choice(len(rows), 2, replace=False) for _ in range(count)])
    first_wins = (sign * (rows[pairs[:, 0], 0] - rows[pairs[:, 1], 0]) > 0)[:, None]
    ordered = np.where(first_wins, pairs, pairs[:, ::-1])
    return Choices(ordered[:, 0].copy(), ordered[:, 1].copy())


@pytest.fixture(scope="module")
def opposed() -> tuple[np.ndarray, SteeringFit]:
    """Twenty users of either of two opposed tastes, fitted."""
    rows = embeddings()
    users = [taste(rows, 1 if k % 2 else -1, seed=k) for k in range(40)]
    return rows, fit_steering(rows, users, config(steps=150, learning_rate=3e-3, latent=16))


@pytest.mark.parametrize("form", ["deterministic", "elbo"])
@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_the_order_of_a_context_and_its_padding_do_not_matter(form: str, pool: str) -> None:
    encoder, draw = net(form, pool=pool), torch.Generator().manual_seed(3)
    winners, losers = torch.randn(2, 1, 5, WIDTH, generator=draw)
    mask = torch.ones(1, 5, dtype=torch.bool)
    plain = encoder.encode(winners, losers, mask).mean
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = encoder.encode(winners[:, order], losers[:, order], mask).mean
    torch.testing.assert_close(permuted, plain, atol=1e-6, rtol=0)
    filler = torch.full((1, 2, WIDTH), math.nan)
    wider = torch.cat([mask, torch.zeros(1, 2, dtype=torch.bool)], 1)
    padded = encoder.encode(
        torch.cat([winners, filler], 1), torch.cat([losers, filler], 1), wider
    ).mean
    torch.testing.assert_close(padded, plain, atol=1e-6, rtol=0)
    assert not torch.allclose(encoder.encode(losers, winners, mask).mean, plain, atol=1e-3)


def test_a_masked_row_takes_no_gradient() -> None:
    encoder = net()
    winners = torch.randn(1, 3, WIDTH, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    encoder.encode(winners, torch.randn(1, 3, WIDTH), mask).mean.sum().backward()
    assert winners.grad is not None
    assert winners.grad[0, :2].abs().sum() > 0
    assert winners.grad[0, 2].tolist() == [0.0] * WIDTH


def test_an_empty_context_is_a_learnt_latent_beside_others_in_a_batch() -> None:
    encoder = net()
    winners, losers = torch.randn(2, 2, 3, WIDTH)
    mask = torch.tensor([[False] * 3, [True] * 3])
    found = encoder.encode(winners, losers, mask).mean
    assert torch.equal(found[0], encoder.empty)
    alone = encoder.encode(winners[1:], losers[1:], mask[1:]).mean
    torch.testing.assert_close(found[1], alone[0])
    encoder.reward(torch.randn(2, 1, WIDTH), found).sum().backward()
    assert encoder.empty.grad is not None
    assert encoder.empty.grad.abs().sum() > 0


def test_the_mean_pool_sees_the_number_of_choices_only_as_a_feature() -> None:
    """The same choice twice: with its feature fixed the latent is the same; a sum doubles."""
    choice = torch.randn(2, 1, 1, WIDTH)
    twice = choice.expand(2, 1, 2, WIDTH)
    one, two = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    for pool, equal in (("mean", True), ("sum", False)):
        encoder = net(pool=pool)
        with torch.no_grad():
            forget_count(encoder)
        first = encoder.encode(choice[0], choice[1], one).mean
        second = encoder.encode(twice[0], twice[1], two).mean
        assert torch.allclose(first, second, atol=1e-6) is equal


def test_a_reward_reads_the_choices_of_its_context() -> None:
    """Finite difference of a reward in the weight with which a choice is turned round."""
    encoder = net().double()
    winners, losers = torch.randn(2, 1, 4, WIDTH, dtype=torch.float64)
    completion = torch.randn(1, 1, WIDTH, dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)

    def reward(turned: torch.Tensor) -> torch.Tensor:
        first = torch.cat([torch.lerp(winners[:, :1], losers[:, :1], turned), winners[:, 1:]], 1)
        second = torch.cat([torch.lerp(losers[:, :1], winners[:, :1], turned), losers[:, 1:]], 1)
        return encoder.reward(completion, encoder.encode(first, second, mask).mean).sum()

    at = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    reward(at).backward()
    step = 1e-6
    slope = (reward(at.detach() + step) - reward(at.detach() - step)) / (2 * step)
    assert at.grad is not None
    assert abs(slope.item()) > 1e-4
    assert at.grad.item() == pytest.approx(slope.item(), rel=1e-4)


def test_a_reward_does_not_depend_on_its_batch() -> None:
    for kind in ("layer", "none"):
        encoder, latent = net(normalisation=kind), torch.randn(1, 8)
        features = torch.randn(1, 5, WIDTH)
        together = encoder.reward(features, latent)
        alone = torch.cat([encoder.reward(features[:, k : k + 1], latent) for k in range(5)], 1)
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def tasks() -> list[SteeringTask]:
    rows = embeddings()
    users = [taste(rows, 1, seed=k, count=9) for k in range(3)]
    return [
        SteeringTask(u.take(range(k)), u.take(range(k, 9 - k)))
        for k, u in zip((0, 2, 4), users, strict=True)
    ]


def test_ragged_tasks_cost_the_mean_over_users_of_their_means() -> None:
    encoder, features = net(), torch.from_numpy(embeddings())
    together = task_loss(encoder, features, tasks(), config(), 0)
    apart = [task_loss(encoder, features, [task], config(), 0) for task in tasks()]
    torch.testing.assert_close(together, torch.stack(apart).mean())


def test_empty_contexts_give_bradley_and_terry() -> None:
    encoder, features = net(), torch.from_numpy(embeddings())
    bare = [SteeringTask(NO_CHOICES, task.targets) for task in tasks()]
    margins = [
        encoder.reward(features[task.targets.winners], encoder.empty)
        - encoder.reward(features[task.targets.losers], encoder.empty)
        for task in bare
    ]
    wanted = torch.stack([choice_nll(m).mean() for m in margins]).mean()
    torch.testing.assert_close(task_loss(encoder, features, bare, config(), 0), wanted)


def test_flipped_targets_cost_their_margin_more_and_exchanged_sides_nothing() -> None:
    encoder, features = net(), torch.from_numpy(embeddings())
    (task,) = tasks()[2:]
    flipped = SteeringTask(task.context, task.targets.flipped())
    latent = encoder.encode(
        features[task.context.winners][None],
        features[task.context.losers][None],
        torch.ones(1, len(task.context), dtype=torch.bool),
    ).mean
    margins = encoder.reward(features[task.targets.winners], latent[0]) - encoder.reward(
        features[task.targets.losers], latent[0]
    )
    loss = task_loss(encoder, features, [task], config(), 0)
    other = task_loss(encoder, features, [flipped], config(), 0)
    torch.testing.assert_close(other, loss + margins.mean())


@pytest.mark.parametrize("form", ["elbo", "reference"])
def test_the_two_gaussian_forms_differ_as_stated(form: str) -> None:
    """With the noise fixed: where z is drawn, and which divergence is added."""
    encoder, features = net(form), torch.from_numpy(embeddings())
    (task,) = tasks()[1:2]
    options = config(form=form, kl_weight=0.3)

    def latent(choices: Choices) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.ones(1, len(choices), dtype=torch.bool)
        found = encoder.encode(
            features[choices.winners][None], features[choices.losers][None], mask
        )
        assert found.deviation is not None
        return found.mean, found.deviation

    given, whole = latent(task.context), latent(task.context.joined(task.targets))
    free = config(form=form, kl_weight=1e-9)
    with_kl = task_loss(encoder, features, [task], options, 0)
    without = task_loss(encoder, features, [task], free, 0)
    order = (whole, given) if form == "elbo" else (given, whole)
    wanted = 0.3 * gaussian_kl(*order[0], *order[1])[0]
    torch.testing.assert_close(with_kl - without, wanted, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for parameter in encoder.item.parameters():  # no context can be told from another
            parameter.zero_()
        forget_count(encoder)
    same = task_loss(encoder, features, [task], options, 0)
    torch.testing.assert_close(same, task_loss(encoder, features, [task], free, 0))


def test_principal_components_are_standardised_and_uncorrelated() -> None:
    rows = torch.randn(50, WIDTH, dtype=torch.float64).float() * torch.tensor(
        [1.0, 100, 1, 1, 1, 1]
    )
    rows[:, 5] = 3.0
    mean, matrix = principal_components(rows, 4)
    found = (rows - mean) @ matrix
    torch.testing.assert_close(found.T @ found / 50, torch.eye(4), atol=1e-3, rtol=0)
    assert principal_components(rows, 64)[1].shape == (WIDTH, WIDTH - 1)
    with pytest.raises(DataError, match="the same embedding"):
        principal_components(torch.ones(5, 3), 2)


def test_opposed_users_are_told_apart_by_a_few_choices(
    opposed: tuple[np.ndarray, SteeringFit],
) -> None:
    """On unseen users: their own context tells, its opposite misleads as much, none is a coin."""
    rows, fit = opposed
    module, features = fit.reward, fit.reward.features(torch.from_numpy(rows))
    own, flipped, none = [], [], []
    with torch.no_grad():
        for k in range(20):
            user = taste(rows, 1 if k % 2 else -1, seed=100 + k)
            context, targets = user.take(range(8)), user.take(range(8, 30))
            targets = targets.apart_from(context)
            for shown, kept in ((context, own), (context.flipped(), flipped), (NO_CHOICES, none)):
                latent = module.told(features[shown.winners], features[shown.losers])
                score = module.score(features, latent).double().numpy()
                kept.append(hits(score[targets.winners] - score[targets.losers]).mean())
    assert np.mean(own) > 0.75
    assert np.mean(flipped) < 0.25
    assert abs(np.mean(none) - 0.5) < 0.1
    assert fit.loss < 0.6 < fit.pooled_loss


def test_the_next_question_is_where_the_possible_users_differ(
    opposed: tuple[np.ndarray, SteeringFit],
) -> None:
    """Unequal in the first entry, users of both tastes differ; in no entry, nobody can."""
    rows, fit = opposed
    module, features = fit.reward, fit.reward.features(torch.from_numpy(rows))
    low, high = int(rows[:, 0].argmin()), int(rows[:, 0].argmax())
    with torch.no_grad():
        bare = module.types(features[:0], features[:0])
        assert len(bare[1]) == 40
        assert bare[1].tolist() == pytest.approx([1 / 40] * 40)
        asked = module.margins(features[[high, high]], features[[low, high]], bare[0])
        value = disagreement(asked, bare[1])
        assert value[0] > 0.05
        assert value[1] < 1e-9
        likes = taste(rows, 1, seed=300, count=8)
        told = module.types(features[likes.winners], features[likes.losers])
        after = disagreement(module.margins(features[[high]], features[[low]], told[0]), told[1])
        assert after[0] < value[0]
        chance = predicted(module.margins(features[[high]], features[[low]], told[0]), told[1])
        assert chance[0] > 0.8


def test_a_training_is_decided_by_its_seed() -> None:
    rows = embeddings()
    users = [taste(rows, 1, seed=k, count=6) for k in range(3)]
    first, again, other = (fit_steering(rows, users, config(seed=s)) for s in (4, 4, 5))
    assert first.loss == again.loss
    assert first.loss != other.loss
    for a, b in zip(first.reward.parameters(), again.reward.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(DataError, match="one user alone"):
        fit_steering(rows, users[:1], config())


def saved(folder: Path, form: str = "deterministic") -> SteeredReward:
    rows = embeddings()
    users = [taste(rows, 1, seed=k, count=6) for k in range(3)]
    module = fit_steering(rows, users, config(form=form)).reward
    embedding = {"model": "f00", "pooling": "mean"}
    save_steered_reward(folder, module, embedding=embedding, trained={"users": 3})
    return module


@pytest.mark.parametrize("form", ["deterministic", "elbo"])
def test_a_reward_survives_its_folder(form: str, tmp_path: Path) -> None:
    module = saved(tmp_path, form)
    found = load_steered_reward(tmp_path)
    features = module.features(torch.from_numpy(embeddings()))
    with torch.no_grad():
        before = module.score(features, module.told(features[:3], features[3:6]))
        reloaded = found.module.features(torch.from_numpy(embeddings()))
        after = found.module.score(reloaded, found.module.told(reloaded[:3], reloaded[3:6]))
    assert torch.equal(before, after)
    assert found.record["trained"] == {"users": 3}
    require_same_embedding(found, {"model": "f00", "pooling": "mean"})
    with pytest.raises(ModelError, match="embeddings of model f00"):
        require_same_embedding(found, {"model": "f01", "pooling": "mean"})


def test_an_encoder_that_was_not_saved_is_noticed(tmp_path: Path) -> None:
    """The published code loaded such a file, and tested a random encoder."""
    saved(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    without = {k: v for k, v in tensors.items() if not k.startswith("steered.item")}
    save_file(without, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="not what was saved"):
        load_steered_reward(tmp_path)
    _reseal(tmp_path)
    with pytest.raises(ModelError, match=r"steered\.item\S* is missing"):
        load_steered_reward(tmp_path)
    save_file({**tensors, "steered.empty": torch.full((8,), math.nan)}, tmp_path / WEIGHTS)
    _reseal(tmp_path)
    with pytest.raises(ModelError, match=r"steered\.empty is not finite"):
        load_steered_reward(tmp_path)
    save_file({k: v.double() for k, v in tensors.items()}, tmp_path / WEIGHTS)
    _reseal(tmp_path)
    with pytest.raises(ModelError, match="not float32"):
        load_steered_reward(tmp_path)


def _reseal(folder: Path) -> None:
    import hashlib

    record = read_sealed(folder / CONFIG)
    content = (folder / WEIGHTS).read_bytes()
    record["weights_digest"] = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_sealed(folder / CONFIG, record)


def test_a_changed_or_foreign_configuration_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    record = read_sealed(tmp_path / CONFIG)
    text = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**text, "format": 2}))
    with pytest.raises(RunError, match="seal"):
        load_steered_reward(tmp_path)
    write_sealed(tmp_path / CONFIG, {**record, "format": 2})
    with pytest.raises(ModelError, match="format 2"):
        load_steered_reward(tmp_path)
    write_sealed(tmp_path / CONFIG, {**record, "kind": "reranker"})
    with pytest.raises(ModelError, match="'reranker'"):
        load_steered_reward(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"no weights\.safetensors"):
        load_steered_reward(tmp_path)


def test_options_that_would_be_ignored_are_refused() -> None:
    for given, said in (
        ({"kl_weight": 0.1}, "kl_weight would be ignored"),
        ({"samples": 4}, "samples would be ignored"),
        ({"context_min": 11}, "context_min 11 is above context_max 10"),
        ({"pool": "attention"}, "pool"),
        ({"normalisation": "batch"}, "normalisation"),
    ):
        with pytest.raises(RecipeError, match=said):
            validate_section(given, SteeringConfig, source="--set")


def test_choices_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NO_CHOICES.winners = np.array([1])  # type: ignore[misc]
