"""From a model of a run to what would be published: its files and a card with the run's results."""

from __future__ import annotations

from pathlib import Path

from cream.errors import RunError
from cream.loop.card import model_card
from cream.models.publishing import Upload, prepare_upload
from cream.report.summary import RunSummary
from cream.runs.reader import RunReader
from cream.runs.verification import refuse_damaged_model


def model_upload(root: Path, model: str, repository: str, results: RunSummary) -> Upload:
    """Prepare a model of a run for the hub; nothing is sent.

    Args:
        root: Run directory.
        model: M1, M2, ..., or another model in its ``models`` folder.
        repository: ``owner/name``.
        results: Summary of the run.

    Raises:
        RunError: The run has no such model, or it is not what its stage wrote.
        ModelError: See `cream.models.publishing.prepare_upload`.
    """
    run = RunReader(root)
    folder, made = root / "models" / model, run.maker(model)
    if made is None or not folder.is_dir():
        there = sorted(p.name for p in (root / "models").glob("[!.]*") if p.is_dir())
        raise RunError(
            f"{root} has no model {model}; it has {', '.join(there) or 'none'} (M0 is "
            "the seed model, which the run only reads)"
        )
    refuse_damaged_model(folder)
    recipe = run.recipe
    card = model_card(made, recipe, recipe.model.name, results=results, repository=repository)
    return prepare_upload(folder, card, repository)
