import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cream.engines.plain import PlainSampler
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.errors import ModelError
from cream.protocols import Sampler, SamplingParams
from cream.testing import tiny_model
from cream.types import FinishReason, SamplingRequest, ScoringRequest

ARCHITECTURES = ("llama", "qwen2", "gemma", "gpt2")
GREEDY = SamplingParams(0.0, 1.0, 20, (7, 20, 30))
NUCLEUS = SamplingParams(1.0, 0.95, 20, (7, 20, 30))


def make_requests(count=16, completions=3, seed=0):
    rng = random.Random(seed)
    return [
        SamplingRequest(
            f"p{i}",
            tuple(rng.randrange(3, 259) for _ in range(rng.randrange(1, 40))),
            tuple(rng.randrange(2**63) for _ in range(completions)),
        )
        for i in range(count)
    ]


def by_id(groups):
    return {group.prompt_id: group for group in groups}


def ids_by_id(groups):
    return {g.prompt_id: [(c.token_ids, c.finish_reason) for c in g.completions] for g in groups}


def generated(model, request, params):
    """The greedy continuation by transformers' own generate(), for one prompt."""
    prompt = torch.tensor([request.prompt_token_ids])
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=params.max_completion_tokens,
        eos_token_id=list(params.stop_ids),
        pad_token_id=0,
    )
    return tuple(output[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_token_for_token(architecture):
    model = tiny_model(architecture=architecture)
    requests = make_requests(10, completions=2)

    groups = by_id(TorchSampler(model, max_rows=6).sample(requests, GREEDY))

    for request in requests:
        expected = generated(model, request, GREEDY)
        for completion in groups[request.prompt_id].completions:
            assert completion.token_ids == expected
            assert completion.sampling_logp == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("params", [NUCLEUS, replace(NUCLEUS, top_p=1.0, temperature=0.8)])
def test_completions_do_not_depend_on_their_neighbours(architecture, params):
    """Alone, among few with refill and compaction, all at once, and by the plain path."""
    model = tiny_model(architecture=architecture)
    requests = make_requests()
    alone = [g for r in requests for g in TorchSampler(model).sample([r], params)]

    few = list(TorchSampler(model, max_rows=12, window_rows=20).sample(requests, params))
    many = list(TorchSampler(model).sample(reversed(requests), params))
    with torch.inference_mode():
        plain = [PlainSampler(model).sample(request, params) for request in requests]

    assert ids_by_id(alone) == ids_by_id(few) == ids_by_id(many) == ids_by_id(plain)
    reasons = {c.finish_reason for g in alone for c in g.completions}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    for one, other in zip(alone, plain, strict=True):
        for a, b in zip(one.completions, other.completions, strict=True):
            assert a.sampling_logp == pytest.approx(b.sampling_logp, abs=1e-3)


def test_completions_longer_than_the_first_buffers_are_right():
    model = tiny_model()
    requests = make_requests(4, completions=2)
    params = SamplingParams(1.0, 0.9, 150, (7,))

    packed = ids_by_id(TorchSampler(model, max_rows=4).sample(requests, params))
    with torch.inference_mode():
        plain = ids_by_id([PlainSampler(model).sample(r, params) for r in requests])

    assert packed == plain
    assert max(len(ids) for rows in packed.values() for ids, _ in rows) > 100


def test_seeds_name_completions():
    """Order, number and grouping of seeds do not matter: the seed alone decides."""
    model = tiny_model()
    request = make_requests(1, completions=7)[0]
    (together,) = TorchSampler(model, max_rows=3).sample([request], NUCLEUS)
    (reverse,) = TorchSampler(model).sample([replace(request, seeds=request.seeds[::-1])], NUCLEUS)

    assert [c.seed for c in together.completions] == list(request.seeds)
    assert [c.token_ids for c in reverse.completions] == [
        c.token_ids for c in together.completions[::-1]
    ]
    assert len({c.token_ids for c in together.completions}) == 7


def test_stop_token_is_kept_and_ends_the_completion():
    model = tiny_model()
    groups = TorchSampler(model).sample(make_requests(12), NUCLEUS)

    for completion in (c for g in groups for c in g.completions):
        body = completion.token_ids[:-1]
        assert not set(body) & set(NUCLEUS.stop_ids)
        stopped = completion.token_ids[-1] in NUCLEUS.stop_ids
        assert (completion.finish_reason is FinishReason.STOP) == stopped
        assert stopped or len(completion.token_ids) == NUCLEUS.max_completion_tokens


def test_first_and_second_tokens_follow_the_models_distribution():
    """4000 seeds of one prompt against the exact two-token distribution, coarse-grained."""
    model = tiny_model(vocab_size=64)
    count = 4000
    params = SamplingParams(1.3, 0.9, 2, ())
    request = SamplingRequest("p", (5, 9, 11), tuple(range(count)))

    (group,) = TorchSampler(model).sample([request], params)

    def nucleus(prefix):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prefix])).logits[0, -1].double()
        p, order = (logits / params.temperature).softmax(-1).sort(descending=True)
        p = torch.where(p.cumsum(0) - p < params.top_p, p, 0)
        return torch.zeros(64, dtype=torch.float64).index_add(0, order, p / p.sum()).numpy()

    first = nucleus([5, 9, 11])
    after = [first[t] * nucleus([5, 9, 11, t]) for t in np.flatnonzero(first)]
    second = np.sum(after, axis=0)
    for position, expected in ((0, first), (1, second)):
        seen = np.bincount([c.token_ids[position] for c in group.completions], minlength=64)
        assert seen[expected == 0].sum() == 0
        kept = expected * count >= 5
        observed = np.append(seen[kept], seen[~kept].sum())
        wanted = np.append(expected[kept], expected[~kept].sum()) * count
        observed, wanted = observed[wanted > 0], wanted[wanted > 0]
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 0.01


