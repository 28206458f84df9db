"""Sampling with vLLM, in a process of its own, in Cream's environment or in another.

Every completion is a request of its own with its own seed, so it depends on its prompt, its seed
and the parameters only; the prompt is computed once and cached (prefix caching). Neighbours enter
through floating-point order. Log-probabilities are vLLM's ``processed_logprobs``: after temperature
and nucleus, which is the sampling distribution that `SampledTokens.sampling_logp` speaks of.

vLLM's random numbers are not those of `cream.engines.sampler`: the same seed gives another
completion there, from the same distribution.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from pydantic import BaseModel, FiniteFloat, NonNegativeInt

from cream.engines.batching import windows
from cream.engines.vllm_process import WorkerProcess
from cream.errors import EngineError, ModelError, RecipeError
from cream.models.folders import ADAPTER_CONFIG, adapter_base, is_adapter, read_json
from cream.protocols import SamplingParams
from cream.recipe.engine import VllmEngine
from cream.types import FinishReason, SampledGroup, SampledTokens, SamplingRequest

SCRIPT = Path(__file__).with_name("vllm_worker.py")
WINDOW_ROWS = 8192
"""Completions that the process holds at a time."""
LOWEST_TEMPERATURE = 0.01
"""vLLM raises a temperature between 0 and this one to it."""
MEMORY_SHARE = {"cuda": 0.9, "cpu": 0.25}
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can make room for."""


class _Ready(BaseModel):
    version: str | None
    device: str
    context: int


class _Completion(BaseModel):
    ids: tuple[NonNegativeInt, ...]
    reason: FinishReason
    logp: FiniteFloat


class _Group(BaseModel):
    index: int
    completions: tuple[_Completion, ...]


