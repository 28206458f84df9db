"""Attention kernels against a dense softmax under an explicit mask, in float64."""

import numpy as np
import pytest
import torch

from cream.engines.attention import PackedAttention
from cream.engines.decoding import DecodeAttention, GroupCache
from cream.kernels.attention import SegmentAttention, decode
from cream.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)

ALLOWED = 0.005
"""Relative difference: bfloat16 has 2^-9 = 0.002 per rounding; weights, output and gradients."""
SHAPES = [(9, 3, 64), (4, 4, 16), (6, 1, 80), (2, 2, 8)]
"""Query heads, key heads, numbers per head."""


def random_segments(seed: int) -> list[tuple[int, int, int]]:
    """Prompts of 1 to 70 tokens, each followed by up to four completions."""
    draw = np.random.default_rng(seed)
    segments: list[tuple[int, int, int]] = []
    start = 0
    for _ in range(int(draw.integers(1, 5))):
        prompt = len(segments)
        for index in range(1 + int(draw.integers(0, 5))):
            length = int(draw.integers(1, 71))
            segments.append((start, length, prompt if index else -1))
            start += length
    return segments


def mask(segments: list[tuple[int, int, int]]) -> torch.Tensor:
    """``[i, j]``: token i sees token j."""
    tokens = sum(length for _, length, _ in segments)
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for start, length, parent in segments:
        own = slice(start, start + length)
        seen[own, own] = torch.ones(length, length).tril().bool()
        if parent >= 0:
            first, width, _ = segments[parent]
            seen[own, first : first + width] = True
    return seen


def dense(qkv: torch.Tensor, shape: tuple[int, int, int], seen: torch.Tensor) -> torch.Tensor:
    heads, kv_heads, dim = shape
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) * dim**-0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, v)


def stream(tokens: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Queries, keys and values in one tensor, as a fused projection makes them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, shape[0] + 2 * shape[1], shape[2], generator=generator).bfloat16()


def attend(qkv: torch.Tensor, shape: tuple[int, int, int], segments) -> torch.Tensor:
    parts = qkv.split([shape[0], shape[1], shape[1]], 1)
    query, key, value = (part.transpose(0, 1) for part in parts)
    query, key, value = query[None], key[None], value[None]
    return SegmentAttention(segments).attend(0, query, key, value, shape[2] ** -0.5)


