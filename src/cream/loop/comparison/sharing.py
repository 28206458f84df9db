"""What members of a comparison make once: stages of equal fingerprints, with their models.

A member takes a stage over where another one of the same seed has finished it (`cream.runs.sharing`
says how), and makes it otherwise. Members therefore need no order and no common store, and each is
an ordinary run directory. See ``docs/decisions/0012-shared-stages.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cream.loop.card import model_card
from cream.loop.context import Context
from cream.models.saving import CARD
from cream.runs.sharing import is_untouched, lendable, take_folder, take_stage
from cream.runs.store import Run, Stage


def borrower(
    context: Context, lenders: Sequence[Run], taken: Counter[Path]
) -> Callable[[Stage], None]:
    """Make what `Context.borrow` calls for each stage that this run names.

    Args:
        context: The run that takes.
        lenders: The runs that it takes from, in the order in which they are asked.
        taken: Counts the stages taken, by the folder of the run that they were taken from.
    """

    def borrow(stage: Stage) -> None:
        if not is_untouched(stage):
            return
        for lender in lenders:
            found = lendable(stage, lender)
            if found is not None and _take_model(context, stage, lender):
                take_stage(stage, found, lender)  # the finished mark comes last
                taken[lender.root] += 1
                return

    return borrow


def _take_model(context: Context, stage: Stage, lender: Run) -> bool:
    """Take the model that a stage made, if it made one; False if the lender has removed it."""
    name = stage.spec.result
    if name is None:
        return True
    source = lender.root / "models" / name
    if not source.exists():
        return False
    card = model_card(name, context.recipe, context.shelf.seed_name)
    take_folder(source, context.shelf.path(name), {CARD: card})
    return True
