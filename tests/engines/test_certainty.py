import math

import pytest
import torch

from cream.engines.certainty import SelfCertainty, token_certainty
from cream.testing import tiny_model
from cream.types import ScoringRequest


def test_certainty_by_hand():
    """p = (1/2, 1/4, 1/4): KL(uniform || p) = -log 3 + log 2 / 3 + 2 log 4 / 3 = .0566; of a
    uniform distribution 0, whatever is added to its logits."""
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]).log() + 3
    logits[1] = 7.0
    rows = torch.tensor([1, 0, 0])
    found = token_certainty(logits, rows, torch.zeros(3, dtype=torch.int64))
    expected = -math.log(3) + (math.log(2) + 2 * math.log(4)) / 3
    torch.testing.assert_close(found, torch.tensor([0.0, expected, expected]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_mean_over_a_completion_of_the_whole_softmax(architecture: str):
    """In company and alone, packed and plain: KL(uniform || p) from the model's own logits."""
    model = tiny_model(architecture=architecture).eval()
    prompts = {"a": (5, 6, 7), "b": (9,)}
    completions = {"a": ((3, 4, 5, 6), (8,), (3, 9)), "b": ((7, 7, 7),)}
    requests = [ScoringRequest(k, prompts[k], completions[k]) for k in prompts]
    found = dict(SelfCertainty(model, token_budget=64).score(requests))
    for key, group in completions.items():
        for ids, value in zip(group, found[key], strict=True):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*prompts[key], *ids]])).logits[0]
            told = torch.log_softmax(logits[len(prompts[key]) - 1 : -1].double(), -1)
            expected = (-math.log(logits.shape[-1]) - told.mean(-1)).mean()
            assert value == pytest.approx(float(expected), abs=1e-5)
