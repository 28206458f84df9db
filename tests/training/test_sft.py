import pytest
import torch
from training_items import make_examples

from cream.algorithms.preference import supervised
from cream.errors import DataError, TrainingError
from cream.models.positions import context_length
from cream.recipe.training import ComputeConfig, LoraConfig, SftConfig, SftOptimiserConfig
from cream.testing import tiny_model
from cream.training.examples import completion_example
from cream.training.train import train


def config(*, learning_rate=1e-3, batch_size=4, epochs=2, lora=None, max_length=64, **compute):
    compute = {"precision": "float32", "save_state_every_minutes": 0, **compute}
    return SftConfig(
        epochs=epochs,
        optimiser=SftOptimiserConfig(learning_rate=learning_rate, batch_size=batch_size),
        compute=ComputeConfig(**compute),
        lora=lora,
        max_length=max_length,
    )


def fine_tune(model, examples, settings, **options):
    return train(model, examples, supervised(), settings, **options)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_loss_of_the_first_step_is_the_mean_nll_over_all_completion_tokens():
    """Against one sequence at a time; the mean of per-example means would differ."""
    model, examples = tiny_model(), make_examples(4)
    total, tokens, means = 0.0, 0, []
    for e in examples:
        ids = torch.tensor([e.prompt_token_ids + e.sequences["completion"].token_ids])
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = logps.gather(1, ids[0, 1:, None])[len(e.prompt_token_ids) - 1 :, 0]
        total -= picked.sum().item()
        tokens += len(picked)
        means.append(-picked.mean().item())
    summary = fine_tune(model, examples, config(epochs=1), seed=0)
    assert summary.metrics[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert summary.metrics[0]["loss"] != pytest.approx(sum(means) / 4, rel=1e-3)


def test_a_memorised_example_is_reproduced_with_its_end_token():
    """The end id equals the pad id; greedy decoding after training must emit it."""
    model = tiny_model()
    example = completion_example("one", (10, 11, 12), (40, 50, 60, 2))
    summary = fine_tune(model, [example], config(epochs=60, learning_rate=5e-3), seed=0)
    losses = [m["loss"] for m in summary.metrics]
    assert losses[-1] < 0.05 < 2 < losses[0]
    ids = list(example.prompt_token_ids)
    for _ in example.sequences["completion"].token_ids:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert tuple(ids[3:]) == example.sequences["completion"].token_ids


def test_cutting_a_step_into_micro_batches_changes_nothing():
    one, many = tiny_model(), tiny_model()
    examples = make_examples(8)
    a = fine_tune(one, examples, config(batch_size=8), seed=0)
    b = fine_tune(many, examples, config(batch_size=8, micro_batch_tokens=1), seed=0)
    for x, y in zip(a.metrics, b.metrics, strict=True):
        assert x == pytest.approx(y, rel=1e-4)
    for name, p in weights(one).items():
        torch.testing.assert_close(p, weights(many)[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.2)])
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, precision, lora):
    examples = make_examples(8)
    options = config(lora=lora, precision=precision)
    whole, broken = tiny_model(), tiny_model()
    expected = fine_tune(whole, examples, options, seed=0)

    def interrupt(step, total, metrics):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(broken, examples, options, seed=0, state_dir=tmp_path, on_step=interrupt)
    again, seen = tiny_model(), []
    summary = fine_tune(
        again,
        examples,
        options,
        seed=0,
        state_dir=tmp_path,
        on_step=lambda step, total, metrics: seen.append((step, total)),
    )
    assert seen == [(4, 4)]  # what was done is kept when the third step ends in Ctrl-C
    assert summary.metrics == expected.metrics
    for name, p in weights(whole).items():
        assert torch.equal(p, weights(again)[name]), name


def test_a_state_of_other_data_is_refused(tmp_path):
    fine_tune(tiny_model(), make_examples(8), config(), seed=0, state_dir=tmp_path)
    with pytest.raises(TrainingError, match="Delete the folder"):
        fine_tune(tiny_model(), make_examples(8, seed=1), config(), seed=0, state_dir=tmp_path)


def test_only_the_newest_state_is_kept_and_nothing_half_written(tmp_path):
    fine_tune(tiny_model(), make_examples(8), config(), seed=0, state_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_training_twice_gives_the_same_bits_and_another_seed_does_not():
    a, b, c = tiny_model(), tiny_model(), tiny_model()
    examples = make_examples(8)
    for model, seed in ((a, 0), (b, 0), (c, 1)):
        fine_tune(model, examples, config(), seed=seed)
    same = [torch.equal(weights(a)[n], weights(b)[n]) for n in weights(a)]
    other = [torch.equal(weights(a)[n], weights(c)[n]) for n in weights(a)]
    assert all(same)
    assert not any(other)


def test_bfloat16_leaves_a_float32_model_close_to_the_float32_result():
    exact, rounded, start = tiny_model(), tiny_model(), weights(tiny_model())
    examples = make_examples(8)
    fine_tune(exact, examples, config(), seed=0)
    summary = fine_tune(rounded, examples, config(precision="bfloat16"), seed=0)
    assert summary.precision == "bfloat16"
    for name, p in weights(rounded).items():
        assert p.dtype == torch.float32
        moved = weights(exact)[name] - start[name]
        cosine = torch.cosine_similarity(moved.flatten(), (p - start[name]).flatten(), dim=0)
        assert cosine > 0.8, name


def test_items_that_are_too_long_or_empty_are_dropped_and_counted():
    examples = [
        *make_examples(4),
        completion_example("long", tuple(range(3, 70)), (5, 2)),
        completion_example("empty", (5, 6), ()),
    ]
    summary = fine_tune(tiny_model(), examples, config(), seed=0)
    assert summary.tally.parts == {"trained": 4, "skipped": 0, "too_long": 1, "empty": 1}


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(DataError, match="Raise max_length"):
        fine_tune(tiny_model(), make_examples(2), config(max_length=2), seed=0)


def test_a_loss_that_is_not_finite_names_its_step():
    model = tiny_model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 1: loss is nan.*learning rate"):
        fine_tune(model, make_examples(4), config(), seed=0)


def test_training_leaves_the_global_random_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fine_tune(tiny_model(), make_examples(4), config(lora=LoraConfig(rank=2)), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_checkpointed_training_equals_plain_training():
    plain, checkpointed = tiny_model(), tiny_model()
    examples = make_examples(4)
    fine_tune(plain, examples, config(), seed=0)
    fine_tune(checkpointed, examples, config(gradient_checkpointing=True), seed=0)
    for name, p in weights(plain).items():
        torch.testing.assert_close(p, weights(checkpointed)[name], rtol=0, atol=5e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_examples_longer_than_the_context_are_dropped_and_counted(architecture):
    """Beyond it GPT-2 has no positions at all, and Llama ones that it was never trained on."""
    model = tiny_model(architecture=architecture)
    room = context_length(model.config)
    assert room is not None
    long = completion_example("long", (5,) * (room - 1), (6, 2))
    fits = completion_example("fits", (5,) * (room - 2), (6, 2))
    settings = config(epochs=1, max_length=10 * room)
    summary = fine_tune(model, [long, fits], settings, seed=0)
    assert summary.tally.parts == {"trained": 1, "skipped": 0, "too_long": 1, "empty": 0}
