"""The work of a model by hand, and the least time for it."""

from __future__ import annotations

import pytest
import torch

from cream.bench.floors import (
    Floor,
    Group,
    ModelShape,
    Product,
    forward_seconds,
    group_flops,
    measure_floor,
    model_shape,
    sampling_seconds,
    training_seconds,
)
from cream.testing import tiny_model

SHAPE = ModelShape(
    hidden=4, intermediate=6, layers=2, heads=2, key_value_heads=1, head_size=3, vocabulary=10
)
"""Block: q 4x6, k and v 4x3, o 6x4, gate, up, down 4x6 = 24 + 24 + 24 + 72 = 144; two of them."""


def floor_of(rate: float, copy: float) -> Floor:
    return Floor((Product("float32", 1, 1, 1, rate), Product("float32", 2, 1, 1, rate / 2)), copy)


def test_weights_by_hand():
    assert SHAPE.block_weights == 288
    assert SHAPE.head_weights == 40
    assert SHAPE.cache_bytes(2) == 2 * 2 * 1 * 3 * 2


def test_weights_are_those_of_the_model():
    """Every weight matrix of a linear layer but the head, counted in the model itself."""
    model = tiny_model()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    head = linear.pop("lm_head")
    shape = model_shape(model.config)

    assert shape.block_weights == sum(module.weight.numel() for module in linear.values())
    assert shape.head_weights == head.weight.numel()


def test_a_group_computes_its_prompt_once_and_no_last_token():
    """Prompt 3, completions 1 and 3, so 0 and 2 fed tokens.

    Tokens 5. Attended: 1+2+3 in the prompt, 4+5 after it: 15. Rows of logits: the prompt's last and
    two more. 2*288*5 + 4*2*2*3*15 + 2*40*3 = 2880 + 720 + 240.
    """
    assert group_flops(SHAPE, [Group(3, (1, 3))]) == 3840


def test_the_floor_of_scoring_is_work_over_the_best_rate():
    floor = floor_of(rate=1000.0, copy=1.0)

    assert forward_seconds(SHAPE, floor, [Group(3, (1, 3))], "float32") == 3.84
    assert training_seconds(SHAPE, floor, [Group(3, (1, 3))], "float32") == pytest.approx(11.52)


def test_a_decoding_step_is_bound_by_work_or_by_reading():
    """Prompt 2, two completions of 2 tokens: prefill, then one step of two rows.

    Prefill: 2*288*2 + 48*3 + 80 = 1376 FLOP. Step: 2*288*2 + 48*(3+3) + 80*2 = 1600 FLOP;
    bytes of 2 each: 328 weights, 2 + 2*1 cached tokens of 24 bytes: 656 + 96 = 752.
    """
    groups = [Group(2, (2, 2))]

    work = sampling_seconds(SHAPE, floor_of(1000.0, 1e9), groups, "float32", 2)
    reading = sampling_seconds(SHAPE, floor_of(1000.0, 47.0), groups, "float32", 2)

    assert work == pytest.approx(1.376 + 1.6)
    assert reading == pytest.approx(1.376 + 752 / 94)


def test_finished_completions_cost_nothing_more():
    """One of two stops after its first token: one row in the only step."""
    floor = floor_of(1000.0, 1e9)
    step = (2 * 288 + 48 * 3 + 80) / 1000

    assert sampling_seconds(SHAPE, floor, [Group(2, (2, 1))], "float32", 2) == pytest.approx(
        1.376 + step
    )


def test_measured_rates_are_of_the_right_products():
    floor = measure_floor(model_shape(tiny_model().config), torch.device("cpu"), seconds=0.001)

    assert {p.dtype for p in floor.products} == {"bfloat16", "float32"}
    assert (4096, 64, 128) in {(p.rows, p.inner, p.columns) for p in floor.products}
    assert 1e8 < floor.rate("float32") < 1e15
    assert 1e7 < floor.copy_bytes_per_second < 1e13
