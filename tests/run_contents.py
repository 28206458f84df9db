"""What a run directory holds, times apart, as plain values that can be compared exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file


def contents(root: Path) -> dict[str, Any]:
    """Tables, stage records, metrics and summary by relative path; weights are left out."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or name.startswith("models/"):
            continue
        if path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pylist()
        elif path.name == "stage.json":
            record = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: record[key] for key in ("fingerprint", "inputs", "summary")}
        elif path.name == "summary.json":
            record = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: record[key] for key in record if not key.startswith("seconds")}
        elif path.suffix == ".jsonl":
            found[name] = path.read_text(encoding="utf-8").splitlines()
        elif path.name not in ("manifest.json", "recipe.yaml"):
            found[name] = "present"  # a leftover would be a difference
    return found


def weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors of a model of the run."""
    return load_file(root / "models" / name / "model.safetensors")


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Tell whether two models are equal bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def table(root: Path, stage: str) -> list[dict[str, Any]]:
    """Rows of all parts of a stage."""
    return [row for path in sorted((root / stage).glob("*.parquet")) for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def stage_record(root: Path, stage: str) -> dict[str, Any]:
    """The record of a finished stage."""
    return json.loads((root / stage / "stage.json").read_text(encoding="utf-8"))
