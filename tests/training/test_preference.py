import math
from dataclasses import replace

import pytest
import torch
from training_items import make_pairs

from cream.algorithms.consistency import StageScale
from cream.errors import TrainingError
from cream.recipe.objectives import Cream, Dpo, SrlmKl
from cream.recipe.training import (
    ComputeConfig,
    LoraConfig,
    PreferenceOptimiserConfig,
    TrainingConfig,
)
from cream.testing import tiny_model
from cream.training.examples import pair_example
from cream.training.train import train
from cream.types import SetConsistency, TokenSequence


def config(*, learning_rate=1e-3, batch_size=4, epochs=1, lora=None, max_length=64, **compute):
    return TrainingConfig(
        epochs=epochs,
        optimiser=PreferenceOptimiserConfig(learning_rate=learning_rate, batch_size=batch_size),
        compute=ComputeConfig(**{"precision": "float32", "save_state_every_minutes": 0, **compute}),
        lora=lora,
        max_length=max_length,
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def prefer(model, pairs, objective, settings, *, consistency=None, **options):
    scale = objective.stage_scale(consistency)
    return train(model, pairs, objective.build(), settings, seed=0, scale=scale, **options)


def logp(model, pair, role):
    """Plainest possible: one sequence, full logits, own shift."""
    prompt, completion = pair.prompt_token_ids, pair.sequences[role].token_ids
    ids = torch.tensor([prompt + completion])
    logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].detach().sum())


def reference(pair, role):
    given = pair.sequences[role].reference_logps
    assert given is not None
    return given


def shifted(pair, nats):
    """The pair with another reference of its chosen completion."""
    moved = replace(pair.sequences["chosen"], reference_logps=reference(pair, "chosen") + nats)
    return replace(pair, sequences={**pair.sequences, "chosen": moved})


def with_reference(model, pairs, consistency=1.0):
    """The pairs with the model itself as the loss reference, one sequence at a time."""
    return [
        replace(
            pair,
            sequences={
                role: replace(sequence, reference_logps=logp(model, pair, role))
                for role, sequence in pair.sequences.items()
            },
            columns={"consistency": consistency},
        )
        for pair in pairs
    ]


