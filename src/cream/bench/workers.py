"""Contestants in a process of their own: one JSON object a line in, one out, idle in between.

A worker of another environment is a script that imports nothing of Cream.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cream.errors import BenchmarkError
from cream.protocols import SamplingParams
from cream.types import SamplingRequest

GPU_MEMORY_SHARE = 0.4
"""Share of a GPU's memory that vLLM may take; ours and the baselines need the rest."""
VLLM_SCRIPT = Path(__file__).with_name("vllm_worker.py")


class BenchWorker:
    """A child process that answers one JSON line for each that it is given."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = " ".join(command[:2])
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - the user names the interpreter
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> BenchWorker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Send a question and wait for the answer.

        Raises:
            BenchmarkError: The process ended; the message has the last line that it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise BenchmarkError(
                f"{self._name} ended with code {code} instead of an answer: {self._last_words()}"
            )
        return json.loads(line)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class VllmWorker:
    """vLLM in its own environment, with the model loaded."""

    def __init__(
        self, python: Path, model: Path, *, dtype: str, longest: int, threads: int, device: str
    ) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        environment = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        self._worker = BenchWorker([str(python), str(VLLM_SCRIPT)], environment)
        options: dict[str, Any] = {
            "model": str(model),
            "dtype": dtype,
            "max_model_len": longest,
        }
        if device == "cuda":
            options["gpu_memory_utilization"] = GPU_MEMORY_SHARE
        self.version: str = self._worker.ask({"load": options})["version"]

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams
    ) -> list[list[tuple[int, ...]]]:
        """Sample the completions of each request, in the order of the requests."""
        answer = self._worker.ask(
            {
                "prompts": [list(request.prompt_token_ids) for request in requests],
                "n": len(requests[0].seeds),
                "temperature": params.temperature,
                "top_p": params.top_p,
                "max_tokens": params.max_completion_tokens,
                "stop_token_ids": list(params.stop_ids),
            }
        )
        return [[tuple(ids) for ids in group] for group in answer["completions"]]

    def close(self) -> None:
        """End the process."""
        self._worker.close()
