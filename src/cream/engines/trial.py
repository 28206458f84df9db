"""What a model allows, tried on the model itself before anything relies on it.

Two claims are made in this room: that a packed stream under our attention gives the model's own
logits (scoring and decoding, in company), and that the model's cache gives what its forward gives
without one. Each is tested here on a few dozen tokens. What a few dozen tokens cannot show, effects
that begin at some length, is read from the configuration (`cream.models.positions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cream.algorithms.objective import LayerHook
from cream.engines.attention import PackedAttention, packed
from cream.engines.decoding import DecodeAttention, GroupCache
from cream.errors import ModelError
from cream.models.hidden import Backbone
from cream.models.positions import Reach, context_length, fast_reach, text_config
from cream.models.precision import in_float32

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of the logits, each position's around their mean and relative to their size.

A position counts by itself in float32; where the dtype rounds, all count together, and float32
decides where more is found.
"""
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
"""How foreign model code says that it takes other arguments, or lacks a part."""

_PROMPTS = (3, 9)
_COMPLETIONS = ((2, 6), (4,))
_MEMBERS = 2


def fast_form(
    model: Any, hook: LayerHook | None = None, *, fuses: bool = True
) -> tuple[Backbone | None, Reach]:
    """The packed form of a model and the length up to which it may stand for it.

    Args:
        model: Causal language model.
        hook: What stands behind every layer of it; the trial is without.
        fuses: Whether the layers may run in their fused form.

    Returns:
        The backbone, None where no sequence may use it, and how long a sequence may be, with the
        reason for a limit.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return None, Reach(0, "its attention function cannot be exchanged")
    if not type(model).__module__.startswith("transformers."):
        return None, Reach(0, "its code is its own")
    reach = fast_reach(model.config)
    if not reach.holds(_longest_of_trial()):
        return None, reach
    backbone = attempt(lambda: Backbone(model, fuses=fuses))
    with torch.inference_mode():
        if backbone is None or not shown(backbone, lambda: _packed_agrees(backbone)):
            return None, Reach(0, "in a trial its packed form gave other logits than itself")
    backbone.hook = hook
    return backbone, reach


def require_causal(model: Any) -> None:
    """Refuse a model whose logits look ahead, or that does not run on token ids alone.

    Raises:
        ModelError: Such a model: nothing that is computed with it would mean anything.
    """
    kind = getattr(model.config, "model_type", type(model).__name__)
    ids = trial_ids(model, 12)
    other = [*ids[:-1], ids[0] if ids[0] != ids[-1] else ids[1]]
    with torch.inference_mode():
        first = attempt(lambda: own_logits(model, ids))
        second = attempt(lambda: own_logits(model, other))
    if first is None or second is None or first.ndim != 2 or len(first) != len(ids):
        raise ModelError(
            f"a model of kind {kind} does not give logits for token ids alone. Cream aligns causal "
            "language models; name another in model.name."
        )
    if not agree(first[:-1], second[:-1], first.dtype):
        raise ModelError(
            f"this model of kind {kind} is not causal: a later token changes what it says of "
            "earlier ones. Name a causal language model in model.name (an encoder may need "
            "is_decoder in its config.json)."
        )


def attempt(work: Callable[[], Any]) -> Any:
    """Return what foreign model code gives; None if it refuses."""
    try:
        return work()
    except (*REFUSALS, ModelError):
        return None


def shown(model: Any, claim: Callable[[], bool]) -> bool:
    """Whether a claim about a model holds; one that cannot be run does not.

    Where the dtype of a `Backbone` or model rounds, a difference may be rounding alone: float32
    decides then (`cream.models.precision`).
    """
    if attempt(claim):
        return True
    exact = model.in_float32 if isinstance(model, Backbone) else lambda: in_float32(model)

    def claim_in_float32() -> bool:
        with exact():
            return claim()

    return bool(attempt(claim_in_float32))


def trial_ids(model: Any, count: int) -> list[int]:
    """Token ids spread over the vocabulary; pad, start and end of a sequence are among them."""
    config = text_config(model.config)
    ids = [(7919 * k + 13) % config.vocab_size for k in range(count)]
    named = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")]
    flat = [n for value in named for n in (value if isinstance(value, list) else [value])]
    special = [n for n in flat if n is not None and 0 <= n < config.vocab_size]
    for place, token in zip(range(1, count, 3), special, strict=False):
        ids[place] = token
    return ids


def own_logits(model: Any, ids: Sequence[int]) -> Float[Tensor, "token vocab"]:
    """The model's own forward on one sequence alone: what every other way is measured by."""
    device = next(model.parameters()).device
    return model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0]


