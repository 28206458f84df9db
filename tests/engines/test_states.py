"""States after tokens: each behind its own token, whatever stands beside it in a batch."""

from __future__ import annotations

import pytest
import torch

from cream.engines.states import Answered, StateReader, after_each_token
from cream.testing import tiny_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("budget", [1, 4096])
def test_a_state_is_the_one_after_its_token(architecture: str, budget: int) -> None:
    """Against one sequence at a time through the model's own forward, cut after each token."""
    model = tiny_model(architecture=architecture).eval()
    items = [
        Answered("a", (5, 6), (7, 8, 9, 10)),
        Answered("b", (11,), (12,)),
        Answered("c", (5, 6, 9), (7, 13)),
    ]
    found = dict(StateReader(model, after_each_token, token_budget=budget).read(items))
    assert found.keys() == {"a", "b", "c"}
    for one in items:
        for t in range(len(one.completion)):
            read = torch.tensor([[*one.prompt, *one.completion[: t + 1]]])
            with torch.inference_mode():
                wanted = model.base_model(read).last_hidden_state[0, -1]
            torch.testing.assert_close(found[one.key][t], wanted, atol=2e-5, rtol=1e-4)
