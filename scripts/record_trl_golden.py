"""Record losses and gradients of TRL's DPOTrainer on a tiny model, as an outside reference.

Run once by hand, in an environment that has this package and ``trl==1.16.*``:

    python scripts/record_trl_golden.py tests/golden/trl_losses.json

The trainer computes everything itself from token ids (its own shift, mask, sums and losses) on
`cream.testing.tiny_model`; nothing of Cream's own losses takes part.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import trl
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from cream.testing import tiny_model, tiny_tokenizer

LOSSES = {
    "dpo": {"loss_type": ["sigmoid"]},
    "robust_dpo": {"loss_type": ["robust"], "label_smoothing": 0.2},
    "length_normalised_ipo": {"loss_type": ["ipo"]},
}
PAIRS = [
    {"prompt": [10, 20, 30], "chosen": [40, 50, 60, 2], "rejected": [70, 80, 2]},
    {"prompt": [11, 21, 31, 41, 51], "chosen": [61, 2], "rejected": [71, 81, 91, 101, 2]},
    {"prompt": [12], "chosen": [22, 32, 42], "rejected": [52, 62, 72]},
]
BETA = 0.1
REFERENCE_SEED = 1


def record(options: dict, pair: dict, folder: str) -> dict:
    """Loss, gradient norm and logged metrics of one pair."""
    config = DPOConfig(
        output_dir=folder,
        beta=BETA,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        **options,
    )
    text = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(
        tiny_model(),
        tiny_model(seed=REFERENCE_SEED),
        args=config,
        train_dataset=text,
        processing_class=tiny_tokenizer(),
    )
    batch = trainer.data_collator(
        [
            {
                "prompt_ids": pair["prompt"],
                "chosen_ids": pair["chosen"],
                "rejected_ids": pair["rejected"],
            }
        ]
    )
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = [p.grad for p in trainer.model.parameters()]
    metrics = {k: float(v[-1]) for k, v in trainer._metrics["eval"].items() if v}
    return {
        "loss": loss.item(),
        "grad_norm": torch.stack([g.norm() for g in gradients]).norm().item(),
        "metrics": {k: v for k, v in metrics.items() if k.startswith(("rewards/", "logps/"))},
    }


def main() -> None:
    """Write the file named on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            {"objective": name, **pair, **record(options, pair, folder)}
            for name, options in LOSSES.items()
            for pair in PAIRS
        ]
    document = {
        "trl": trl.__version__,
        "beta": BETA,
        "label_smoothing": 0.2,
        "policy_seed": 0,
        "reference_seed": REFERENCE_SEED,
        "cases": cases,
    }
    lines = ",\n".join(f"  {json.dumps(case)}" for case in document.pop("cases"))
    head = json.dumps(document)[:-1]
    Path(sys.argv[1]).write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
