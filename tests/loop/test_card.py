"""What a model card says, and that the folder beside it is one that other libraries load."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from cream.loop.card import model_card
from cream.recipe import Recipe
from cream.records import StageSpec
from cream.report.summary import Accuracy, Difference, ModelResult, RunSummary
from cream.runs.manifest import without_local_paths

GAINS = {"M2": (0.05, -0.05, 0.15), "M3": (0.1, 0.01, 0.2)}


def result(model: str, accuracy: float) -> ModelResult:
    overall = Accuracy(
        right=round(40 * accuracy),
        n=40,
        accuracy=accuracy,
        low=accuracy - 0.1,
        high=accuracy + 0.1,
        partial_credit=accuracy,
        mean_tokens=2.0,
    )
    gain = None
    if model in GAINS:
        difference, low, high = GAINS[model]
        gain = Difference(difference=difference, low=low, high=high)
    return ModelResult(model=model, overall=overall, tasks={}, gain=gain)


SUMMARY = RunSummary(
    name="x",
    method="cream",
    seed=0,
    iterations_planned=2,
    models=[result(m, a) for m, a in (("M0", 0.1), ("M1", 0.5), ("M2", 0.55), ("M3", 0.6))],
    baseline={},
    iterations=[],
    seconds={},
    seconds_by_kind={},
)
M1 = StageSpec(name="a", kind="fine_tune", label="", model="M0", result="M1")
M3 = StageSpec(name="b", kind="train", label="", model="M2", result="M3", t=2)


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---")[1])


def test_the_card_tells_data_method_licence_results_recipe_and_use(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    recipe = tiny_recipe(tmp_path / "run")
    card = model_card(M3, recipe, "smollm2-135m-instruct", results=SUMMARY, repository="ada/x")

    assert front_matter(card)["license"] == "apache-2.0"
    assert front_matter(card)["tags"] == ["cream"]
    assert "preference training of M2 on pairs it sampled" in card
    assert "Seed examples: file seed.jsonl" in card
    assert "Unlabelled prompts: file prompts.jsonl; 8 per" in card
    assert "| M3 | 60.0 % [50.0, 70.0] | +10.0 [+1.0, +20.0] |" in card
    assert "| M1 | 50.0 % [40.0, 60.0] | – |" in card
    assert "| M2 |" not in card
    (text,) = re.findall(r"```yaml\n(.*?)```", card, flags=re.S)
    # Folders of the machine are left out: a card is published.
    assert str(tmp_path) not in text
    assert yaml.safe_load(text) == without_local_paths(
        recipe.model_dump(mode="json", exclude={"trackers"})
    )


def test_a_card_without_results_or_stated_licence_claims_neither(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    card = model_card(M1, tiny_recipe(tmp_path / "run"), "owner/base")

    assert "license" not in front_matter(card)
    assert front_matter(card)["base_model"] == "owner/base"
    assert "not stated in its folder" in card
    assert "## Results" not in card
    assert "supervised fine-tuning of M0 (owner/base)" in card


def test_the_code_of_the_card_loads_the_model_beside_it(finished_run: Path):
    """The block is run as it stands, with the folder as the name: transformers and nothing else."""
    folder = finished_run / "models" / "M3"
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    code = code.replace('"path/to/this/folder"', repr(str(folder))).replace("64)", "2)")
    names: dict[str, Any] = {}
    exec(code, names)

    assert names["answer"].shape[1] <= names["inputs"]["input_ids"].shape[1] + 2
    assert type(names["model"]).__module__.startswith("transformers.")


def test_a_checkpoint_takes_a_peft_adapter_and_gives_it_back(finished_run: Path, tmp_path: Path):
    """A LoRA on M3, saved and loaded by peft on M3, has the outputs it was saved with."""
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = finished_run / "models" / "M3"
    base = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        adapted = get_peft_model(base, config)
        expected = adapted(ids).logits
        adapted.save_pretrained(str(tmp_path / "adapter"))
        loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
        found = loaded(ids).logits

    assert not torch.allclose(plain, expected)
    torch.testing.assert_close(found, expected)