@pytest.mark.parametrize("layout", ["shared", "separate"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_the_first_loss_is_ln2_where_the_reference_is_the_policy(architecture, layout):
    model = tiny_model(architecture=architecture)
    pairs = with_reference(model, make_pairs(4))
    summary = prefer(model, pairs, Dpo(), config(pair_layout=layout))
    assert summary.layout == layout
    assert summary.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary.metrics[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)


def test_cream_at_one_half_has_no_gradient_at_the_start():
    """d/dx = sigmoid(0) - 1/2 = 0; with C = 1 the same pairs do have one."""
    model = tiny_model()
    half = with_reference(model, make_pairs(4), consistency=0.5)
    none = prefer(tiny_model(), half, Cream(), config())
    # x is zero only up to float32 rounding of sums near -30 nats.
    full = [replace(p, columns={"consistency": 1.0}) for p in half]
    some = prefer(tiny_model(), full, Cream(), config())
    assert none.metrics[0]["grad_norm"] < 1e-5 * some.metrics[0]["grad_norm"]


def test_training_raises_the_margin_and_reports_what_trl_reports():
    model = tiny_model()
    pairs = with_reference(model, make_pairs(8))
    summary = prefer(model, pairs, Dpo(), config(epochs=10))
    first, last = summary.metrics[0], summary.metrics[-1]
    assert last["loss"] < first["loss"]
    assert last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5
    )
    after = [logp(model, p, "chosen") for p in pairs]
    before = [reference(p, "chosen") for p in pairs]
    change = sum(a - b for a, b in zip(after, before, strict=True)) / 8 * 0.1
    assert change == pytest.approx(
        sum(m["rewards/chosen"] for m in summary.metrics[-2:]) / 2, abs=0.15
    )


def test_cream_stops_at_the_logit_of_c():
    """The margin x settles at logit(0.8) = 1.386 instead of growing."""
    model = tiny_model()
    pairs = with_reference(model, make_pairs(2), consistency=0.8)
    options = config(epochs=120, learning_rate=1e-3)
    summary = prefer(model, pairs, Cream(), options)
    assert summary.metrics[-1]["rewards/margins"] == pytest.approx(math.log(4), abs=0.1)


@pytest.mark.parametrize("objective", [Dpo(), SrlmKl(kl_weight=0.1)])
def test_micro_batches_and_layouts_change_nothing(objective):
    results = []
    for options in (
        config(batch_size=8),
        config(batch_size=8, micro_batch_tokens=1),
        config(batch_size=8, pair_layout="separate"),
    ):
        model = tiny_model()
        pairs = make_pairs(8)
        results.append((prefer(model, pairs, objective, options), weights(model)))
    for summary, trained in results[1:]:
        assert summary.metrics[0] == pytest.approx(results[0][0].metrics[0], rel=1e-4)
        for name, p in trained.items():
            torch.testing.assert_close(p, results[0][1][name], rtol=0, atol=5e-5)


def test_the_weights_after_one_step_equal_a_plain_adamw_step():
    """Independent route: one sequence at a time, torch's own AdamW and clipping."""
    fast, slow = tiny_model(), tiny_model()
    pairs = with_reference(slow, make_pairs(4), consistency=0.7)
    pairs = [shifted(p, 3) for p in pairs]
    prefer(fast, pairs, Cream(), config())
    losses = []
    for p in pairs:
        sums = []
        for sequence in p.sequences.values():
            ids = torch.tensor([p.prompt_token_ids + sequence.token_ids])
            logps = slow(input_ids=ids).logits[0, :-1].log_softmax(-1)
            sums.append(logps.gather(1, ids[0, 1:, None])[len(p.prompt_token_ids) - 1 :].sum())
        gap = reference(p, "chosen") - reference(p, "rejected")
        x = 0.1 * (sums[0] - sums[1] - gap)
        losses.append(-0.7 * torch.sigmoid(x).log() - 0.3 * torch.sigmoid(-x).log())
    torch.stack(losses).mean().backward()
    torch.nn.utils.clip_grad_norm_(slow.parameters(), 1.0)
    groups = [
        {"params": [p for p in slow.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in slow.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-3).step()
    start = weights(tiny_model())
    for name, p in weights(slow).items():
        moved, expected = weights(fast)[name] - start[name], p - start[name]
        # Adam divides by the gradient's own size, so entries near zero amplify rounding.
        error = (moved - expected).norm() / expected.norm()
        assert error < 1e-2, name


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path):
    objective, options, pairs = SrlmKl(kl_weight=0.1), config(epochs=2), make_pairs(8)
    whole = tiny_model()
    expected = prefer(whole, pairs, objective, options)

    def interrupt(step, total, metrics):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefer(tiny_model(), pairs, objective, options, state_dir=tmp_path, on_step=interrupt)
    again = tiny_model()
    summary = prefer(again, pairs, objective, options, state_dir=tmp_path)
    assert summary.metrics == expected.metrics
    for name, p in weights(whole).items():
        assert torch.equal(p, weights(again)[name]), name


def consistency(rate, low, high):
    return SetConsistency(rate, low, high, "set")


def test_set_level_actions():
    none, scale, skip = (Cream(set_level_action=a) for a in ("train", "scale_lr", "skip"))
    assert none.stage_scale(None) == Dpo().stage_scale(None) == StageScale(1.0, None)
    scaled = scale.stage_scale(consistency(0.8, 0.7, 0.9))
    assert scaled.learning_rate == pytest.approx(0.6)
    assert Cream().stage_scale(consistency(0.8, 0.7, 0.9)) == scaled  # the default
    assert scale.stage_scale(consistency(0.8, 0.5, 0.9)).skipped is not None
    assert scale.stage_scale(consistency(0.4, 0.3, 0.6)).skipped is not None
    assert skip.stage_scale(consistency(0.8, 0.51, 0.9)) == StageScale(1.0, None)
    skipped = skip.stage_scale(consistency(0.6, 0.45, 0.7))
    assert skipped.learning_rate == 0.0
    assert skipped.skipped == "the interval of C, [0.450, 0.700], reaches down to 1/2"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gradient_of_rounding_alone_moves_no_weight(architecture, precision):
    """At C = 1/2 and margin 0 the gradient is sigmoid(0) - 1/2 = 0 and what scoring rounded.

    Without the test of `cream.algorithms.resolution` Adam moved the weights 0.5 to 0.9 times as far
    as C = 1 does; C = 0.51 is no rounding in either dtype on rows this short.
    """
    model = tiny_model(architecture=architecture).to(getattr(torch, precision))
    pairs = with_reference(model, make_pairs(8), 0.5)
    surer = with_reference(model, make_pairs(8), 0.51)
    settings = config(precision=precision)

    half, moving = tiny_model(architecture=architecture), tiny_model(architecture=architecture)
    start = weights(half)
    nothing = prefer(half, pairs, Cream(set_level_action="train"), settings)
    something = prefer(moving, surer, Cream(set_level_action="train"), settings)

    assert all(torch.equal(p, start[n]) for n, p in weights(half).items())
    assert nothing.steps == nothing.steps_at_rounding == 2
    assert nothing.relative_movement == 0.0
    assert [m["learning_rate"] for m in nothing.metrics] == [0.0, 0.0]
    assert "2 of 2 steps were not taken" in nothing.warnings[0]
    assert something.steps_at_rounding == 0
    assert something.relative_movement == 1.0
    assert not all(torch.equal(p, start[n]) for n, p in weights(moving).items())


def test_the_default_makes_a_c_of_the_set_act():
    """Adam moves as far at C = 0.6 as at 1; with the default action 2C - 1 as far."""

    def distance(c, action):
        model = tiny_model()
        start = weights(model)
        pairs = with_reference(model, make_pairs(16), c)
        objective = Cream(set_level_action=action)
        known = consistency(c, c - 0.01, c)
        summary = prefer(model, pairs, objective, config(learning_rate=1e-4), consistency=known)
        moved = sum(float((p - start[n]).square().sum()) for n, p in weights(model).items())
        return moved**0.5, summary.relative_movement

    whole, _ = distance(1.0, None)
    for c in (0.6, 0.92):
        assert distance(c, "train")[0] / whole == pytest.approx(1, abs=0.1)
        moved, stated = distance(c, None)
        assert stated == pytest.approx(2 * c - 1)
        assert moved / whole == pytest.approx(2 * c - 1, rel=0.1)


@pytest.mark.parametrize("given", [None, SetConsistency(0.8, 0.7, 0.9, "sample")])
def test_a_set_level_action_without_a_set_level_c_is_an_error(given):
    with pytest.raises(TrainingError, match="one C for the whole set"):
        Cream(set_level_action="skip").stage_scale(given)


def test_a_skipped_stage_leaves_the_model_as_it_was_and_says_why():
    model, start = tiny_model(), weights(tiny_model())
    summary = prefer(
        model,
        make_pairs(4),
        Cream(set_level_action="skip"),
        config(),
        consistency=consistency(0.5, 0.4, 0.6),
    )
    assert summary.skipped is not None
    assert summary.steps == 0
    assert summary.tally.parts == {"trained": 0, "skipped": 4, "too_long": 0, "empty": 0}
    assert all(torch.equal(p, start[n]) for n, p in weights(model).items())


def test_a_scaled_learning_rate_is_applied_and_reported():
    summary = prefer(
        tiny_model(),
        make_pairs(4),
        Cream(set_level_action="scale_lr"),
        config(),
        consistency=consistency(0.75, 0.7, 0.8),
    )
    assert summary.learning_rate_scale == 0.5
    assert summary.metrics[0]["learning_rate"] == pytest.approx(5e-4)


def test_pairs_that_are_too_long_or_empty_are_dropped_and_counted():
    pairs = [
        *make_pairs(3),
        pair_example("long", (3,), TokenSequence((5,) * 70, -1.0), TokenSequence((6, 2), -1.0)),
        pair_example("empty", (3,), TokenSequence((), -1.0), TokenSequence((6, 2), -1.0)),
    ]
    summary = prefer(tiny_model(), pairs, Dpo(), config())
    assert summary.tally.parts == {"trained": 3, "skipped": 0, "too_long": 1, "empty": 1}


def test_a_falling_chosen_log_probability_is_warned_about():
    """References 30 nats above the policy's own sums look like a fall from the first step on."""
    pairs = with_reference(tiny_model(), make_pairs(4))
    high = [shifted(p, 30) for p in pairs]
    fallen = prefer(tiny_model(), high, Dpo(), config())
    steady = prefer(tiny_model(), pairs, Dpo(), config())
    assert "fell by 30.0 nats" in fallen.warnings[0]
    assert steady.warnings == ()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_fresh_adapter_changes_nothing_and_merging_keeps_what_it_learned(architecture):
    model = tiny_model(architecture=architecture)
    pairs = with_reference(model, make_pairs(4))
    names = [name for name, _ in model.named_parameters()]
    start = weights(model)
    options = config(epochs=8, lora=LoraConfig(rank=4, dropout=0.0), learning_rate=1e-2)
    seen = []
    summary = prefer(model, pairs, Dpo(), options, on_step=lambda s, t, m: seen.append(m))
    assert seen[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p.requires_grad for p in model.parameters())
    moved = {n for n, p in weights(model).items() if not torch.equal(p, start[n])}
    assert moved
    assert not any("embed" in n or "wte" in n or "norm" in n or "ln_" in n for n in moved)
    # A second stage starts where the merged weights are: its first margin is what the last
    # step of the first stage was about to see.
    again = prefer(model, pairs, Dpo(), options)
    assert again.metrics[0]["rewards/margins"] > summary.metrics[-1]["rewards/margins"] - 0.5
    assert again.metrics[0]["rewards/margins"] > 0.3


def test_a_failed_training_takes_its_adapters_out_again():
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]

    def fail(step, total, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefer(
            model,
            make_pairs(4),
            Dpo(),
            config(lora=LoraConfig(rank=2)),
            on_step=fail,
        )
    assert [name for name, _ in model.named_parameters()] == names
    start = weights(tiny_model())
    assert all(torch.equal(p, start[n]) for n, p in weights(model).items())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.5)])
