"""The model card written beside every trained model."""

from __future__ import annotations

from cream.recipe import Recipe


def model_card(name: str, recipe: Recipe, seed_model: str) -> str:
    """Markdown that says what this model is, from what it was made, and how.

    Args:
        name: M1, M2, ..., or a witness of the recipe.
        recipe: The run's recipe.
        seed_model: Where M0 came from.
    """
    how = (
        f"supervised fine-tuning of M0 ({seed_model}) on seed examples"
        if name == "M1" or name in recipe.witnesses
        else f"preference training of M{int(name[1:]) - 1} on pairs it sampled and ranked itself"
    )
    return f"""---
library_name: transformers
tags: [cream, {recipe.method.name}]
---

# {recipe.name} {name}

Made by Cream by {how}.

- Seed model (M0): {seed_model}. Its licence and its limits apply to this model too.
- Method: {recipe.method.name}; run seed {recipe.seed}; data, settings and results stand in the
  run's `recipe.yaml` and `summary.json`.
"""
