"""A document as a run of the benchmark leaves it, with round numbers."""

from __future__ import annotations

import torch

from cream.bench.contest import ContestRow
from cream.bench.floors import Floor, Product
from cream.bench.machine import describe_machine
from cream.bench.results import Document, TimedPoint


def row(name: str = "sampling: a", *, foreign_cores: float | None = 0.0) -> ContestRow:
    return ContestRow(
        name=name,
        baseline="generate()",
        unit="tokens/s",
        better="higher",
        ours=400.0,
        theirs=100.0,
        ratio=4.0,
        low=3.0,
        high=5.0,
        n=3,
        floor_share=0.5,
        foreign_cores=foreign_cores,
        notes=("end tokens ignored",),
    )


def document() -> Document:
    return Document(
        command="cream bench all",
        machine=describe_machine(torch.device("cpu")),
        settings={
            "model": "m",
            "dtype": "bfloat16",
            "rounds": 3,
            "quick": False,
            "allow_load": False,
        },
        floor=Floor((Product("bfloat16", 2, 3, 4, 1e12),), 1e10),
        rows=[row()],
        points=[TimedPoint("sampling", 4.0, "N", 0.25, "s/completion", 3, None)],
        stages=[{"stage": "sft/train", "seconds": 1.5}],
        skipped=[{"name": "vllm", "reason": "not given"}],
        complete=True,
    )
