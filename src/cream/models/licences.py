"""The licence that a model folder states, read from its card; never guessed from a name."""

from __future__ import annotations

import yaml

from cream.cache import expanded
from cream.recipe.model import EMBEDDED_NAME

EMBEDDED_LICENCE = "apache-2.0"
"""Of SmolLM2-135M-Instruct, which the embedded model is made from."""


def licence_of(name: str) -> str | None:
    """Licence of the model that a recipe names, as the hub spells it, or None if none is stated.

    Args:
        name: Embedded name, local folder, or hub id. Of a hub id nothing is known here: its card is
            not fetched with the weights.
    """
    if name == EMBEDDED_NAME:
        return EMBEDDED_LICENCE
    card = expanded(name) / "README.md"
    if not card.is_file():
        return None
    stated = _front_matter(card.read_text(encoding="utf-8", errors="replace")).get("license")
    return stated if isinstance(stated, str) else None


def _front_matter(text: str) -> dict[str, object]:
    if not text.startswith("---\n"):
        return {}
    try:
        values = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}
