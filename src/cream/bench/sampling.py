"""Sampling cases: the torch sampler, ``generate()`` and vLLM on the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cream.bench.baselines import GENERATE_ROWS, generate_completions, padding_share
from cream.bench.contest import Case
from cream.bench.floors import Floor, Group, sampling_seconds
from cream.bench.rounds import Contestant
from cream.bench.subject import Subject
from cream.bench.workers import VllmWorker
from cream.bench.workloads import long_prompts, prompts, sampling_requests
from cream.engines.sampler import TorchSampler
from cream.errors import BenchmarkError
from cream.protocols import SamplingParams
from cream.types import SamplingRequest

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
        prompt = max(len(request.prompt_ids) for request in self.requests)
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
    prompt_ids: Sequence[TOKEN_IDS], n: int, params: SamplingParams, *, answered_by: str
) -> Workload:
    """The prompts of a recipe with its sampling settings, ended by end tokens."""
    return Workload(
        f"quickstart answers, {len(prompt_ids)} x {n}",
        tuple(sampling_requests(prompt_ids, n)),
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
    groups = [Group(len(r.prompt_ids), tuple(lengths[r.prompt_id])) for r in requests]
    least = sampling_seconds(
        subject.shape, floor, groups, subject.dtype_name, subject.dtype.itemsize
    )
    widths = [len(r.prompt_ids) for r in requests]
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