def test_sampling_logp_is_the_models_own_at_temperature_one_and_top_p_one():
    model = tiny_model()
    requests = make_requests(6)
    params = SamplingParams(1.0, 1.0, 15, (7,))
    sampled = by_id(TorchSampler(model).sample(requests, params))
    scoring = [
        ScoringRequest(
            r.prompt_id,
            r.prompt_token_ids,
            tuple(c.token_ids for c in sampled[r.prompt_id].completions),
        )
        for r in requests
    ]

    for group in TorchScorer(model).score(scoring):
        completions = sampled[group.prompt_id].completions
        for logps, completion in zip(group.token_logps, completions, strict=True):
            assert completion.sampling_logp == pytest.approx(float(logps.sum()), abs=1e-3)


def test_the_same_request_twice_is_answered_twice():
    request = make_requests(1)[0]

    one, two = TorchSampler(tiny_model()).sample([request, request], NUCLEUS)

    assert one.prompt_id == two.prompt_id
    assert [c.token_ids for c in one.completions] == [c.token_ids for c in two.completions]


def test_groups_of_different_sizes_and_none_are_all_answered():
    model = tiny_model()
    base = make_requests(6, completions=5)
    requests = [replace(r, seeds=r.seeds[:size]) for size, r in enumerate(base)]

    groups = by_id(TorchSampler(model, max_rows=4).sample(requests, NUCLEUS))

    assert sorted(groups) == sorted(r.prompt_id for r in requests)
    for request in requests:
        assert [c.seed for c in groups[request.prompt_id].completions] == list(request.seeds)


def test_model_without_exchangeable_attention_takes_the_plain_path():
    packed_model, plain_model = tiny_model(), tiny_model()
    plain_model._supports_attention_backend = False
    requests = make_requests(4)
    sampler = TorchSampler(plain_model)

    assert sampler.plain_reason
    assert ids_by_id(sampler.sample(requests, NUCLEUS)) == ids_by_id(
        TorchSampler(packed_model).sample(requests, NUCLEUS)
    )


def test_prompt_without_room_is_refused_before_any_work():
    model = tiny_model()
    requests = [*make_requests(2), SamplingRequest("long", (3,) * 500, (1,))]

    with pytest.raises(ModelError, match=r"prompt long: .* 520 tokens"):
        next(TorchSampler(model).sample(requests, NUCLEUS))


def test_a_stream_is_read_one_window_at_a_time():
    taken = []

    def stream():
        for request in make_requests(30):
            taken.append(request.prompt_id)
            yield request

    next(TorchSampler(tiny_model(), window_rows=9).sample(stream(), NUCLEUS))

    assert len(taken) == 3


@pytest.mark.parametrize(
    "change",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_completion_tokens": 0}],
)
def test_parameters_out_of_range_are_refused(change):
    sampler = TorchSampler(tiny_model())

    with pytest.raises(ValueError, match="must be"):
        next(sampler.sample(make_requests(1), replace(NUCLEUS, **change)))


def test_sampler_implements_the_protocol():
    assert isinstance(TorchSampler(tiny_model()), Sampler)
