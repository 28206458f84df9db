"""A model in float32 for a few tokens, without a second copy of its weights.

In bfloat16 the logits of a real model can differ by more than their own spread at a position from
rounding alone (a fine-tuned SmolLM2-135M: 0.98 of it, float32 against bfloat16, on five unusual
tokens). Whether two ways of computing are the same formula can only be seen in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_ROUNDED = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Run a model in float32 inside: each module's own weights stand in float32 while it runs.

    At most one module's weights (those of nested ones too) are in memory twice. An embedding's
    rows are widened after they are looked up. A model whose modules read each other's weights
    raises what torch raises for mixed dtypes.
    """
    own: dict[nn.Module, dict[str, Any]] = {}

    def widen(module: nn.Module, _given: Any) -> None:
        own[module] = {name: module._parameters[name] for name in _rounded(module)}
        module._parameters.update({name: p.float() for name, p in own[module].items()})

    def narrow(module: nn.Module, _given: Any = None, _output: Any = None) -> None:
        module._parameters.update(own.pop(module, {}))

    def widen_rows(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        return output.float()

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(widen_rows))
        elif _rounded(module):
            handles += [
                module.register_forward_pre_hook(widen),
                module.register_forward_hook(narrow),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(own):
            narrow(module)


def _rounded(module: nn.Module) -> list[str]:
    """Names of a module's own parameters that have a dtype which rounds."""
    return [n for n, p in module.named_parameters(recurse=False) if p.dtype in _ROUNDED]
