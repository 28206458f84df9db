"""vLLM itself, on a CPU, in an environment of its own (`make test-vllm`).

One process per model: it takes some twenty seconds to start.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats

from cream.engines.sampler import TorchSampler
from cream.engines.vllm_sampler import VllmSampler
from cream.errors import EngineError
from cream.models.loading import load_model
from cream.protocols import SamplingParams
from cream.recipe.engine import VllmEngine
from cream.testing import tiny_model, tiny_model_folder
from cream.types import FinishReason, SamplingRequest

pytestmark = pytest.mark.vllm

GREEDY = SamplingParams(0.0, 1.0, 20, tuple(range(0, 259, 30)))
NUCLEUS = SamplingParams(0.8, 0.9, 20, (7, 20, 30))


@pytest.fixture(scope="module")
def open_sampler(vllm_python):
    def build(folder, **settings):
        settings = {"python": vllm_python, "memory_share": 0.1, **settings}
        return VllmSampler(
            folder,
            VllmEngine(**settings),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    return build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("vllm") / "model", head_dim=32)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def sampler(folder, open_sampler):
    with open_sampler(folder) as sampler:
        yield sampler


def make_requests(count=10, completions=3, seed=0):
    rng = random.Random(seed)
    return [
        SamplingRequest(
            f"p{i}",
            tuple(rng.randrange(3, 259) for _ in range(rng.randrange(1, 150))),
            tuple(rng.randrange(2**63) for _ in range(completions)),
        )
        for i in range(count)
    ]


def by_id(groups):
    return {group.prompt_id: group for group in groups}


def ids_by_id(groups):
    return {g.prompt_id: [(c.token_ids, c.finish_reason) for c in g.completions] for g in groups}


def nucleus_distribution(model, ids, params):
    """Next-token distribution after temperature and top-p, in float64 from the model's logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    probabilities = (logits / params.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    kept = ordered.cumsum(-1) - ordered < params.top_p
    nucleus = torch.zeros_like(probabilities)
    nucleus[order[kept]] = ordered[kept]
    return nucleus / nucleus.sum()


def test_greedy_equals_the_torch_engine_token_for_token(sampler, model):
    requests = make_requests()
    expected = by_id(TorchSampler(model).sample(requests, GREEDY))

    assert by_id(sampler.sample(requests, GREEDY)) == expected
    reasons = {c.finish_reason for g in expected.values() for c in g.completions}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


def test_completions_do_not_depend_on_their_neighbours(sampler):
    """All at once, in reverse, alone, and each seed alone: the seed names the completion."""
    requests = make_requests()
    together = ids_by_id(sampler.sample(requests, NUCLEUS))
    reverse = ids_by_id(sampler.sample(reversed(requests), NUCLEUS))
    alone = ids_by_id(g for r in requests for g in sampler.sample([r], NUCLEUS))
    first = requests[0]
    singly = [
        (c.token_ids, c.finish_reason)
        for seed in first.seeds
        for g in sampler.sample([replace(first, seeds=(seed,))], NUCLEUS)
        for c in g.completions
    ]

    assert together == reverse == alone
    assert together[first.prompt_id] == singly
    assert len({ids for ids, _ in singly}) == len(singly)


def test_stop_ids_end_a_completion_and_are_kept(sampler):
    groups = list(sampler.sample(make_requests(20), NUCLEUS))

    ended = [c for g in groups for c in g.completions if c.finish_reason == FinishReason.STOP]
    cut = [c for g in groups for c in g.completions if c.finish_reason == FinishReason.LENGTH]
    assert len(ended) > 5
    assert len(cut) > 5
    for completion in ended:
        assert completion.token_ids[-1] in NUCLEUS.stop_ids
        assert not set(completion.token_ids[:-1]) & set(NUCLEUS.stop_ids)
    for completion in cut:
        assert len(completion.token_ids) == NUCLEUS.max_completion_tokens
        assert not set(completion.token_ids) & set(NUCLEUS.stop_ids)


def test_the_end_tokens_of_the_model_end_nothing_unless_they_are_asked_for(sampler, model):
    """2 is the model's own end token; with other stop ids it is a token like any other."""
    request = SamplingRequest("p", (5, 6, 7), tuple(range(400)))
    params = SamplingParams(1.5, 1.0, 30, (7,))
    (group,) = sampler.sample([request], params)

    assert any(2 in c.token_ids[:-1] for c in group.completions)


