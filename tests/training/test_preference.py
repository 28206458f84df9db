import math
from dataclasses import replace

import pytest
import torch
from training_items import make_pairs

from cream.errors import TrainingError
from cream.recipe.objectives import Cream, Dpo, SrlmKl
from cream.recipe.training import (
    ComputeConfig,
    LoraConfig,
    PreferenceOptimiserConfig,
    TrainingConfig,
)
from cream.testing import tiny_model
from cream.training.preference import SetConsistency, set_level_scale, train_pairs
from cream.types import TokenisedPair


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


def logp(model, prompt, completion):
    ids = torch.tensor([prompt + completion])
    logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].detach().sum())


def with_reference(model, pairs, **changes):
    """The pairs with the model itself as the loss reference, one sequence at a time."""
    return [
        replace(
            p,
            reference_chosen_logps=logp(model, p.prompt_ids, p.chosen_ids),
            reference_rejected_logps=logp(model, p.prompt_ids, p.rejected_ids),
            **changes,
        )
        for p in pairs
    ]


@pytest.mark.parametrize("layout", ["shared", "separate"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_the_first_loss_is_ln2_where_the_reference_is_the_policy(architecture, layout):
    model = tiny_model(architecture=architecture)
    pairs = with_reference(model, make_pairs(4))
    summary = train_pairs(model, pairs, Dpo(), config(pair_layout=layout), seed=0)
    assert summary.layout == layout
    assert summary.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary.metrics[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)


def test_cream_at_one_half_has_no_gradient_at_the_start():
    """d/dx = sigmoid(0) - 1/2 = 0; with C = 1 the same pairs do have one."""
    model = tiny_model()
    half = with_reference(model, make_pairs(4), consistency=0.5)
    none = train_pairs(tiny_model(), half, Cream(), config(), seed=0)
    # x is zero only up to float32 rounding of sums near -30 nats.
    full = [replace(p, consistency=1.0) for p in half]
    some = train_pairs(tiny_model(), full, Cream(), config(), seed=0)
    assert none.metrics[0]["grad_norm"] < 1e-5 * some.metrics[0]["grad_norm"]


def test_training_raises_the_margin_and_reports_what_trl_reports():
    model = tiny_model()
    pairs = with_reference(model, make_pairs(8))
    summary = train_pairs(model, pairs, Dpo(), config(epochs=10), seed=0)
    first, last = summary.metrics[0], summary.metrics[-1]
    assert last["loss"] < first["loss"]
    assert last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5
    )
    after = [logp(model, p.prompt_ids, p.chosen_ids) for p in pairs]
    before = [p.reference_chosen_logps for p in pairs]
    change = sum(a - b for a, b in zip(after, before, strict=True)) / 8 * 0.1
    assert change == pytest.approx(
        sum(m["rewards/chosen"] for m in summary.metrics[-2:]) / 2, abs=0.15
    )


def test_cream_stops_at_the_logit_of_c():
    """The margin x settles at logit(0.8) = 1.386 instead of growing."""
    model = tiny_model()
    pairs = with_reference(model, make_pairs(2), consistency=0.8)
    options = config(epochs=120, learning_rate=1e-3)
    summary = train_pairs(model, pairs, Cream(), options, seed=0)
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
        results.append((train_pairs(model, pairs, objective, options, seed=0), weights(model)))
    for summary, trained in results[1:]:
        assert summary.metrics[0] == pytest.approx(results[0][0].metrics[0], rel=1e-4)
        for name, p in trained.items():
            torch.testing.assert_close(p, results[0][1][name], rtol=0, atol=5e-5)


def test_the_weights_after_one_step_equal_a_plain_adamw_step():
    """Independent route: one sequence at a time, torch's own AdamW and clipping."""
    fast, slow = tiny_model(), tiny_model()
    pairs = with_reference(slow, make_pairs(4), consistency=0.7)
    pairs = [replace(p, reference_chosen_logps=p.reference_chosen_logps + 3) for p in pairs]
    train_pairs(fast, pairs, Cream(), config(), seed=0)
    losses = []
    for p in pairs:
        sums = []
        for completion in (p.chosen_ids, p.rejected_ids):
            ids = torch.tensor([p.prompt_ids + completion])
            logps = slow(input_ids=ids).logits[0, :-1].log_softmax(-1)
            sums.append(logps.gather(1, ids[0, 1:, None])[len(p.prompt_ids) - 1 :].sum())
        reference = p.reference_chosen_logps - p.reference_rejected_logps
        x = 0.1 * (sums[0] - sums[1] - reference)
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
    expected = train_pairs(whole, pairs, objective, options, seed=0)

    def interrupt(step, total, metrics):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pairs(
            tiny_model(), pairs, objective, options, seed=0, state_dir=tmp_path, on_step=interrupt
        )
    again = tiny_model()
    summary = train_pairs(again, pairs, objective, options, seed=0, state_dir=tmp_path)
    assert summary.metrics == expected.metrics
    for name, p in weights(whole).items():
        assert torch.equal(p, weights(again)[name]), name


def consistency(rate, low, high):
    return SetConsistency(rate, low, high, "set")


def test_set_level_actions():
    train, scale, skip = (Cream(set_level_action=a) for a in ("train", "scale_lr", "skip"))
    assert set_level_scale(train, None) == (1.0, None)
    assert set_level_scale(Dpo(), None) == (1.0, None)
    assert set_level_scale(scale, consistency(0.8, 0.7, 0.9))[0] == pytest.approx(0.6)
    assert set_level_scale(scale, consistency(0.4, 0.3, 0.6))[1] is not None
    assert set_level_scale(skip, consistency(0.8, 0.51, 0.9)) == (1.0, None)
    factor, reason = set_level_scale(skip, consistency(0.6, 0.45, 0.7))
    assert factor == 0.0
    assert reason == "the interval of C, [0.450, 0.700], reaches down to 1/2"


@pytest.mark.parametrize("given", [None, SetConsistency(0.8, 0.7, 0.9, "sample")])
def test_a_set_level_action_without_a_set_level_c_is_an_error(given):
    with pytest.raises(TrainingError, match="one C for the whole set"):
        set_level_scale(Cream(set_level_action="skip"), given)


def test_a_skipped_stage_leaves_the_model_as_it_was_and_says_why():
    model, start = tiny_model(), weights(tiny_model())
    summary = train_pairs(
        model,
        make_pairs(4),
        Cream(set_level_action="skip"),
        config(),
        seed=0,
        consistency=consistency(0.5, 0.4, 0.6),
    )
    assert summary.skipped is not None
    assert summary.steps == 0
    assert summary.tally.parts == {"trained": 0, "skipped": 4, "too_long": 0, "empty": 0}
    assert all(torch.equal(p, start[n]) for n, p in weights(model).items())


def test_a_scaled_learning_rate_is_applied_and_reported():
    summary = train_pairs(
        tiny_model(),
        make_pairs(4),
        Cream(set_level_action="scale_lr"),
        config(),
        seed=0,
        consistency=consistency(0.75, 0.7, 0.8),
    )
    assert summary.learning_rate_scale == 0.5
    assert summary.metrics[0]["learning_rate"] == pytest.approx(5e-4)


def test_pairs_that_are_too_long_or_empty_are_dropped_and_counted():
    pairs = [
        *make_pairs(3),
        TokenisedPair("long", (3,), (5,) * 70, (6, 2), -1.0, -1.0),
        TokenisedPair("empty", (3,), (), (6, 2), -1.0, -1.0),
    ]
    summary = train_pairs(tiny_model(), pairs, Dpo(), config(), seed=0)
    assert summary.tally.parts == {"trained": 3, "skipped": 0, "too_long": 1, "empty": 1}


def test_a_falling_chosen_log_probability_is_warned_about():
    """References 30 nats above the policy's own sums look like a fall from the first step on."""
    pairs = with_reference(tiny_model(), make_pairs(4))
    high = [replace(p, reference_chosen_logps=p.reference_chosen_logps + 30) for p in pairs]
    fallen = train_pairs(tiny_model(), high, Dpo(), config(), seed=0)
    steady = train_pairs(tiny_model(), pairs, Dpo(), config(), seed=0)
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
    summary = train_pairs(
        model, pairs, Dpo(), options, seed=0, on_step=lambda s, t, m: seen.append(m)
    )
    assert seen[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p.requires_grad for p in model.parameters())
    moved = {n for n, p in weights(model).items() if not torch.equal(p, start[n])}
    assert moved
    assert not any("embed" in n or "wte" in n or "norm" in n or "ln_" in n for n in moved)
    # A second stage starts where the merged weights are: its first margin is what the last
    # step of the first stage was about to see.
    again = train_pairs(model, pairs, Dpo(), options, seed=0)
    assert again.metrics[0]["rewards/margins"] > summary.metrics[-1]["rewards/margins"] - 0.5
    assert again.metrics[0]["rewards/margins"] > 0.3


def test_a_failed_training_takes_its_adapters_out_again():
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]

    def fail(step, total, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pairs(
            model,
            make_pairs(4),
            Dpo(),
            config(lora=LoraConfig(rank=2)),
            seed=0,
            on_step=fail,
        )
    assert [name for name, _ in model.named_parameters()] == names
    start = weights(tiny_model())
    assert all(torch.equal(p, start[n]) for n, p in weights(model).items())
