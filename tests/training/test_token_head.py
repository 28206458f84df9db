"""A token head: what it learns of edits, its level, and its folder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cream.algorithms.token_rewards import bt_edit, bt_mean, token_ce
from cream.errors import ModelError, TrainingError
from cream.models.artifacts import WEIGHTS
from cream.models.token_head import TokenHead, load_token_head, save_token_head
from cream.training.token_head import Loss, ReadTokens, fit_token_head

NEW, OLD, KEPT = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def read(*tokens: tuple[tuple[float, ...], bool]) -> ReadTokens:
    return ReadTokens(torch.tensor([t for t, _ in tokens]), torch.tensor([m for _, m in tokens]))


def pair(length: int = 2) -> tuple[ReadTokens, ReadTokens]:
    """One token exchanged, before `length` that are kept."""
    kept = [(KEPT, False)] * length
    return read((NEW, True), *kept), read((OLD, True), *kept)


def fitted(
    loss: Loss, *, graded: bool = False, centre: bool = False, steps: int = 60
) -> tuple[TokenHead, list[float]]:
    return fit_token_head(
        [pair(), pair(5)], loss, graded=graded, centre=centre, steps=steps, learning_rate=0.1
    )


def test_the_first_step_is_adams_along_the_sign_of_the_gradient() -> None:
    """bt_edit of one pair, T = 3 on either side, at w = 0: gradient -1/2 (x_new - x_old) / 3, so
    one Adam step is +rate on new's coordinate and -rate on old's, none on that of kept tokens."""
    head, losses = fit_token_head(
        [pair()], bt_edit, graded=False, centre=False, steps=1, learning_rate=0.1
    )
    assert losses == [pytest.approx(math.log(2))]
    torch.testing.assert_close(
        head.weight.detach(), torch.tensor([0.1, -0.1, 0.0]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("loss", [token_ce, bt_edit, bt_mean])
@pytest.mark.parametrize("centre", [False, True])
def test_new_tokens_are_worth_more_than_kept_and_replaced_ones_less(
    loss: Loss, centre: bool
) -> None:
    head, losses = fitted(loss, graded=loss is token_ce, centre=centre)
    new, old, kept = head(torch.tensor([NEW, OLD, KEPT])).tolist()
    assert losses[-1] < losses[0]
    assert new > kept + 0.2
    assert old < kept - 0.2
    assert kept == pytest.approx(0, abs=1e-6), "the level is the mean of kept tokens"


def test_exchanged_sides_turn_the_signs() -> None:
    """The loss is symmetric under exchange, so the fit from zero is the mirrored one."""
    pairs = [pair(), pair(5)]
    fits = [
        fit_token_head(p, bt_mean, graded=False, centre=False, steps=20, learning_rate=0.1)[0]
        for p in (pairs, [(original, edited) for edited, original in pairs])
    ]
    torch.testing.assert_close(fits[0].weight, -fits[1].weight)


def test_graded_rewards_are_two_p_minus_one() -> None:
    head = TokenHead(1, graded=True)
    with torch.no_grad():
        head.weight.fill_(math.log(9))  # p = .9
    assert head(torch.ones(1)).item() == pytest.approx(0.8)


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrainingError, match="the token head is nan at step 1; lower its"):
        fit_token_head(
            [pair()],
            lambda edited, original: bt_mean(edited, original) * math.nan,
            graded=False,
            centre=False,
            steps=3,
            learning_rate=0.1,
        )


def test_a_saved_head_gives_the_same_rewards_and_reads_no_other_model(tmp_path: Path) -> None:
    head, _ = fitted(token_ce, graded=True, centre=True)
    save_token_head(tmp_path, head, fingerprint="m", what={})
    states = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_token_head(tmp_path, fingerprint="m")(states), head(states))
    with pytest.raises(ModelError, match="states of another model"):
        load_token_head(tmp_path, fingerprint="other")
    weights = tmp_path / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="not what was saved"):
        load_token_head(tmp_path, fingerprint="m")
