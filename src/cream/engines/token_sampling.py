"""Drawing tokens: random numbers named by (seed, step), temperature and an exact nucleus.

One uniform number per token, turned into a token by inverting the cumulative distribution. It is
exact: the nucleus comes from the largest few logits only where their mass, relative to the full
log-sum-exp, covers top-p, and from a full sort elsewhere; the whole vocabulary (top-p 1) needs no
sort at all. Nothing here knows models or caches.

Sources: nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751, section 3.1; as in transformers,
the token that crosses top-p belongs to the nucleus). SplitMix64, Steele et al. 2014 (OOPSLA,
"Fast splittable pseudorandom number generators", figure 16).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cream.engines.logsumexp import log_normalisers
from cream.protocols import SamplingParams

PREFILTERS = (256, 4096)
"""How many of the largest logits are tried as the nucleus before all of them are sorted."""

_STRIPES = 8
"""Entries per group of the first pass of `_largest`."""

_BLOCK = 256
"""Tokens per block of the two-level inversion over the whole vocabulary."""


def _signed(value: int) -> int:
    """Two's complement of a 64-bit pattern: torch has no unsigned arithmetic."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def seed_tensor(seeds: tuple[int, ...]) -> Int64[Tensor, " row"]:
    """Seeds as 64-bit patterns (modulo 2^64)."""
    return torch.tensor([_signed(seed % (1 << 64)) for seed in seeds], dtype=torch.int64)


