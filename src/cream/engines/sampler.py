"""Sampling with continuous refill: every prompt prefilled once, its completions decoded together.

`TorchSampler` streams requests in windows and sorts each by length; `_Decoder` holds the running
completions of a window and keeps its slots filled. What a completion is depends on its prompt, its
seed and the parameters only (`cream.engines.token_sampling`); neighbours enter through
floating-point order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cream.algorithms.objective import LayerHook
from cream.engines.attention import PackedAttention
from cream.engines.batching import (
    Say,
    check_length,
    no_room,
    out_of_memory,
    require_finite,
    windows,
)
from cream.engines.decoding import DecodeAttention, GroupCache
from cream.engines.plain import PlainSampler, told_once
from cream.engines.token_sampling import draw, seed_tensor, uniforms
from cream.engines.trial import fast_form
from cream.models.devices import give_memory_back
from cream.models.hidden import Backbone, hooked, require_inference_model
from cream.models.positions import Reach, context_length
from cream.protocols import SamplingParams
from cream.types import FinishReason, SampledGroup, SampledTokens, SamplingRequest


@dataclass(frozen=True, slots=True)
class _Job:
    """A slice of a request's seeds that is decoded as one group."""

    index: int
    """Which request of the window it belongs to."""
    request: SamplingRequest
    first: int
    """Index of its first seed among the request's."""
    seeds: tuple[int, ...]


