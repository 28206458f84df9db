"""Sampling cases: the torch sampler, ``generate()`` and vLLM on the same prompts.

The baselines are written the way they are commonly written, with their best known batch sizes, and
are checked against ours before anything is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from cream.bench.contest import Case, Contestant
from cream.bench.floors import Floor, Group, sampling_seconds
from cream.bench.inputs import (
    Subject,
    batched,
    load_subject,
    long_prompts,
    padding_share,
    prompts,
    sampling_requests,
)
from cream.bench.workers import VllmWorker
from cream.data.dataset import load_data
from cream.engines.sampler import TorchSampler
from cream.errors import BenchmarkError, RunError
from cream.protocols import SamplingParams
from cream.recipe import load_recipe
from cream.types import SamplingRequest

GENERATE_ROWS = 128
"""Completions per call of ``generate()``: measured faster than 32, and what memory allows."""
TOKEN_IDS = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and how their completions are drawn."""

    name: str
    requests: tuple[SamplingRequest, ...]
    params: SamplingParams
    unit: Literal["tokens/s", "completions/s"]
    note: str

    @property
    def longest(self) -> int:
        """Longest prompt and completion together, in tokens."""
        prompt = max(len(request.prompt_token_ids) for request in self.requests)
        return prompt + self.params.max_completion_tokens


def workloads(subject: Subject, *, quick: bool) -> Iterator[Workload]:
    """The cases that need nothing but the model."""
    tokens = 32 if quick else 64
    params = SamplingParams(0.8, 0.95, tokens, ())
    ignored = "end tokens ignored, so that all generate the same number of tokens"
    count = 16 if quick else 64
    requests = sampling_requests(prompts(subject.encoder, count), 5)
    yield Workload(f"{count} x 5, {tokens} new", tuple(requests), params, "tokens/s", ignored)
    count, length = (4, 512) if quick else (16, 512)
    requests = sampling_requests(long_prompts(subject.encoder, [length] * count), 5)
    name = f"{length}-token prompts, {count} x 5, {tokens} new"
    yield Workload(name, tuple(requests), params, "tokens/s", ignored)


def short_answers(
    prompt_token_ids: Sequence[TOKEN_IDS], n: int, params: SamplingParams, *, answered_by: str
) -> Workload:
    """The prompts of a recipe with its sampling settings, ended by end tokens."""
    return Workload(
        f"quickstart answers, {len(prompt_token_ids)} x {n}",
        tuple(sampling_requests(prompt_token_ids, n)),
        params,
        "completions/s",
        f"answered by {answered_by}",
    )