def uniforms(seeds: Int64[Tensor, " row"], steps: Int64[Tensor, " row"]) -> Float64[Tensor, " row"]:
    """Random numbers in the open interval (0, 1), a pure function of (seed, step).

    Stateless, so a completion's numbers do not depend on its neighbours, on the batch or on the
    device. The seed is scrambled before the step is added: neighbouring seeds share no numbers.
    """
    bits = _splitmix(_splitmix(seeds) + steps * _GOLDEN)
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def draw(
    logits: Float[Tensor, "source vocab"],
    source: Int64[Tensor, " row"],
    numbers: Float64[Tensor, " row"],
    params: SamplingParams,
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    """Draw one token per row.

    Args:
        logits: Distinct next-token logits, in any float dtype.
        source: For each row, which of the logits it draws from (completions of one prompt share
            the first).
        numbers: One uniform number in (0, 1) per row; not read at temperature 0.
        params: Temperature and top-p.

    Returns:
        Token ids, and their log-probabilities under the sampling distribution (0 if greedy); NaN
        where logits are NaN or infinite.
    """
    if params.temperature == 0:
        best, ids = logits.max(-1)  # the difference is 0, or NaN where there is no best one
        return ids[source], (best - best).double()[source]
    if params.top_p == 1:
        return _draw_from_all(logits.float() / params.temperature, source, numbers)
    return _draw_from_nucleus(logits, source, numbers, params)


def _draw_from_nucleus(
    logits: Float[Tensor, "source vocab"],
    source: Int64[Tensor, " row"],
    numbers: Float64[Tensor, " row"],
    params: SamplingParams,
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    total = log_normalisers(logits, params.temperature)
    tokens = torch.empty(len(source), dtype=torch.int64, device=logits.device)
    logps = torch.empty(len(source), dtype=torch.float64, device=logits.device)
    open_sources = torch.arange(len(logits), device=logits.device)
    for size in (*PREFILTERS, logits.shape[-1]):
        count = min(size, logits.shape[-1])
        best, ids = _largest(
            logits[open_sources] if len(open_sources) < len(logits) else logits, count
        )
        best_logps = best.float() / params.temperature - total[open_sources, None]
        covered = best_logps.double().exp().sum(-1) >= params.top_p
        if count == logits.shape[-1]:
            covered[:] = True  # rounding may leave the whole vocabulary short of top_p
        position = torch.full((len(logits),), -1, device=logits.device)
        position[open_sources[covered]] = covered.nonzero()[:, 0]
        rows = (position[source] >= 0).nonzero()[:, 0]
        at = position[source[rows]]
        tokens[rows], logps[rows] = _invert_sorted(
            best_logps[at], ids[at], numbers[rows], params.top_p
        )
        open_sources = open_sources[~covered]
        if not len(open_sources):
            break
    return tokens, logps


def _largest(
    logits: Float[Tensor, "source vocab"], count: int
) -> tuple[Float[Tensor, "source count"], Int64[Tensor, "source count"]]:
    """The ``count`` largest logits in falling order, and their ids.

    Selecting among maxima of small groups first is cheaper than among everything: the largest
    ``count`` lie in the ``count`` groups with the largest maxima.
    """
    vocab = logits.shape[-1]
    groups = vocab // _STRIPES
    if vocab % _STRIPES or groups < 4 * count:
        return logits.topk(count)
    maxima = logits.unflatten(-1, (_STRIPES, groups)).amax(1)
    chosen = maxima.topk(count, sorted=False).indices
    stripes = torch.arange(_STRIPES, device=logits.device)[:, None] * groups
    columns = (chosen[:, None] + stripes).flatten(1)
    best, index = logits.gather(1, columns).topk(count)
    return best, columns.gather(1, index)


def _invert_sorted(
    logps: Float32[Tensor, "row candidate"],
    ids: Int64[Tensor, "row candidate"],
    numbers: Float64[Tensor, " row"],
    top_p: float,
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    """Invert the cumulative distribution of the nucleus of candidates in falling order."""
    mass = logps.double().exp()
    cumulative = mass.cumsum(-1)
    # Ends with the token that crosses top_p; of NaN there would be none.
    kept = ((cumulative - mass) < top_p).sum(-1).clamp_min(1)
    nucleus = cumulative.gather(1, kept[:, None] - 1)[:, 0]
    choice = (cumulative <= (numbers * nucleus)[:, None]).sum(-1)
    choice = torch.minimum(choice, kept - 1)[:, None]
    chosen = logps.gather(1, choice)[:, 0].double() - nucleus.log()
    return ids.gather(1, choice)[:, 0], chosen


def _draw_from_all(
    scaled: Float32[Tensor, "source vocab"],
    source: Int64[Tensor, " row"],
    numbers: Float64[Tensor, " row"],
) -> tuple[Int64[Tensor, " row"], Float64[Tensor, " row"]]:
    """Invert the cumulative distribution in vocabulary order: the block first, then the token."""
    sources, vocab = scaled.shape
    spare = -vocab % _BLOCK
    mass = (scaled - scaled.amax(-1, keepdim=True)).exp_()
    if spare:
        mass = torch.nn.functional.pad(mass, (0, spare))
    mass = mass.view(sources, -1, _BLOCK)
    blocks = mass.sum(-1).double()
    ends = blocks.cumsum(-1)
    total = ends[source, -1]
    target = numbers * total
    last_block = _last_positive(blocks)[source]
    block = torch.minimum((ends[source] <= target[:, None]).sum(-1), last_block)
    inside = mass[source, block].double()
    start = ends[source, block] - blocks[source, block]
    offset = (inside.cumsum(-1) <= (target - start)[:, None]).sum(-1)
    offset = torch.minimum(offset, _last_positive(inside))
    chosen = inside.gather(1, offset[:, None])[:, 0].log() - total.log()
    return block * _BLOCK + offset, chosen


def _last_positive(mass: Float64[Tensor, "row item"]) -> Int64[Tensor, " row"]:
    """Index of the last item that can be drawn: where rounding must not step beyond."""
    return mass.shape[-1] - 1 - (mass > 0).flip(-1).int().argmax(-1)


def _splitmix(state: Int64[Tensor, " row"]) -> Int64[Tensor, " row"]:
    """One output of SplitMix64 for each state; int64 arithmetic wraps like the unsigned one."""
    z = state + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(value: Int64[Tensor, " row"], bits: int) -> Int64[Tensor, " row"]:
    """Shift without the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
