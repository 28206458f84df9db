"""Every back end of `hidden` against the plain model, one sequence alone, changed in one layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cream.algorithms.objective import Auxiliary, Needs, Objective
from cream.engines.attention import PackedAttention, packed
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.errors import ModelError
from cream.models.fused_decoder import fused_decoder
from cream.models.hidden import Backbone, hidden
from cream.models.padded_attention import PADDING, PaddedAttention, RowMask
from cream.protocols import SamplingParams
from cream.recipe.training import ComputeConfig, SftConfig, SftOptimiserConfig
from cream.testing import tiny_model
from cream.training.batches import Row, lay_out
from cream.training.forward import by_hidden, by_logits
from cream.training.fused_training import FusedTraining
from cream.training.train import train
from cream.types import Example, SamplingRequest, ScoringRequest, TokenSequence

ARCHITECTURES = ["llama", "gemma", "gpt2"]
"""Fused; own layers; own layers whose list has another name."""


def draw(count, seed):
    """Without the pad id, whose embedding the plain model does not train."""
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 259, (count,), generator=g).tolist())


ROWS = [
    Row(draw(37, 0), (draw(11, 1), draw(1, 2), draw(23, 3))),
    Row(draw(5, 4), (draw(30, 5), draw(4, 6))),
]


def adds(vector, layer=0):
    return lambda k, x: x + vector if k == layer else x


def same(k, x):
    return x


def layers_of(model):
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def alone(model, ids, vector):
    """Last hidden states of one sequence by the plain model, `vector` added after layer 0."""

    def change(layer, given, output):
        if isinstance(output, tuple):
            return output[0] + vector, *output[1:]
        return output + vector

    handle = layers_of(model)[0].register_forward_hook(change)
    try:
        return model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    finally:
        handle.remove()


def of_stream(model, hook):
    """Hidden states of every completion, by a packed stream."""
    prompts = [row.prompt_token_ids for row in ROWS]
    completions = [row.completions for row in ROWS]
    ids, positions = map(torch.tensor, packed(prompts, completions))
    lengths = [[len(c) for c in own] for own in completions]
    attention = PackedAttention([len(p) for p in prompts], lengths, torch.device("cpu"))
    states = Backbone(model, hook).hidden(ids, positions, attention)
    flat = [n for own in lengths for n in own]
    return list(states[sum(map(len, prompts)) :].split(flat))


def of_rows(model, hook):
    """The same by padded rows, prompts shared under a 4-D mask."""
    batch = lay_out(ROWS)
    states = hidden(model, batch.input_ids, batch.position_ids, batch.row_mask, hook)
    cut = zip(batch.completion_rows, batch.completion_starts, batch.lengths, strict=True)
    return [states[r, start : start + n] for r, start, n in cut]


@pytest.mark.parametrize("way", [of_stream, of_rows])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hook_changes_what_the_plain_model_would_change(architecture, way):
    model = tiny_model(architecture=architecture)
    vector = torch.linspace(-1, 1, model.config.hidden_size)
    with torch.no_grad():
        sequences = [(row.prompt_token_ids, c) for row in ROWS for c in row.completions]
        expected = [alone(model, [*p, *c], vector)[len(p) :] for p, c in sequences]
        unchanged = [alone(model, [*p, *c], 0)[len(p) :] for p, c in sequences]

        found = way(model, adds(vector))

    for got, true, other in zip(found, expected, unchanged, strict=True):
        torch.testing.assert_close(got, true, rtol=1e-4, atol=1e-4)
        assert (got - other).abs().max() > 1e-2


@pytest.mark.parametrize("way", [of_stream, of_rows])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hook_that_changes_nothing_changes_no_bit(architecture, way):
    model = tiny_model(architecture=architecture)
    with torch.inference_mode():
        for got, true in zip(way(model, same), way(model, None), strict=True):
            assert torch.equal(got, true)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hook_may_keep_what_it_is_given(architecture):
    """Later layers, which may compute in place, leave it alone."""
    model, kept = tiny_model(architecture=architecture), []
    prompt, positions = torch.tensor(draw(19, 0)), torch.arange(19)
    attention = PackedAttention([19], [[]], torch.device("cpu"))

    def keep(k, x):
        kept.append(x)
        return x

    with torch.inference_mode():
        Backbone(model, keep).hidden(prompt, positions, attention)
        output = model.base_model(input_ids=prompt[None], output_hidden_states=True)
    # What transformers lists last has gone through the final norm.
    assert len(kept) == len(output.hidden_states) - 1
    for got, true in zip(kept[:-1], output.hidden_states[1:-1], strict=True):
        torch.testing.assert_close(got, true[0], rtol=1e-4, atol=1e-4)


def computing(name):
    """A model with what runs a batch through it and where its gradients are read."""
    model = tiny_model()
    if name == "fused":
        decoder = fused_decoder(model)
        assert decoder is not None
        fused = FusedTraining(model, decoder, torch.float32)
        return model, lambda batch, hook: fused.forward(batch, hook)[0]
    forward = {"hidden": by_hidden, "logits": by_logits}[name]
    return model, lambda batch, hook: forward(model, batch, hook).token_logps


@pytest.mark.parametrize("name", ["fused", "hidden", "logits"])
def test_training_is_bit_for_bit_the_same_under_a_hook_that_changes_nothing(name):
    found = []
    for hook in (None, same):
        model, logps_of = computing(name)
        logps = logps_of(lay_out(ROWS), hook)
        logps.sum().backward()
        found.append((logps, [p.grad for p in model.parameters()]))
    (plain, expected), (hooked, gradients) = found
    assert torch.equal(plain, hooked)
    for got, true in zip(gradients, expected, strict=True):
        assert torch.equal(got, true)


@pytest.mark.parametrize("name", ["fused", "hidden", "logits"])
def test_gradients_reach_the_hooks_parameters_and_the_model(name):
    """Against one sequence at a time through the plain model with the same change."""
    model = tiny_model()
    true_vector = nn.Parameter(torch.linspace(-1, 1, model.config.hidden_size))
    total = torch.zeros(())
    for row in ROWS:
        for completion in row.completions:
            ids = torch.tensor([*row.prompt_token_ids, *completion])
            states = alone(model, ids.tolist(), true_vector)
            logps = model.get_output_embeddings()(states)[:-1].log_softmax(-1)
            picked = logps.gather(1, ids[1:, None])[len(row.prompt_token_ids) - 1 :]
            total = total + picked.sum()
    total.backward()
    expected = {n: p.grad for n, p in model.named_parameters()}

    vector = nn.Parameter(true_vector.detach().clone())
    model, logps_of = computing(name)
    logps = logps_of(lay_out(ROWS), adds(vector))
    logps.sum().backward()

    torch.testing.assert_close(logps.sum(), total, rtol=1e-5, atol=0)
    assert vector.grad is not None
    assert true_vector.grad is not None
    assert true_vector.grad.norm() > 1e-3
    torch.testing.assert_close(vector.grad, true_vector.grad, rtol=1e-3, atol=1e-4)
    for key, p in model.named_parameters():
        assert (p.grad - expected[key]).norm() < 1e-4 * expected[key].norm().clamp_min(1e-6), key


def stated(batch):
    """A mask of nobody's shape: each token sees itself and a third of what came before."""
    g = torch.Generator().manual_seed(7)
    rows, width = batch.segments.shape
    seen = torch.rand(rows, width, width, generator=g) < 1 / 3
    real = batch.segments != PADDING
    seen = (seen | torch.eye(width, dtype=torch.bool)).tril() & real[:, :, None] & real[:, None]
    return seen[:, None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_explicit_mask_is_the_plain_models_4d_mask_on_every_back_end(architecture):
    model, batch = tiny_model(architecture=architecture), lay_out(ROWS)
    seen = stated(batch)
    mask = RowMask(batch.segments, explicit=seen)
    real = batch.segments != PADDING
    hook = adds(torch.linspace(-1, 1, model.config.hidden_size))
    with torch.no_grad():
        for r, n in enumerate(real.sum(1).tolist()):
            ids, positions = batch.input_ids[r : r + 1, :n], batch.position_ids[r : r + 1, :n]
            own = torch.zeros(1, 1, n, n).masked_fill(~seen[r, :, :n, :n], float("-inf"))
            true = model.base_model(
                input_ids=ids, position_ids=positions, attention_mask=own, use_cache=False
            ).last_hidden_state[0]
            padded = hidden(model, batch.input_ids, batch.position_ids, mask)
            torch.testing.assert_close(padded[r, :n], true, rtol=1e-4, atol=1e-4)
            causal = hidden(model, batch.input_ids, batch.position_ids, batch.row_mask)
            assert (causal[r, :n] - true).abs().max() > 1e-2
        attention = PaddedAttention(mask, None, torch.float32)
        stream = (batch.input_ids[real], batch.position_ids[real], attention)
        rows = (batch.input_ids, batch.position_ids, mask)
        for change in (None, hook):
            packed_states = Backbone(model, change).hidden(*stream)
            padded = hidden(model, *rows, change)
            torch.testing.assert_close(packed_states, padded[real], rtol=1e-4, atol=1e-4)


def test_training_under_an_explicit_mask_is_the_same_fused_and_in_rows():
    batch = lay_out(ROWS)
    batch = replace(batch, explicit_mask=stated(batch))
    found = []
    for name in ("hidden", "fused"):
        model, logps_of = computing(name)
        logps = logps_of(batch, None)
        logps.sum().backward()
        found.append((logps, {n: p.grad for n, p in model.named_parameters()}))
    (true, expected), (got, gradients) = found
    torch.testing.assert_close(got, true, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        error = (gradient - expected[name]).norm()
        assert error < 1e-4 * expected[name].norm().clamp_min(1e-6), name


def test_a_mask_in_which_a_token_sees_nothing_or_padding_is_refused():
    segments = torch.tensor([[0, 0, PADDING]])
    seen = torch.tensor([[[[1, 0, 0], [0, 0, 0], [0, 0, 0]]]]).bool()
    with pytest.raises(ValueError, match="sees no token"):
        RowMask(segments, explicit=seen)
    seen = torch.tensor([[[[1, 0, 0], [0, 1, 1], [0, 0, 0]]]]).bool()
    with pytest.raises(ValueError, match="no token"):
        RowMask(segments, explicit=seen)


def test_a_hook_behind_checkpointed_layers_is_refused():
    """Their second run, in the backward pass, would be without it."""
    model, batch = tiny_model(), lay_out(ROWS)
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(ModelError, match="gradient_checkpointing"):
        by_hidden(model, batch, same)


REQUESTS = [
    ScoringRequest(f"p{i}", row.prompt_token_ids, row.completions) for i, row in enumerate(ROWS)
]
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_completion_tokens=12, stop_ids=())


def engine_model(architecture, form):
    model = tiny_model(architecture=architecture)
    if form == "plain":
        model._supports_attention_backend = False
    return model


@pytest.mark.parametrize("form", ["packed", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_scorer_with_a_hook_scores_the_changed_model(architecture, form):
    model = engine_model(architecture, form)
    vector = torch.linspace(-1, 1, model.config.hidden_size)
    scorer = TorchScorer(model, hook=adds(vector))

    found = {group.prompt_id: group.token_logps for group in scorer.score(REQUESTS)}

    assert bool(scorer.plain_reason) == (form == "plain")
    for request in REQUESTS:
        for completion, logps in zip(request.completions, found[request.prompt_id], strict=True):
            ids = [*request.prompt_token_ids, *completion]
            with torch.no_grad():
                states = alone(model, ids, vector)[len(request.prompt_token_ids) - 1 : -1]
                every = model.get_output_embeddings()(states).log_softmax(-1)
            expected = every[torch.arange(len(completion)), torch.tensor(completion)]
            torch.testing.assert_close(torch.tensor(logps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["packed", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sampler_with_a_hook_samples_from_the_changed_model(architecture, form):
    """Greedy tokens are the most likely ones of the whole sequence read at once."""
    model = engine_model(architecture, form)
    vector = torch.linspace(-1, 1, model.config.hidden_size)
    requests = [SamplingRequest(r.prompt_id, r.prompt_token_ids, (0,)) for r in REQUESTS]

    found = TorchSampler(model, hook=adds(vector)).sample(requests, GREEDY)
    unchanged = TorchSampler(model).sample(requests, GREEDY)
    plain = {group.prompt_id: group.completions[0].token_ids for group in unchanged}

    prompts = {r.prompt_id: r.prompt_token_ids for r in REQUESTS}
    for group in found:
        prompt, ids = prompts[group.prompt_id], group.completions[0].token_ids
        with torch.no_grad():
            states = alone(model, [*prompt, *ids], vector)[len(prompt) - 1 : -1]
            expected = model.get_output_embeddings()(states).argmax(-1)
        assert list(ids) == expected.tolist()
        assert ids != plain[group.prompt_id]


class Shift(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.vector = nn.Parameter(torch.linspace(-1, 1, size))


def shifted(rate):
    """The likelihood of a completion under a policy whose first layer is shifted."""
    return Objective(
        "shifted",
        "v1",
        Needs(("answer",)),
        lambda inputs: -inputs["answer"].logps,
        auxiliary=lambda size: {"shift": Auxiliary(Shift(size), learning_rate=rate)},
        hook=lambda modules: adds(modules["shift"].vector),
    )


@pytest.mark.parametrize("again", [False, True])
def test_an_objective_with_a_hook_trains_the_model_behind_it(again):
    """The first loss is that of the plain model with the same change, twice if added twice."""
    model = tiny_model()
    examples = [
        Example(f"e{i}", row.prompt_token_ids, {"answer": TokenSequence(c)})
        for i, (row, c) in enumerate((row, c) for row in ROWS for c in row.completions)
    ]
    vector = torch.linspace(-1, 1, model.config.hidden_size) * (2 if again else 1)
    expected = []
    for example in examples:
        prompt, ids = example.prompt_token_ids, example.sequences["answer"].token_ids
        with torch.no_grad():
            states = alone(model, [*prompt, *ids], vector)[len(prompt) - 1 : -1]
            every = model.get_output_embeddings()(states).log_softmax(-1)
        expected.append(-every[torch.arange(len(ids)), torch.tensor(ids)].sum().item())
    mean = sum(expected) / len(expected)
    objective, settings = (
        shifted(1e-2),
        SftConfig(
            epochs=1,
            optimiser=SftOptimiserConfig(learning_rate=1e-3, batch_size=len(examples)),
            compute=ComputeConfig(precision="float32"),
        ),
    )

    summed = objective + objective if again else objective
    (step,) = train(model, examples, summed, settings, seed=0).metrics

    assert step["loss"] == pytest.approx(mean * (2 if again else 1), rel=1e-5)
    assert step["grad_norm/shift"] > 0