class VllmSampler:
    """A `Sampler` on a model folder.

    The process starts with the first request and ends with `close`, an error, or an iteration that
    is left early; the next request starts another.

    Args:
        folder: A folder that `cream.models.folders.resolve_model` returned. An adapter is applied
            to its base by vLLM, not merged.
        settings: The recipe's ``engine`` section.
        device: CPU or a CUDA device.
        dtype: Arithmetic.
        trust_remote_code: Allow a model that comes as Python code.
        gpus: GPUs of this machine that share the weights (tensor parallelism).
        script: What the process runs; another one only to test the pipe.
    """

    def __init__(
        self,
        folder: Path,
        settings: VllmEngine,
        *,
        device: torch.device,
        dtype: torch.dtype,
        trust_remote_code: bool = False,
        gpus: int = 1,
        script: Path = SCRIPT,
    ) -> None:
        self._settings = settings
        self._device = device
        self._dtype = dtype
        self._trust_remote_code = trust_remote_code
        self._gpus = gpus
        self._script = script
        self._process: WorkerProcess | None = None
        self._context = 0
        self._place(folder)

    def __enter__(self) -> VllmSampler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def use(self, folder: Path) -> None:
        """Sample from another model from now on.

        An adapter of the same base and of no higher rank is exchanged for the present one without
        starting anew.
        """
        before = self._base, self._rank
        self._place(folder)
        if self._base == before[0] and 0 < self._rank <= before[1]:
            self._rank = before[1]
        else:
            self.close()

    def close(self) -> None:
        """End the process and give its memory back."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """Yield the completions of each request as they finish, window by window.

        Raises:
            ValueError: Parameters out of range, or a prompt without tokens.
            RecipeError: A temperature that vLLM would not take as it is.
            ModelError: A prompt that leaves no room for ``max_completion_tokens``, or vLLM of this
                environment does not run on the recipe's device.
            EngineError: vLLM failed; the message ends with its log.
        """
        _check_params(params)
        for window in windows(requests, WINDOW_ROWS):
            yield from self._sample_window(window, params)

    def _sample_window(
        self, window: list[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        process = self._started()
        for request in window:
            self._check_length(request, params)
        for request in window:
            if not request.seeds:
                yield SampledGroup(request.prompt_id, ())
        question = {
            "requests": [
                {"index": index, "prompt": request.prompt_token_ids, "seeds": request.seeds}
                for index, request in enumerate(window)
                if request.seeds
            ],
            "settings": {
                "temperature": params.temperature,
                "top_p": params.top_p,
                "max_tokens": params.max_completion_tokens,
                "stop_token_ids": params.stop_ids,
            },
            "adapter": None if self._adapter is None else str(self._adapter),
        }
        waited_for = {index: r for index, r in enumerate(window) if r.seeds}
        for answer in process.ask({"sample": question}, last="done"):
            if "group" not in answer:
                continue
            try:
                group = _Group.model_validate(answer["group"])
                request = waited_for.pop(group.index)
                completions = list(zip(request.seeds, group.completions, strict=True))
            except (ValueError, KeyError):
                process.refuse(answer)
            sampled = (_completion(seed, said, params) for seed, said in completions)
            yield SampledGroup(request.prompt_id, tuple(sampled))
        if waited_for:
            missed = next(iter(waited_for.values())).prompt_id
            process.refuse(f"that it is done, without {len(waited_for)} prompts ({missed} ...)")

    def _place(self, folder: Path) -> None:
        adapter = is_adapter(folder)
        self._base = adapter_base(folder) if adapter else folder
        self._adapter = folder if adapter else None
        self._rank = int(read_json(folder / ADAPTER_CONFIG)["r"]) if adapter else 0

    def _started(self) -> WorkerProcess:
        if self._process is not None and self._process.alive:
            return self._process
        python = self._settings.python or sys.executable
        process = WorkerProcess(
            [os.path.expanduser(python), "-P", str(self._script)],
            _environment(self._device),
            timeout_seconds=self._settings.timeout_seconds,
        )
        (*_, answer) = process.ask({"load": self._arguments()}, last="ready")
        try:
            ready = _Ready.model_validate(answer["ready"])
        except ValueError:
            process.refuse(answer)
        if ready.device != self._device.type:
            process.close()
            raise ModelError(
                f"vLLM {ready.version} of {python} runs on {ready.device}, the model is to "
                f"run on {self._device.type}. Set model.device, install the other vLLM, or set "
                "engine: torch."
            )
        self._context = ready.context
        self._process = process
        return process

    def _arguments(self) -> dict[str, Any]:
        """Arguments of ``vllm.LLM``."""
        settings, on_cpu = self._settings, self._device.type == "cpu"
        eager = {"eager": True, "compiled": False, "auto": on_cpu}[settings.execution]
        arguments: dict[str, Any] = {
            "model": str(self._base),
            "dtype": str(self._dtype).removeprefix("torch."),
            "trust_remote_code": self._trust_remote_code,
            "skip_tokenizer_init": True,  # ids in, ids out
            "generation_config": "vllm",  # not the model's own settings
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "max_model_len": -1,  # as long as the model and the memory allow
            "max_num_seqs": settings.max_rows,
            "gpu_memory_utilization": settings.memory_share or MEMORY_SHARE[self._device.type],
            "enforce_eager": eager,
            "seed": 0,
        }
        if self._gpus > 1:
            arguments["tensor_parallel_size"] = self._gpus
        if self._rank:
            room = [rank for rank in ADAPTER_RANKS if rank >= self._rank]
            if not room:
                raise ModelError(
                    f"adapter {self._adapter} has rank {self._rank}, vLLM takes up to "
                    f"{ADAPTER_RANKS[-1]}. Merge it into its base, or set engine: torch."
                )
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room[0]}
        return arguments

    def _check_length(self, request: SamplingRequest, params: SamplingParams) -> None:
        needed = len(request.prompt_token_ids) + params.max_completion_tokens
        if needed > self._context:
            raise ModelError(
                f"prompt {request.prompt_id}: prompt and completion need up to {needed} tokens, "
                f"vLLM has room for {self._context} (the model's context, or what "
                "engine.memory_share allows). Shorten the prompt or lower the token limit of "
                "completions."
            )


def _completion(seed: int, said: _Completion, params: SamplingParams) -> SampledTokens:
    ids, reason = said.ids, said.reason
    stopped = bool(ids) and ids[-1] in params.stop_ids
    if stopped != (reason == FinishReason.STOP) or len(ids) > params.max_completion_tokens:
        raise EngineError(
            f"vLLM ended a completion by {reason} after {len(ids)} tokens, which the stop ids "
            f"{params.stop_ids} and the limit of {params.max_completion_tokens} do not explain. "
            "Set engine: torch, and report this with vLLM's version."
        )
    logp = said.logp if params.temperature > 0 else 0.0
    return SampledTokens(ids, reason, seed, logp)


def _environment(device: torch.device) -> dict[str, str]:
    """Variables of the process; what the user has set stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_COLOR": "0"}
    if device.type == "cpu":
        wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    kept = {name: os.environ.get(name, value) for name, value in wanted.items()}
    if device.type == "cuda" and device.index:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else None
        kept["CUDA_VISIBLE_DEVICES"] = devices[device.index] if devices else str(device.index)
    return {**kept, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def _check_params(params: SamplingParams) -> None:
    if not (params.temperature >= 0 and 0 < params.top_p <= 1):
        raise ValueError(
            f"temperature {params.temperature} must be >= 0 and top_p {params.top_p} in (0, 1]"
        )
    if params.max_completion_tokens < 1:
        raise ValueError(f"max_completion_tokens is {params.max_completion_tokens}, must be >= 1")
    if 0 < params.temperature < LOWEST_TEMPERATURE:
        raise RecipeError(
            f"temperature {params.temperature} would be raised to {LOWEST_TEMPERATURE} by vLLM; "
            f"use 0 (greedy), at least {LOWEST_TEMPERATURE}, or engine: torch"
        )
