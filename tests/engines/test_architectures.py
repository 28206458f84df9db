"""Every causal architecture: scores and greedy completions are the plain model's, or it is refused.

The rows are longer than any window, with pad, start and end inside prompts. The table in
docs/architectures.md is what this sweep finds; running this file as a program writes it.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import KINDS, tiny

from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.engines.trial import fast_form, require_causal
from cream.errors import ModelError
from cream.protocols import SamplingParams
from cream.types import SamplingRequest, ScoringRequest

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
BEGIN, END = "<!-- sweep -->\n", "<!-- end of sweep -->\n"


@cache
def path_of(kind: str) -> tuple[str, str, Any]:
    """Which path an architecture takes and why, and the model where there is one."""
    try:
        model = tiny(kind)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        return (
            "refused",
            f"transformers has no causal language model of it ({type(error).__name__})",
            None,
        )
    try:
        require_causal(model)
    except ModelError as error:
        return "refused", str(error).split(". ")[0], None
    backbone, reach = fast_form(model)
    if backbone is None:
        return "plain", reach.reason, model
    form = "fast, fused" if backbone.fused else "fast, packed"
    return form, reach.reason, model


def rows() -> list[ScoringRequest]:
    draw = torch.Generator().manual_seed(3)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 259, (n,), generator=draw).tolist())

    return [
        ScoringRequest("short", (5, 2, 9, 1), (ids(4), ids(1))),
        ScoringRequest("middle", (2, *ids(13), 2, 2), (ids(9), ids(3))),
        ScoringRequest("long", (1, *ids(50), 2, 2), (ids(20), (2, *ids(6)))),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_scores_and_completions_are_the_plain_models(kind: str):
    _, _, model = path_of(kind)
    if model is None:
        return
    with torch.inference_mode():
        for group in TorchScorer(copy.deepcopy(model)).score(rows()):
            request = next(r for r in rows() if r.prompt_id == group.prompt_id)
            for completion, got in zip(request.completions, group.token_logps, strict=True):
                ids = torch.tensor([[*request.prompt_token_ids, *completion]])
                logps = copy.deepcopy(model)(input_ids=ids, use_cache=False).logits[0].float()
                start = len(request.prompt_token_ids)
                picked = logps.log_softmax(-1)[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
                np.testing.assert_allclose(got, picked.numpy(), atol=2e-3, err_msg=group.prompt_id)
        params = SamplingParams(0.0, 1.0, 12, (0,))
        asked = [SamplingRequest(r.prompt_id, r.prompt_token_ids, (1, 2)) for r in rows()]
        for group in TorchSampler(copy.deepcopy(model)).sample(asked, params):
            prompt = next(r.prompt_token_ids for r in asked if r.prompt_id == group.prompt_id)
            tokens = group.completions[0].token_ids
            assert group.completions[1].token_ids == tokens
            for step, token in enumerate(tokens):
                ids = torch.tensor([[*prompt, *tokens[:step]]])
                last = copy.deepcopy(model)(input_ids=ids, use_cache=False).logits[0, -1].float()
                assert last.max() - last[token] < 2e-3, (group.prompt_id, step)


def table() -> str:
    lines = ["| Architecture | Path | Why |", "|---|---|---|"]
    for kind in KINDS:
        path, why, _ = path_of(kind)
        lines.append(f"| {kind} | {path} | {why} |")
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_the_sweep_finds():
    _, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    assert rest.split(END)[0] == table()


def test_at_least_forty_architectures_are_swept():
    assert len(set(KINDS)) == len(KINDS) >= 40


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
