import pytest
import torch

from cream.recipe.training import OptimiserConfig
from cream.testing import tiny_model
from cream.training.optimiser import (
    Weights,
    adamw,
    clip_gradients,
    learning_rate,
    plain_attention,
)


def factors(total, warmup, schedule):
    config = OptimiserConfig(learning_rate=1.0, warmup_ratio=warmup, schedule=schedule)
    return [learning_rate(config, step, total) for step in range(total)]


def test_cosine_schedule_by_hand():
    """10 steps, warm-up 2: 1/2, 1, then (1 + cos(pi k / 8)) / 2 for k = 0..7."""
    got = factors(10, 0.2, "cosine")
    expected = [0.5, 1, 1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]
    assert got == pytest.approx(expected, abs=1e-5)


def test_linear_and_constant_schedules_by_hand():
    assert factors(4, 0.0, "linear") == [1, 0.75, 0.5, 0.25]
    assert factors(4, 0.5, "constant") == [0.5, 1, 1, 1]


def test_a_single_step_trains_at_the_peak():
    assert factors(1, 0.1, "cosine") == [1.0]


def test_decay_applies_to_matrices_only():
    model = tiny_model(architecture="gpt2")
    optimiser = adamw(dict(model.named_parameters()), OptimiserConfig(learning_rate=1e-3))
    by_decay = {group["weight_decay"]: group["params"] for group in optimiser.param_groups}
    assert all(p.ndim >= 2 for p in by_decay[0.01])
    assert all(p.ndim == 1 for p in by_decay[0.0])
    assert sum(len(ps) for ps in by_decay.values()) == len(list(model.parameters()))


def test_clipping_scales_to_the_norm_and_reports_the_norm_before():
    """Gradients (3, 4) have norm 5; clipped to 1 they are (0.6, 0.8)."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([p], 1.0) == 5.0
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_masters_keep_updates_that_bfloat16_would_lose():
    """At 1.0 a bfloat16 unit is 2^-7; 100 updates of 1e-4 are 0.01 in the master, while each
    one alone would round away in bfloat16."""
    model = tiny_model()
    weights = Weights(model, torch.bfloat16)
    name = "model.norm.weight"
    for _ in range(100):
        weights.masters[name].data += 1e-4
    weights.publish()
    torch.testing.assert_close(weights.masters[name], torch.full((64,), 1.01), rtol=1e-5, atol=0)
    computing = dict(weights.computing.named_parameters())[name]
    assert computing.dtype == torch.bfloat16
    assert (computing == torch.tensor(1.01).bfloat16()).all()
    assert (torch.ones(1).bfloat16() + 1e-4 == 1).all()


def test_gradients_of_the_copy_accumulate_in_float32_in_the_masters():
    """1 + 2^-9 + 2^-9 is 1 in bfloat16 (unit 2^-7), exact in float32."""
    model = tiny_model()
    weights = Weights(model, torch.bfloat16)
    computing = dict(weights.computing.named_parameters())["model.norm.weight"]
    for factor in (1.0, 2**-9, 2**-9):
        (computing * factor).sum().backward()
    assert computing.grad is None
    master = weights.masters["model.norm.weight"].grad
    assert master is not None
    assert master.dtype == torch.float32
    assert (master == 1 + 2**-8).all()


def test_position_tables_and_tied_weights_survive_the_copy():
    model = tiny_model()
    computing = Weights(model, torch.bfloat16).computing
    assert computing.model.rotary_emb.inv_freq.dtype == torch.float32
    assert computing.lm_head.weight is computing.model.embed_tokens.weight
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_float32_trains_the_model_itself_without_a_copy():
    model = tiny_model()
    assert Weights(model, torch.float32).computing is model


def test_plain_attention_is_for_short_rows_and_is_put_back():
    model = tiny_model()
    model.set_attn_implementation("sdpa")
    ids = torch.arange(12)[None]
    expected = model(input_ids=ids).logits
    with plain_attention(model, longest_row=100):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"
    with plain_attention(model, longest_row=100_000):
        assert model.config._attn_implementation == "sdpa"


def test_the_fused_step_is_adamw():
    """Two steps by hand on one weight: decay 0.1, lr 0.1, gradients 1 then 1: each step is
    w <- w (1 - 0.01) - 0.1."""
    p = torch.nn.Parameter(torch.ones(1, 1))
    config = OptimiserConfig(learning_rate=0.1, weight_decay=0.1)
    optimiser = adamw({"w": p}, config)
    for _ in range(2):
        p.grad = torch.ones(1, 1)
        optimiser.step()
    assert p.item() == pytest.approx((1 * 0.99 - 0.1) * 0.99 - 0.1, abs=1e-6)


def test_warm_up_of_7_percent_of_100_steps_takes_7():
    """As a product of floats 0.07 * 100 is above 7, and its ceiling 8."""
    config = OptimiserConfig(learning_rate=1.0, warmup_ratio=0.07, schedule="constant")

    rates = [learning_rate(config, step, 100) for step in range(8)]

    assert rates == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1.0, 1.0])
