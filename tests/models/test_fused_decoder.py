import pytest
import torch

from cream.models.fused_decoder import fused_decoder
from cream.models.padded_attention import PADDING, PaddedAttention, RowMask
from cream.testing import tiny_model


class Causal:
    """Attention of one sequence, written out per head."""

    def attend(self, layer, query, key, value, scale):
        repeats = query.shape[1] // key.shape[1]
        keys, values = (part[0].repeat_interleave(repeats, 0) for part in (key, value))
        scores = query[0] @ keys.mT * scale
        scores += torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return (scores.softmax(-1) @ values).transpose(0, 1)


def hidden_states(decoder, ids):
    return decoder.hidden(ids, torch.arange(len(ids)), Causal())


IDS = torch.tensor([5, 9, 200, 31, 31, 7, 2])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_fused_form_gives_the_models_hidden_states(architecture):
    model = tiny_model(architecture=architecture)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norm weights that matter
            parameter.add_(0.05 * torch.randn(parameter.shape))
        expected = model.base_model(input_ids=IDS[None]).last_hidden_state[0]

        decoder = fused_decoder(model)
        assert decoder is not None
        torch.testing.assert_close(hidden_states(decoder, IDS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gemma", "gpt2"])
def test_a_model_of_another_formula_is_not_fused(architecture):
    """Gemma has the parts of a Llama but scales embeddings, adds one to norm weights and gates by
    another function: only the trial can tell. GPT-2 has other parts."""
    assert fused_decoder(tiny_model(architecture=architecture)) is None


def test_a_factor_hidden_in_a_layer_is_found_by_the_trial():
    model = tiny_model()
    layer = model.base_model.layers[1]
    plain = layer.mlp.forward
    layer.mlp.forward = lambda x: 0.8 * plain(x)

    assert fused_decoder(model) is None


def test_fusing_leaves_the_models_own_results_and_memory_as_they_were():
    model = tiny_model()
    stored = sum(p.untyped_storage().nbytes() for p in model.parameters())
    with torch.no_grad():
        before = model(input_ids=IDS[None]).logits
        decoder = fused_decoder(model)
        assert torch.equal(model(input_ids=IDS[None]).logits, before)

    assert decoder is not None
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    assert sum(storages.values()) == stored
    with torch.no_grad():  # the fused weights are the model's, not a copy
        model.base_model.layers[0].mlp.up_proj.weight.zero_()
        assert next(iter(decoder.layers)).gate_up.chunk(2)[1].abs().sum() == 0


def test_rows_attend_as_each_completion_does_alone():
    """Three rows of one prompt and up to two completions, in a shuffled stream, against each
    sequence by itself."""
    g = torch.Generator().manual_seed(0)
    shape = [(3, [2, 4]), (5, [1]), (2, [])]  # prompt tokens, completions
    width = 9
    segments = torch.full((3, width), PADDING)
    for r, (prompt, completions) in enumerate(shape):
        parts = [0] * prompt + [k for k, n in enumerate(completions, 1) for _ in range(n)]
        segments[r, : len(parts)] = torch.tensor(parts)
    real = segments != PADDING
    tokens = int(real.sum())
    order = torch.zeros_like(segments)
    order[real] = torch.randperm(tokens, generator=g)
    query = torch.randn(1, 4, tokens, 8, generator=g, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, 2, tokens, 8, generator=g, dtype=torch.float64, requires_grad=True)
    value = torch.randn(1, 2, tokens, 8, generator=g, dtype=torch.float64, requires_grad=True)

    out = PaddedAttention(RowMask(segments), order, torch.float64).attend(0, query, key, value, 0.3)

    expected = torch.zeros_like(out)
    for r, (_, completions) in enumerate(shape):
        for k in range(len(completions) + 1):
            own = order[r][(segments[r] == 0) | (segments[r] == k)]
            alone = Causal().attend(0, query[:, :, own], key[:, :, own], value[:, :, own], 0.3)
            expected = expected.index_copy(0, own, alone)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape, generator=g, dtype=torch.float64)
    # A prompt's queries are computed once per sequence above, but its outputs count once.
    wanted = torch.autograd.grad(expected, (query, key, value), upstream, retain_graph=True)
    for got, want in zip(
        torch.autograd.grad(out, (query, key, value), upstream), wanted, strict=True
    ):
        torch.testing.assert_close(got, want)