class TorchSampler:
    """A `Sampler` on a Hugging Face causal language model.

    Args:
        model: Causal language model in eval mode, float32 or bfloat16, on one device.
        max_rows: Completions decoded at a time.
        token_budget: Bound on the stored tokens (prompts once, completions at full length).
        prefill_tokens: Prompt tokens per prefill; a longer prompt is prefilled alone.
        window_rows: Completions that are sorted by prompt length at a time.
        hook: What stands behind every decoder layer, or None. It sees a prompt once and each token
            of a completion by itself, so it must treat every token alone.
        say: Told when memory does not hold so many rows, which are halved for good then, and once
            when sequences take the slow path.

    Raises:
        ModelError: The model is in training mode.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_rows: int = 512,
        token_budget: int = 1 << 17,
        prefill_tokens: int = 4096,
        window_rows: int = 8192,
        hook: LayerHook | None = None,
        say: Say | None = None,
    ) -> None:
        require_inference_model(model)
        self._model = model
        self._hook = hook
        self._max_rows = max_rows
        self._token_budget = token_budget
        self._prefill_tokens = prefill_tokens
        self._window_rows = window_rows
        self._say = say
        self._context_length = context_length(model.config)

    @cached_property
    def _fast(self) -> tuple[Backbone | None, Reach]:
        return fast_form(self._model, self._hook)

    @cached_property
    def _plain(self) -> PlainSampler:
        return PlainSampler(self._model)

    @cached_property
    def _tell_plain(self) -> Callable[[], None]:
        return told_once(self._say, "sampled", self.plain_reason)

    @property
    def plain_reason(self) -> str:
        """Why (some) sequences take the slow path; empty if none do."""
        return self._fast[1].reason

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """Yield the completions of each request, window by window.

        Raises:
            ValueError: Parameters out of range, or a prompt without tokens.
            ModelError: A prompt that leaves no room for ``max_completion_tokens``; raised before
                anything of its window is sampled.
            NotFiniteError: Logits are NaN or infinite.
        """
        _check_params(params)
        for window in windows(requests, self._window_rows):
            for request in window:
                tokens = len(request.prompt_token_ids) + params.max_completion_tokens
                check_length(request.prompt_id, tokens, self._context_length)
            asked = {request.prompt_id: request for request in window}
            for group in self._sample_window(window, params):
                drawn = group.completions
                require_finite(
                    asked[group.prompt_id],
                    [completion.sampling_logp for completion in drawn],
                    [completion.token_ids for completion in drawn],
                )
                yield group

    def _sample_window(
        self, window: list[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        yield from self._sample_packed([r for r in window if self._fits(r, params)], params)
        for request in window:
            if not self._fits(request, params):
                self._tell_plain()
                with torch.inference_mode(), hooked(self._model, self._hook):
                    group = self._plain.sample(request, params)
                yield group

    def _fits(self, request: SamplingRequest, params: SamplingParams) -> bool:
        if not request.seeds:
            return True
        backbone, reach = self._fast
        tokens = len(request.prompt_token_ids) + params.max_completion_tokens
        return backbone is not None and reach.holds(tokens)

    def _sample_packed(
        self, requests: list[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """Decode group by group; a request is yielded once all its slices are in."""
        jobs = [
            _Job(index, request, first, request.seeds[first : first + self._max_rows])
            for index, request in enumerate(requests)
            for first in range(0, len(request.seeds), self._max_rows)
        ]
        # Longest prompts first: the buffers get their size at once, and neighbours are alike.
        jobs.sort(key=lambda job: len(job.request.prompt_token_ids), reverse=True)
        parts: list[dict[int, list[SampledTokens]]] = [{} for _ in requests]
        for job, completions in self._decode(jobs, params):
            known = parts[job.index]
            known[job.first] = completions
            if sum(map(len, known.values())) == len(job.request.seeds):
                whole = [c for first in sorted(known) for c in known[first]]
                yield SampledGroup(job.request.prompt_id, tuple(whole))
                parts[job.index] = {}
        for request in requests:
            if not request.seeds:
                yield SampledGroup(request.prompt_id, ())

    def _decode(
        self, jobs: list[_Job], params: SamplingParams
    ) -> Iterator[tuple[_Job, list[SampledTokens]]]:
        """Decode all jobs; with half as many at a time from where memory does not hold them."""
        while jobs:
            done: set[tuple[int, int]] = set()
            groups, members = self._fitting(jobs, params)
            try:
                for job, completions in self._decode_held(jobs, params, groups, members):
                    done.add((job.index, job.first))
                    yield job, completions
                return
            except (MemoryError, RuntimeError) as error:
                problem = out_of_memory(error)
                if groups == 1:
                    raise no_room(jobs[0].request.prompt_id, problem) from error
            give_memory_back(next(self._model.parameters()).device)
            jobs = [job for job in jobs if (job.index, job.first) not in done]
            self._max_rows = groups // 2 * members
            if self._say is not None:
                self._say(
                    f"out of memory while sampling ({problem}); goes on with {self._max_rows} "
                    "completions at a time, which gives the same up to rounding"
                )

    def _fitting(self, jobs: list[_Job], params: SamplingParams) -> tuple[int, int]:
        """How many jobs are decoded at a time, and the most completions that one has."""
        members = max(len(job.seeds) for job in jobs)
        tokens = len(jobs[0].request.prompt_token_ids) + members * params.max_completion_tokens
        fitting = min(self._max_rows // members, self._token_budget // tokens, len(jobs))
        return max(1, fitting), members

    def _decode_held(
        self, jobs: list[_Job], params: SamplingParams, groups: int, members: int
    ) -> Iterator[tuple[_Job, list[SampledTokens]]]:
        backbone = self._fast[0]
        assert backbone is not None  # else nothing fits
        with torch.inference_mode():
            decoder = _Decoder(backbone, groups, members, params)
        pending = deque(jobs)
        while pending or decoder.jobs:
            with torch.inference_mode():
                if decoder.wants_refill(len(pending)):
                    decoder.admit(_take(pending, len(decoder.free), self._prefill_tokens))
                else:
                    decoder.step()
                if not pending:
                    decoder.compact()
                finished = decoder.take_finished()
            yield from finished


class _Decoder:
    """The running completions of a window: their slots, last tokens, counts and caches."""

    def __init__(
        self, backbone: Backbone, groups: int, members: int, params: SamplingParams
    ) -> None:
        self.jobs: dict[int, _Job] = {}
        self.free = list(range(groups))[::-1]
        self._backbone = backbone
        self._params = params
        self._members = members
        self._cache = GroupCache(backbone.num_layers, groups, members)
        device = backbone.device
        rows = groups * members
        self._prompt_lengths = torch.ones(groups, dtype=torch.int64, device=device)
        self._counts = torch.zeros(rows, dtype=torch.int64, device=device)
        self._seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self._logps = torch.zeros(rows, dtype=torch.float64, device=device)
        width = params.max_completion_tokens
        self._tokens = torch.zeros(rows, width, dtype=torch.int64, device=device)
        self._live = torch.zeros(0, dtype=torch.int64, device=device)
        self._stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=device)
        self._left: dict[int, int] = {}

    def wants_refill(self, pending: int) -> bool:
        """Refill when half of the slots are free.

        A free slot costs the layers nothing; a prefill of few prompts costs almost as much as one
        of many.
        """
        share = max(1, self._cache.groups // 2)
        return pending > 0 and len(self.free) >= min(share, pending)

    def admit(self, jobs: list[_Job]) -> None:
        """Prefill prompts, once each, and draw the first token of their completions."""
        device = self._backbone.device
        slots = torch.tensor([self.free.pop() for _ in jobs], device=device)
        prompts = [job.request.prompt_token_ids for job in jobs]
        lengths = [len(prompt) for prompt in prompts]
        attention = PackedAttention(
            lengths,
            [[] for _ in jobs],
            device,
            sink=lambda layer, keys, values: self._cache.store(layer, slots, keys, values),
        )
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])
        hidden = self._backbone.hidden(ids, positions, attention)
        ends = torch.tensor(lengths, device=device)
        self._prompt_lengths[slots] = ends
        rows, source = [], []
        for index, (slot, job) in enumerate(zip(slots.tolist(), jobs, strict=True)):
            self.jobs[slot] = job
            self._left[slot] = len(job.seeds)
            rows += [slot * self._members + member for member in range(len(job.seeds))]
            source += [index] * len(job.seeds)
        new = torch.tensor(rows, device=device)
        self._counts[new] = 0
        self._logps[new] = 0
        self._seeds[new] = seed_tensor(tuple(s for job in jobs for s in job.seeds)).to(device)
        logits = self._backbone.logits(hidden[ends.cumsum(0) - 1])
        going = self._draw(new, logits, torch.tensor(source, device=device))
        self._live = torch.cat([self._live, going]).sort().values

    def step(self) -> None:
        """Feed the last token of every live row and draw the next one."""
        live = self._live
        at = self._counts[live] - 1
        attention = DecodeAttention(self._cache, live, at, self._prompt_lengths)
        positions = self._prompt_lengths[live // self._members] + at
        hidden = self._backbone.hidden(self._tokens[live, at], positions, attention)
        logits = self._backbone.logits(hidden)
        self._live = self._draw(live, logits, torch.arange(len(live), device=live.device))

    def _draw(
        self,
        rows: Int64[Tensor, " row"],
        logits: Float[Tensor, "source vocab"],
        source: Int64[Tensor, " row"],
    ) -> Int64[Tensor, " going"]:
        """Draw a token for every row; return the rows that go on."""
        counts = self._counts[rows]
        drawn, logps = draw(logits, source, uniforms(self._seeds[rows], counts), self._params)
        self._tokens[rows, counts] = drawn
        self._counts[rows] = counts + 1
        self._logps[rows] += logps
        ended = torch.isin(drawn, self._stops) | (counts + 1 == self._params.max_completion_tokens)
        for row in rows[ended].tolist():
            self._left[row // self._members] -= 1
        return rows[~ended]

    def take_finished(self) -> list[tuple[_Job, list[SampledTokens]]]:
        """Collect the groups without live rows and free their slots."""
        done = [slot for slot, left in self._left.items() if left == 0]
        finished = []
        for slot in done:
            del self._left[slot]
            self.free.append(slot)
            finished.append((self.jobs[slot], self._collect(slot, self.jobs.pop(slot))))
        return finished

    def _collect(self, slot: int, job: _Job) -> list[SampledTokens]:
        rows = slice(slot * self._members, slot * self._members + len(job.seeds))
        tokens, counts = self._tokens[rows].tolist(), self._counts[rows].tolist()
        logps = self._logps[rows].tolist()
        completions = []
        for seed, ids, count, logp in zip(job.seeds, tokens, counts, logps, strict=True):
            stopped = ids[count - 1] in self._params.stop_ids
            reason = FinishReason.STOP if stopped else FinishReason.LENGTH
            completions.append(SampledTokens(tuple(ids[:count]), reason, seed, logp))
        return completions

    def compact(self) -> None:
        """When nothing is pending and at most half of the slots are used, drop the unused ones."""
        if not 0 < 2 * len(self.jobs) <= self._cache.groups:
            return
        kept = sorted(self.jobs)
        device = self._live.device
        slots = torch.tensor(kept, device=device)
        self._cache.keep(slots)
        members = torch.arange(self._members, device=device)
        rows = (slots[:, None] * self._members + members).flatten()
        self._prompt_lengths = self._prompt_lengths[slots]
        self._counts, self._seeds = self._counts[rows], self._seeds[rows]
        self._logps, self._tokens = self._logps[rows], self._tokens[rows]
        new_slot = torch.searchsorted(slots, self._live // self._members)
        self._live = new_slot * self._members + self._live % self._members
        self.jobs = {new: self.jobs[old] for new, old in enumerate(kept)}
        self._left = {new: self._left[old] for new, old in enumerate(kept)}
        self.free = []


def _take(pending: deque[_Job], slots: int, prefill_tokens: int) -> list[_Job]:
    """Take jobs for at most ``slots`` slots and ``prefill_tokens`` prompt tokens, at least one."""
    taken: list[_Job] = []
    tokens = 0
    while pending and len(taken) < slots:
        tokens += len(pending[0].request.prompt_token_ids)
        if taken and tokens > prefill_tokens:
            break
        taken.append(pending.popleft())
    return taken


def _check_params(params: SamplingParams) -> None:
    if not (params.temperature >= 0 and 0 < params.top_p <= 1):
        raise ValueError(
            f"temperature {params.temperature} must be >= 0 and top_p {params.top_p} in (0, 1]"
        )
    if params.max_completion_tokens < 1:
        raise ValueError(f"max_completion_tokens is {params.max_completion_tokens}, must be >= 1")
