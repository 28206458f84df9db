"""Crews on a tiny model, and a stage of parts that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from cream.engines.checkpoints import Checkpoints
from cream.engines.crew import Crew
from cream.engines.crew_engine import OnCrew
from cream.engines.crew_worker import Worker
from cream.loop.stage_runner import run_shards
from cream.protocols import SamplingParams
from cream.recipe.cluster import RayCluster
from cream.recipe.engine import TorchEngine
from cream.records import StageSpec
from cream.runs.store import Stage
from cream.types import SamplingRequest

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_completion_tokens=4, stop_ids=(2,))


def checkpoints(folder: Path, inputs: Path) -> Checkpoints:
    return Checkpoints(
        folder=folder / "models",
        seed_folder=inputs / "model",
        seed_name="tiny",
        tokenizer=None,
        device=torch.device("cpu"),
        compute_dtype=torch.float32,
        context_length=512,
    )


def engine(folder: Path, inputs: Path, worker: type[Worker], **settings: Any) -> OnCrew:
    config = RayCluster(**{"workers": 2, "start_seconds": 60, **settings})
    crew = Crew(config, "cpu", "torch", worker)
    return OnCrew(crew, checkpoints(folder, inputs), TorchEngine())


def sample_parts(on: OnCrew, folder: Path, parts: list[list[str]], progress: Any) -> Stage:
    """A stage of one part per list of prompt ids, each prompt of the same three tokens."""
    stage = Stage(folder / "stage", {}, StageSpec(name="stage", kind="sample", t=1, label="sample"))

    def work(ids: Any) -> pa.Table:
        requests = [SamplingRequest(name, (5, 6, 7), (1, 2)) for name in ids]
        groups = on.sampler("M0").sample(requests, PARAMS)
        rows = [(g.prompt_id, list(c.token_ids)) for g in groups for c in g.completions]
        return pa.table({"id": [r[0] for r in rows], "tokens": [r[1] for r in rows]})

    try:
        run_shards(
            stage,
            progress,
            label="sample",
            unit="prompts",
            shards=parts,
            work=work,
            summarise=lambda stage: ({}, "done"),
            crew=on.crew,
        )
    finally:
        on.checkpoints.close()
        on.crew.close()
    return stage