@pytest.mark.parametrize("params", [NUCLEUS, replace(NUCLEUS, temperature=1.0, top_p=1.0)])
def test_sampling_logps_are_those_of_the_sampling_distribution(sampler, model, params):
    for request in make_requests(3, completions=2):
        (group,) = sampler.sample([request], params)
        for completion in group.completions:
            total, ids = 0.0, list(request.prompt_token_ids)
            for token in completion.token_ids:
                total += math.log(nucleus_distribution(model, ids, params)[token])
                ids.append(token)
            assert completion.sampling_logp == pytest.approx(total, abs=1e-3)


def test_the_prompt_is_computed_once(sampler):
    """Of 4 completions of 100 tokens of prompt, 3 find its whole blocks in the cache."""
    request = SamplingRequest("p", tuple(range(100, 200)), (1, 2, 3, 4))
    question = {
        "requests": [{"index": 0, "prompt": request.prompt_token_ids, "seeds": request.seeds}],
        "settings": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 2, "stop_token_ids": [7]},
        "adapter": None,
    }
    answers = list(sampler._started().ask({"sample": question}, last="done"))
    (group,) = (answer["group"] for answer in answers if "group" in answer)

    assert [c["cached"] for c in group["completions"]].count(96) >= 3


def test_the_distribution_is_the_exact_one(tmp_path, open_sampler):
    """Chi-square of two tokens drawn together, 12 x 12 cells, p above one in a thousand."""
    model = tiny_model(vocab_size=12, head_dim=32, seed=3)
    model.save_pretrained(tmp_path / "small")
    params = SamplingParams(1.2, 0.95, 2, ())
    prompt = (3, 5, 8)
    draws = 6000
    first = nucleus_distribution(model, prompt, params)
    expected = np.stack(
        [first[a] * nucleus_distribution(model, (*prompt, a), params).numpy() for a in range(12)]
    )
    request = SamplingRequest("p", prompt, tuple(range(draws)))
    with open_sampler(tmp_path / "small") as sampler:
        (group,) = sampler.sample([request], params)
    seen = np.zeros((12, 12))
    for completion in group.completions:
        seen[completion.token_ids] += 1

    assert seen[expected == 0].sum() == 0
    frequent = expected * draws >= 5
    rare = ~frequent & (expected > 0)
    counts = np.append(seen[frequent], seen[rare].sum())
    wanted = np.append(expected[frequent], expected[rare].sum()) * draws
    if wanted[-1] == 0:
        counts, wanted = counts[:-1], wanted[:-1]
    assert len(wanted) > 20
    assert stats.chisquare(counts, wanted).pvalue > 1e-3


def save_adapter(base, folder, *, seed, rank):
    """A random adapter that changes much: its second matrix is not zero."""
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=4 * rank, target_modules="all-linear"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(load_model(base), settings)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


def test_an_adapter_samples_like_its_merged_weights(folder, model, tmp_path, open_sampler):
    """Two adapters in one process, one per iteration, and a third whose rank asks for another."""
    one = save_adapter(folder, tmp_path / "one", seed=1, rank=8)
    two = save_adapter(folder, tmp_path / "two", seed=2, rank=4)
    wide = save_adapter(folder, tmp_path / "wide", seed=3, rank=16)
    requests = make_requests(6, completions=1)
    without = by_id(TorchSampler(model).sample(requests, GREEDY))
    pids = []
    with open_sampler(one) as sampler:
        for adapter in (one, two, wide):
            sampler.use(adapter)
            sampled = by_id(sampler.sample(requests, GREEDY))
            pids.append(sampler._process._process.pid)

            merged = by_id(TorchSampler(load_model(adapter)).sample(requests, GREEDY))
            assert sampled == merged
            assert sampled != without

    assert pids[0] == pids[1] != pids[2]


def test_a_model_that_vllm_cannot_run_is_one_error(tmp_path, open_sampler):
    """Its CPU attention has no kernel for heads of 16."""
    folder = tiny_model_folder(tmp_path / "narrow", head_dim=16)
    with (
        open_sampler(folder) as sampler,
        pytest.raises(EngineError, match=r"(?s)^vLLM failed: .*head.*set engine: torch.*log ends"),
    ):
        list(sampler.sample(make_requests(1), GREEDY))

    assert sampler._process is None or not sampler._process.alive
