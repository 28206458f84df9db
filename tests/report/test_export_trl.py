"""What is exported is trained on by the real TRL, both kinds and both file formats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cream.report.export import FileFormat, export_pairs, flip, write_export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("kind", "file_format"), [("trl", "jsonl"), ("flipped", "parquet")])
def test_trl_trains_one_epoch_of_dpo_on_an_export(
    kind: str, file_format: FileFormat, finished_run: Path, tmp_path: Path
):
    """At the first step policy and reference are equal, so the loss is ln 2; then they are not."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = export_pairs(finished_run, 1)
    pairs = flip(pairs, seed=1) if kind == "flipped" else pairs
    out = tmp_path / "export"
    write_export(pairs, finished_run, out, file_format=file_format, command="x", seed=1)
    dataset: Any = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    folder = finished_run / "models" / "M1"
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = DPOTrainer(
        model=model,
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            num_train_epochs=1,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]

    assert dataset.num_rows == pairs.table.num_rows
    assert {"consistency", "margin", "chosen_reward"} <= set(dataset.column_names)
    assert trainer.state.global_step == math.ceil(pairs.table.num_rows / 2) == len(steps)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