def gradients(qkv: torch.Tensor, shape: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    """Of queries, keys and values."""
    assert qkv.grad is not None
    return qkv.grad.split([shape[0], shape[1], shape[1]], 1)


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradients_equal_the_dense_softmax(shape, seed: int):
    segments = random_segments(seed)
    seen = mask(segments)
    narrow = stream(len(seen), shape, seed).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    out, truth = attend(narrow, shape, segments), dense(wide, shape, seen)
    upstream = torch.randn(truth.shape, generator=torch.Generator().manual_seed(9)).bfloat16()
    out.backward(upstream)
    truth.backward(upstream.double())
    assert relative(out.detach(), truth.detach()) < ALLOWED
    for found, exact in zip(gradients(narrow, shape), gradients(wide, shape), strict=True):
        assert relative(found, exact) < ALLOWED
    with torch.no_grad():
        assert torch.equal(attend(narrow, shape, segments), out)


def test_long_prompts_and_completions():
    shape, segments = (3, 1, 64), [(0, 700, -1), (700, 333, 0), (1033, 65, 0)]
    seen = mask(segments)
    qkv = stream(len(seen), shape, 0)
    truth = dense(qkv.double(), shape, seen)
    assert relative(attend(qkv, shape, segments), truth) < ALLOWED


def test_a_completion_sees_nothing_of_its_sibling():
    shape, segments = (9, 3, 64), [(0, 20, -1), (20, 9, 0), (29, 40, 0)]
    qkv = stream(69, shape, 0)
    other = qkv.clone()
    other[20:29] = float("nan")
    kept, changed = attend(qkv, shape, segments), attend(other, shape, segments)
    assert torch.equal(kept[29:], changed[29:])
    assert torch.equal(kept[:20], changed[:20])
    assert bool(changed[20:29].isnan().all())


def test_large_scores_do_not_overflow():
    shape, segments = (1, 1, 32), [(0, 40, -1)]
    qkv = 40 * stream(40, shape, 0)
    out = attend(qkv, shape, segments)
    assert relative(out, dense(qkv.double(), shape, mask(segments))) < 2 * ALLOWED


class Steps:
    """Decoding steps of some rows, and the dense answer for each."""

    def __init__(self, shape, prompt_lengths: list[int], members: int, capacity: int) -> None:
        heads, kv_heads, dim = shape
        self.shape, self.members = shape, members
        self.lengths = torch.tensor(prompt_lengths)
        nan = float("nan")
        size = (len(prompt_lengths), kv_heads, max(prompt_lengths) + 3, dim)
        self.prompts = (torch.full(size, nan).bfloat16(), torch.full(size, nan).bfloat16())
        self.known = [stream(n, shape, seed)[:, heads:] for seed, n in enumerate(prompt_lengths)]
        for group, known in enumerate(self.known):
            for part, kv in zip(self.prompts, known.split(kv_heads, 1), strict=True):
                part[group, :, : len(kv)] = kv.transpose(0, 1)
        size = (len(prompt_lengths) * members, kv_heads, capacity, dim)
        self.own = (torch.full(size, nan).bfloat16(), torch.full(size, nan).bfloat16())
        self.fed: list[list[torch.Tensor]] = [[] for _ in range(len(self.own[0]))]

    def feed(self, rows: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed one token to each row; returns the kernel's answer and the dense one."""
        heads, kv_heads, dim = self.shape
        new = stream(len(rows), self.shape, seed)
        at = torch.tensor([len(self.fed[row]) for row in rows])
        q, k, v = (x.transpose(0, 1) for x in new.split([heads, kv_heads, kv_heads], 1))
        out = decode(
            q, k, v, torch.tensor(rows), at, self.lengths, self.prompts, self.own, dim**-0.5
        )
        truth = []
        for index, row in enumerate(rows):
            self.fed[row].append(new[index])
            prompt = self.known[row // self.members]
            past = torch.cat([torch.zeros(len(prompt), heads, dim), prompt.float()], 1)
            tokens = torch.cat([past, torch.stack(self.fed[row]).float()]).double()
            truth.append(dense(tokens, self.shape, torch.ones(len(tokens), len(tokens)).bool())[-1])
        return out, torch.stack(truth)


@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_steps_equal_the_dense_softmax(shape):
    steps = Steps(shape, [5, 40, 33], members=13, capacity=40)
    everyone = list(range(39))
    for step in range(3):
        out, truth = steps.feed(everyone, 100 + step)
        assert relative(out, truth) < ALLOWED
    some = [0, 3, 14, 38]  # the others have ended
    for step in range(36):
        out, truth = steps.feed(some, 200 + step)
        assert relative(out, truth) < ALLOWED
    for row in some:
        kv_heads = shape[1]
        keys = torch.stack(steps.fed[row])[:, shape[0] :][:, :kv_heads]
        assert torch.equal(steps.own[0][row][:, :39].transpose(0, 1), keys)


def test_a_step_of_the_engine_equals_its_form_without_kernels():
    heads, kv_heads, dim = shape = (4, 2, 16)
    outputs = []
    for dtype in (torch.bfloat16, torch.float32):
        cache = GroupCache(1, groups=2, members=2)
        lengths = torch.tensor([3, 6])
        for slot, length in enumerate(lengths.tolist()):
            kv = stream(length, shape, slot)[:, heads:].to(dtype).transpose(0, 1)[None]
            cache.store(0, torch.tensor([slot]), kv[:, :kv_heads], kv[:, kv_heads:])
        for step, rows in enumerate([[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]]):
            new = stream(len(rows), shape, 50 + step).to(dtype)
            q, k, v = (x.transpose(0, 1)[None] for x in new.split([heads, kv_heads, kv_heads], 1))
            at = torch.full((len(rows),), step)
            attention = DecodeAttention(cache, torch.tensor(rows), at, lengths)
            outputs.append(attention.attend(0, q, k, v, dim**-0.5))
    for narrow, wide in zip(outputs[:3], outputs[3:], strict=True):
        assert relative(narrow, wide.double()) < ALLOWED


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4, 8))
def test_no_number_is_far_from_the_dense_softmax(shape, seed: int):
    segments = random_segments(seed)
    seen = mask(segments)
    qkv = stream(len(seen), shape, seed)
    away = attend(qkv, shape, segments).double() - dense(qkv.double(), shape, seen)
    assert float(away.abs().max()) < 0.02  # two roundings of values below 5


def test_gradients_are_the_same_bits_every_time():
    shape, segments = (9, 3, 64), random_segments(1)
    found = []
    for _ in range(2):
        qkv = stream(sum(length for _, length, _ in segments), shape, 0).requires_grad_()
        attend(qkv, shape, segments).square().sum().backward()
        found.append(qkv.grad)
    assert found[0].any()
    assert torch.equal(*found)


def test_a_completion_sends_no_gradient_to_its_sibling():
    shape, segments = (9, 3, 64), [(0, 20, -1), (20, 9, 0), (29, 40, 0)]
    qkv = stream(69, shape, 0).requires_grad_()
    attend(qkv, shape, segments)[29:].square().sum().backward()
    assert qkv.grad is not None
    assert not qkv.grad[20:29].any()
    assert qkv.grad[:20].any()


def test_a_stream_of_the_engine_equals_its_form_without_kernels():
    heads, kv_heads, dim = shape = (4, 2, 16)
    prompts, completions = [5, 40, 1], [[3, 33], [], [70]]
    outputs = []
    for dtype in (torch.bfloat16, torch.float32):
        parts = stream(152, shape, 0).to(dtype).split([heads, kv_heads, kv_heads], 1)
        query, key, value = (part.transpose(0, 1)[None] for part in parts)
        attention = PackedAttention(prompts, completions, torch.device("cpu"))
        with torch.inference_mode():
            outputs.append(attention.attend(0, query, key, value, dim**-0.5))
    assert relative(outputs[0], outputs[1].double()) < ALLOWED


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_one_step_may_differ_in_age(shape):
    kv_heads = shape[1]
    steps = Steps(shape, [31, 1], members=3, capacity=45)
    schedule = [[0, 1, 2, 3, 4], [1, 4], [0, 1, 4], *[[4]] * 31, [0, 1, 2, 4], [1, 3, 4]]
    for step, rows in enumerate(schedule):
        out, truth = steps.feed(rows, 300 + step)
        for found, exact in zip(out, truth, strict=True):
            assert relative(found, exact) < 2 * ALLOWED  # one row: less averaging
    for row, fed in enumerate(steps.fed):
        for part, kept in enumerate(steps.own):
            for index, token in enumerate(fed):
                new = token[shape[0] :].split(kv_heads)[part]
                assert torch.equal(kept[row][:, index], new)
            assert bool(kept[row][:, len(fed) :].isnan().all())
