"""Running the members of a comparison: all are checked, then all go on, iteration by iteration.

Members of one seed advance together, so that a model which the next stage of another member would
share is still there when `keep_checkpoints: last` removes it from the first. The order decides only
who makes a shared stage; killed at any time, the same members go on from what they hold.

A stage of equal fingerprint is made once, with its model: a member takes it over where another one
of the same seed has finished it (`cream.runs.sharing` says how). Members therefore need no common
store, and each is an ordinary run directory. See ``docs/decisions/0012-shared-stages.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import final

from cream.comparison.members import ComparisonPlan, PlannedMember
from cream.data.dataset import LoadedData
from cream.errors import CreamError, RunError
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.iterations import run_iteration
from cream.models.saving import CARD
from cream.preflight.opening import DiskNeed, check_run, claim_run, disk_need, refuse_full_disk
from cream.protocols import Progress
from cream.runs.files import remove_leftovers, write_sealed
from cream.runs.sharing import (
    COMPARISON,
    Comparers,
    MethodFolder,
    is_untouched,
    lendable,
    take_folder,
    take_stage,
)
from cream.runs.store import Run, Stage


@final
class MemberProgress:
    """A `Progress` that says whose stage it is."""

    def __init__(self, inner: Progress, label: str) -> None:
        """Take what shows progress, and the member in words."""
        self._inner, self._label = inner, label

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Show a stage of this member that begins."""
        self._inner.start(f"{self._label}: {stage}", total, unit, done)

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """Pass on."""
        self._inner.advance(count, live)

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """Pass on."""
        self._inner.advance_to(done, total, live)

    def finish(self, result: str = "") -> None:
        """Pass on."""
        self._inner.finish(result)

    def note(self, text: str) -> None:
        """Say whom a note is about."""
        self._inner.note(f"{self._label}: {text}")


def run_comparison(
    plan: ComparisonPlan,
    progress: Progress,
    *,
    base_dir: Path,
    cache_dir: Path,
    accept_changes: bool = False,
) -> None:
    """Run everything that the members do not hold yet.

    Args:
        plan: Who takes part.
        progress: Shows what happens.
        base_dir: Folder that relative data paths start from.
        cache_dir: Where the embedded model is, or will be fetched to.
        accept_changes: See `cream.preflight.opening.open_context`.

    Raises:
        CreamError: A member cannot run (it is named, and nothing has run), or a stage failed.
    """
    with Run(plan.root).locked():
        _claim(plan)
        check = partial(
            check_run, base_dir=base_dir, cache_dir=cache_dir, accept_changes=accept_changes
        )
        with _opened(plan.members, progress, check) as contexts:
            refuse_full_disk(plan.root, _disk_need(contexts))
            for context in contexts:
                claim_run(context)
            for _, group in groupby(contexts, key=lambda context: context.recipe.seed):
                _run_seed(list(group))


def _run_seed(contexts: Sequence[Context]) -> None:
    """Members of one seed: all of them before the loop, then all of them in iteration 1, ..."""
    for t in range(contexts[0].recipe.iterations + 1):
        for context in contexts:
            taken: Counter[Path] = Counter()
            lenders = [other.run for other in contexts if other is not context]
            context.borrow = borrower(context, lenders, taken)
            run_iteration(context, t)
            context.checkpoints.release()
            for place, count in taken.items():
                context.progress.note(f"{count} stages shared with {place}")


@contextmanager
def _opened(
    members: Sequence[PlannedMember], progress: Progress, check: Callable[..., Context]
) -> Iterator[list[Context]]:
    """All members checked and held against other processes; nothing is recorded or loaded."""
    contexts: list[Context] = []
    loaded: dict[int, LoadedData] = {}
    with ExitStack() as stack:
        for place, member in enumerate(members, start=1):
            run, seed = Run(Path(member.recipe.folder)), member.recipe.seed
            stack.enter_context(run.locked())
            label = f"{place}/{len(members)} {member.label}"
            try:
                context = check(
                    member.recipe, run, MemberProgress(progress, label), data=loaded.get(seed)
                )
            except CreamError as error:
                raise type(error)(f"{member.label}: {error}") from error
            stack.callback(context.close)
            loaded[seed] = context.data
            contexts.append(context)
        yield contexts


def _claim(plan: ComparisonPlan) -> None:
    """Record who takes part. Methods and seeds may be added later, or left out."""
    root, members = plan.root, plan.members
    remove_leftovers(root)
    if not (root / COMPARISON).exists():
        strangers = sorted(path.name for path in root.iterdir() if path.name != ".lock")
        if strangers:
            raise RunError(
                f"{root} is not empty and holds no comparison (found {strangers[0]}); give --out a "
                "new folder"
            )
    methods = {member.choice.name: member.choice.folder for member in members}
    record = Comparers(
        name=plan.name,
        baseline=plan.baseline,
        seeds=list(dict.fromkeys(member.recipe.seed for member in members)),
        methods=[MethodFolder(name=name, folder=folder) for name, folder in methods.items()],
    )
    write_sealed(root / COMPARISON, record.as_json())


def _disk_need(contexts: Sequence[Context]) -> DiskNeed:
    """What all members write: the models before the loop once per seed, one training at a time."""
    missing = 0
    for _, members in groupby(contexts, key=lambda context: context.recipe.seed):
        group = list(members)
        lacking = sum(not context.checkpoints.path("M1").exists() for context in group)
        linked = max(lacking - 1, 0) if lacking == len(group) else lacking
        spared = linked * (1 + len(group[0].recipe.witnesses))
        missing += sum(disk_need(context).missing for context in group) - spared
    return DiskNeed(disk_need(contexts[0]).checkpoint, max(missing, 0))


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
            if found is not None and _take_model(context, stage, found):
                take_stage(stage, found, lender)  # the finished mark comes last
                taken[lender.root] += 1
                return

    return borrow


def _take_model(context: Context, stage: Stage, found: Stage) -> bool:
    """Take the model that a stage made, if it made one; False if the lender has removed it."""
    name = stage.spec.result
    if name is None or found.model_folder is None:
        return True
    if found.model_removed:
        return False
    found.check_model()
    card = model_card(stage.spec, context.recipe, context.checkpoints.seed_name)
    take_folder(found.model_folder, context.checkpoints.path(name), {CARD: card})
    return True