def test_the_divergence_from_the_start_is_zero_before_the_first_step(architecture, precision, lora):
    """The start is computed as the steps compute: in their dtype, rows and route. In bfloat16 the
    float32 masters' log-probabilities would differ by several 1e-4 nats a token."""
    pairs = make_pairs(8)
    settings = config(precision=precision, lora=lora, micro_batch_tokens=40, epochs=2)
    kl, plain = (
        prefer(tiny_model(architecture=architecture), pairs, objective, settings)
        for objective in (SrlmKl(kl_weight=1000.0), Dpo())
    )
    assert kl.metrics[0]["loss"] == plain.metrics[0]["loss"]
    assert kl.metrics[1]["loss"] > plain.metrics[1]["loss"]


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.0)])
def test_out_of_memory_halves_the_micro_batches_and_gives_the_same_training(lora):
    """The allocator itself refuses, for every micro-batch of more than two pairs."""
    said = []
    objective, pairs = Dpo().build(), make_pairs(8)
    loss, sizes = objective.loss, []

    def hungry(inputs):
        losses = loss(inputs)
        sizes.append(len(losses))
        if len(losses) > 2:
            torch.empty(1 << 60)
        return losses

    settings = config(batch_size=8, epochs=3, lora=lora)
    roomy, tight = tiny_model(), tiny_model()
    expected = train(roomy, pairs, objective, settings, seed=0)
    found = train(tight, pairs, replace(objective, loss=hungry), settings, seed=0, say=said.append)

    assert sizes[0] == 8
    assert max(sizes[-4:]) <= 2  # and every step after the first begins with what fits
    assert sum(size > 2 for size in sizes) == len(said)
    assert all("out of memory" in text and "micro_batch_tokens" in text for text in said)
    for left, right in zip(expected.metrics, found.metrics, strict=True):
        assert left.keys() == right.keys()
        assert all(left[name] == pytest.approx(right[name], abs=1e-5) for name in left)
    for name, values in weights(roomy).items():
        assert torch.allclose(values, weights(tight)[name], atol=2e-5), name
