"""Children that answer a line of JSON for a line of JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cream.bench.workers import BenchWorker, VllmWorker
from cream.errors import BenchmarkError
from cream.protocols import SamplingParams
from cream.types import SamplingRequest

ECHO = (
    "from cream.bench.vllm_worker import serve\n"
    "def answer(q):\n"
    "    print('noise of a library')\n"
    "    return {'twice': 2 * q['x']}\n"
    "serve(answer)\n"
)
FAKE_VLLM = """
class SamplingParams:
    def __init__(self, **options):
        self.options = options

class Part:
    def __init__(self, ids):
        self.token_ids = ids

class Output:
    def __init__(self, parts):
        self.outputs = parts

class LLM:
    def __init__(self, **options):
        self.cached = False

    def generate(self, prompts, params, use_tqdm):
        assert not self.cached, "the cache of the question before is still there"
        self.cached = True
        o = params.options
        assert o["ignore_eos"] == (o["stop_token_ids"] is None)
        return [
            Output([Part([len(p["prompt_token_ids"])] * o["max_tokens"]) for _ in range(o["n"])])
            for p in prompts
        ]

    def reset_prefix_cache(self):
        self.cached = False

__version__ = "0.fake"
"""
"""The part of vLLM's interface that the worker uses; the real one has its own environment."""


def test_answers_come_back_and_what_libraries_print_does_not():
    with BenchWorker([sys.executable, "-c", ECHO], {}) as worker:
        assert worker.ask({"x": 3}) == {"twice": 6}
        assert worker.ask({"x": [1]}) == {"twice": [1, 1]}


def test_a_child_that_dies_is_an_error_in_one_sentence():
    with (
        BenchWorker([sys.executable, "-c", "raise OSError('no room')"], {}) as worker,
        pytest.raises(BenchmarkError, match=r"ended with code 1 .*: OSError: no room"),
    ):
        worker.ask({"x": 1})


def test_vllm_is_asked_for_n_completions_and_forgets_prompts_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "vllm.py").write_text(FAKE_VLLM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options: Any = {"dtype": "float32", "longest": 64, "threads": 1, "device": "cpu"}
    worker = VllmWorker(Path(sys.executable), tmp_path, **options)
    requests = [SamplingRequest("a", (1, 2, 3), (0, 1)), SamplingRequest("b", (4,), (2, 3))]

    first = worker.sample(requests, SamplingParams(0.8, 0.95, 2, ()))
    second = worker.sample(requests, SamplingParams(0.8, 0.95, 2, (7,)))
    worker.close()

    assert first == second == [[(3, 3), (3, 3)], [(1, 1), (1, 1)]]
    assert worker.version == "0.fake"