def agree(
    truth: Float[Tensor, "row vocab"], answer: Float[Tensor, "row vocab"], dtype: torch.dtype
) -> bool:
    """Tell whether logits differ by rounding only; what is added to all of a row does not count."""
    truth, answer = (x.double() - x.double().mean(-1, keepdim=True) for x in (truth, answer))
    dims = (-1,) if dtype == torch.float32 else (0, 1)
    error, size = (answer - truth).norm(dim=dims), truth.norm(dim=dims)
    return bool((error <= TOLERANCE.get(dtype, 0.0) * size).all())


def _longest_of_trial() -> int:
    return max(p + c for p, own in zip(_PROMPTS, _COMPLETIONS, strict=True) for c in own)


def _packed_agrees(backbone: Backbone) -> bool:
    """Score and decode completions of two prompts together; compare with each of them alone."""
    model = backbone.model
    longest = context_length(model.config)
    if longest is not None and longest < _longest_of_trial():
        return False
    ids = iter(trial_ids(model, sum(_PROMPTS) + sum(map(sum, _COMPLETIONS))))
    prompts = [[next(ids) for _ in range(n)] for n in _PROMPTS]
    completions = [[[next(ids) for _ in range(n)] for n in own] for own in _COMPLETIONS]
    truth = [
        own_logits(model, [*prompt, *completion])
        for prompt, own in zip(prompts, completions, strict=True)
        for completion in own
    ]
    dtype = truth[0].dtype
    prompt_logits, own_of = _scored(backbone, prompts, completions)
    if not all(
        agree(whole, torch.cat([prompt_logits[g], own]), dtype)
        for whole, (g, own) in zip(truth, own_of, strict=True)
    ):
        return False
    starts = [len(prompts[g]) for g, _ in own_of]
    after = [whole[start:] for whole, start in zip(truth, starts, strict=True)]
    decoded = _decoded(backbone, prompts, completions)
    return agree(torch.cat(after), torch.cat(decoded), dtype)


def _scored(
    backbone: Backbone, prompts: list[list[int]], completions: list[list[list[int]]]
) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
    """Logits of each prompt, and of each completion with the index of its prompt."""
    ids, positions = packed(prompts, completions)
    lengths = [[len(c) for c in own] for own in completions]
    attention = PackedAttention([len(p) for p in prompts], lengths, backbone.device)
    stream = torch.tensor([ids, positions], device=backbone.device)
    logits = backbone.logits(backbone.hidden(stream[0], stream[1], attention)).clone()
    flat = [(g, n) for g, own in enumerate(lengths) for n in own]
    parts = logits.split([*map(len, prompts), *(n for _, n in flat)])
    own_parts = parts[len(prompts) :]
    return list(parts[: len(prompts)]), [(g, x) for (g, _), x in zip(flat, own_parts, strict=True)]


def _decoded(
    backbone: Backbone, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[Tensor]:
    """Logits of every completion's tokens, fed one at a time."""
    device = backbone.device
    cache = GroupCache(backbone.num_layers, len(prompts), _MEMBERS)
    slots = torch.arange(len(prompts), device=device)
    lengths = [len(p) for p in prompts]
    prefill = PackedAttention(
        lengths,
        [[] for _ in prompts],
        device,
        sink=lambda layer, keys, values: cache.store(layer, slots, keys, values),
    )
    stream = torch.tensor(packed(prompts, [[] for _ in prompts]), device=device)
    backbone.hidden(stream[0], stream[1], prefill)
    rows = {g * _MEMBERS + k: c for g, own in enumerate(completions) for k, c in enumerate(own)}
    prompt_lengths = torch.tensor(lengths, device=device)
    said: dict[int, list[Tensor]] = {row: [] for row in rows}
    for step in range(max(map(len, rows.values()))):
        live = [row for row, c in rows.items() if len(c) > step]
        index = torch.tensor(live, device=device)
        at = torch.full_like(index, step)
        tokens = torch.tensor([rows[row][step] for row in live], device=device)
        attention = DecodeAttention(cache, index, at, prompt_lengths)
        positions = prompt_lengths[index // _MEMBERS] + at
        logits = backbone.logits(backbone.hidden(tokens, positions, attention))
        for row, line in zip(live, logits, strict=True):
            said[row].append(line.clone())
    return [torch.stack(lines) for lines in said.values()]
