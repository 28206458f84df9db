"""Runs inside vLLM's own environment: samples what it is asked for, one JSON line at a time.

A script, not a module of the package: it imports vLLM and the standard library only. Without end
tokens in the question, completions run to their full length. The prefix cache is emptied after each
question, outside the answer that is waited for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Load the model that the first question names, then sample."""
    vllm: Any = importlib.import_module("vllm")
    engines: list[Any] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if "load" in question:
            engines.append(vllm.LLM(enable_prefix_caching=True, seed=0, **question["load"]))
            return {"version": vllm.__version__}
        return {"completions": sample(vllm, engines[0], question)}

    serve(answer, between=lambda: [engine.reset_prefix_cache() for engine in engines])


def serve(
    answer: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    between: Callable[[], object] = lambda: None,
) -> None:
    """Answer questions until standard input ends; what the libraries print is no answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
        between()


def sample(vllm: Any, engine: Any, question: dict[str, Any]) -> list[list[list[int]]]:
    """Completions per prompt, each ending with its end token if it has one."""
    stops = question["stop_token_ids"]
    params = vllm.SamplingParams(
        n=question["n"],
        temperature=question["temperature"],
        top_p=question["top_p"],
        max_tokens=question["max_tokens"],
        stop_token_ids=stops or None,
        ignore_eos=not stops,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": ids} for ids in question["prompts"]]
    outputs = engine.generate(prompts, params, use_tqdm=False)
    return [[list(part.token_ids) for part in output.outputs] for output in outputs]


if __name__ == "__main__":
    main()