def sampling_case(
    subject: Subject, workload: Workload, floor: Floor, vllm: VllmWorker | None
) -> Case:
    """Check that all contestants do the same work, and make the case.

    Raises:
        BenchmarkError: One returns another number of completions or, where end tokens are ignored,
            of tokens.
    """
    sampler = _Runs(subject, workload, vllm)
    contestants = [
        Contestant("cream", lambda: sampler.work(sampler.ours())),
        Contestant("transformers generate()", lambda: sampler.work(sampler.generate())),
    ]
    if vllm is not None:
        contestants.append(Contestant("vllm", lambda: sampler.work(sampler.vllm())))
    lengths = sampler.check()
    requests = workload.requests
    groups = [Group(len(r.prompt_token_ids), tuple(lengths[r.prompt_id])) for r in requests]
    least = sampling_seconds(
        subject.shape, floor, groups, subject.dtype_name, subject.dtype.itemsize
    )
    widths = [len(r.prompt_token_ids) for r in requests]
    per_call = max(1, GENERATE_ROWS // len(requests[0].seeds))
    padding = f"generate(): {GENERATE_ROWS} rows a call, {padding_share(widths, per_call):.0%} of "
    return Case(
        name=f"sampling: {workload.name}",
        unit=workload.unit,
        contestants=tuple(contestants),
        least_seconds=least,
        notes=(workload.note, padding + "prompt tokens are padding", *sampler.notes),
    )


class _Runs:
    """The ways to sample one workload, and what they have been seen to return."""

    def __init__(self, subject: Subject, workload: Workload, vllm: VllmWorker | None) -> None:
        self._subject = subject
        self._workload = workload
        self._vllm = vllm
        self._sampler = TorchSampler(subject.model)
        self.notes: tuple[str, ...] = ()

    def ours(self) -> list[list[TOKEN_IDS]]:
        """Sample with the torch sampler."""
        workload = self._workload
        groups = {
            group.prompt_id: [c.token_ids for c in group.completions]
            for group in self._sampler.sample(workload.requests, workload.params)
        }
        return [groups[request.prompt_id] for request in workload.requests]

    def generate(self) -> list[list[TOKEN_IDS]]:
        """Sample with transformers."""
        return generate_completions(
            self._subject.model,
            self._workload.requests,
            self._workload.params,
            pad_id=self._subject.encoder.end_of_turn_id,
        )

    def vllm(self) -> list[list[TOKEN_IDS]]:
        """Sample with vLLM in its own environment."""
        assert self._vllm is not None
        return self._vllm.sample(self._workload.requests, self._workload.params)

    def work(self, groups: Sequence[Sequence[TOKEN_IDS]]) -> float:
        """Units of work in what a contestant returned."""
        completions = [ids for group in groups for ids in group]
        if self._workload.unit == "completions/s":
            return float(len(completions))
        return float(sum(map(len, completions)))

    def check(self) -> dict[str, list[int]]:
        """Run every contestant once and compare the amounts; returns our lengths per prompt."""
        workload = self._workload
        returned = {"cream": self.ours(), "generate()": self.generate()}
        if self._vllm is not None:
            returned["vllm"] = self.vllm()
        expected = [len(request.seeds) for request in workload.requests]
        means = []
        for name, groups in returned.items():
            if [len(group) for group in groups] != expected:
                raise BenchmarkError(f"{workload.name}: {name} left completions out")
            lengths = {len(ids) for group in groups for ids in group}
            if not workload.params.stop_ids and lengths != {workload.params.max_completion_tokens}:
                raise BenchmarkError(f"{workload.name}: {name} made completions of {lengths}")
            mean = sum(len(ids) for group in groups for ids in group) / sum(expected)
            means.append(f"{name} {mean:.1f}")
        self.notes = (f"mean tokens: {', '.join(means)}",)
        pairs = zip(workload.requests, returned["cream"], strict=True)
        return {request.prompt_id: [len(ids) for ids in group] for request, group in pairs}


def quickstart_subject(recipe_path: Path, trained: Path | None, cache_dir: Path) -> Subject:
    """Load the model that answers: M1 of a finished run, else M0 under the recipe's template.

    Raises:
        RunError: The run has no M1.
    """
    config = load_recipe(recipe_path).model
    if trained is not None:
        folder = trained / "models" / "M1"
        if not folder.is_dir():
            raise RunError(f"{folder} is missing; name a finished run of {recipe_path}")
        config = config.model_copy(update={"name": str(folder), "revision": None})
    return load_subject(config, cache_dir)


def quickstart_workload(
    recipe_path: Path, subject: Subject, *, trained: bool, quick: bool
) -> Workload:
    """The first prompts of iteration 1 with the recipe's sampling settings.

    Raises:
        DataError: The data cannot be read.
        DependencyError: reasoning-gym is not installed.
    """
    recipe = load_recipe(recipe_path)
    data = load_data(recipe.data, seed=recipe.seed, iterations=1, base_dir=recipe_path.parent)
    count = 16 if quick else 64
    prompt_token_ids = [
        subject.encoder.encode_prompt(p.messages) for p in data.prompts_for(1)[:count]
    ]
    sampling = recipe.sampling
    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_completion_tokens=sampling.max_completion_tokens,
        stop_ids=subject.encoder.stop_ids,
    )
    by = "M1, which answers shortly" if trained else "M0, which was not tuned to answer shortly"
    return short_answers(prompt_token_ids, sampling.num_completions, params, answered_by=by)


def generate_completions(
    model: Any, requests: Sequence[SamplingRequest], params: SamplingParams, *, pad_id: int
) -> list[list[tuple[int, ...]]]:
    """Sample with transformers' ``generate()``: prompts padded on the left, N rows each.

    Returns:
        Per request its completions, each cut after its first stop token.
    """
    n = len(requests[0].seeds)
    config = GenerationConfig(
        do_sample=params.temperature > 0,
        temperature=params.temperature if params.temperature > 0 else 1.0,
        top_p=params.top_p,
        top_k=0,
        max_new_tokens=params.max_completion_tokens,
        num_return_sequences=n,
        # None would be replaced by the model's own; no token has this id.
        eos_token_id=list(params.stop_ids) or [model.config.get_text_config().vocab_size],
        pad_token_id=pad_id,
    )
    device = next(model.parameters()).device
    result: list[list[tuple[int, ...]]] = []
    for batch in batched(requests, max(1, GENERATE_ROWS // n)):
        width = max(len(request.prompt_token_ids) for request in batch)
        padding = [width - len(request.prompt_token_ids) for request in batch]
        ids = [[pad_id] * p + list(r.prompt_token_ids) for p, r in zip(padding, batch, strict=True)]
        mask = [[0] * p + [1] * (width - p) for p in padding]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
            )
        rows = [_cut(row, params.stop_ids) for row in output[:, width:].tolist()]
        result += [rows[i : i + n] for i in range(0, len(rows), n)]
    return result


def _cut(row: list[int], stop_ids: Sequence[int]) -> tuple[int, ...]:
    ends = [i + 1 for i, token in enumerate(row) if token in stop_ids]
    return tuple(row[: ends[0]] if ends else row)
