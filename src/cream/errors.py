"""Everything Cream raises on purpose. One root, one category per kind of remedy.

Every message answers three questions: what was wrong, where, and what to do about it. The command
line prints the message alone (no traceback) and exits with the category's `exit_code`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CreamError(Exception):
    """Root of all errors that a user can do something about."""

    exit_code = 1


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: whoever works keeps what is whole and leaves. No error, and no fault.

    Not KeyboardInterrupt, which typer turns into an exit code that varies by version.
    """


class RecipeError(CreamError):
    """The recipe is not valid: unknown key, wrong type or range, contradicting options."""

    exit_code = 2


class DataError(CreamError):
    """Input data cannot be used: missing file, malformed line, duplicates, leakage."""

    exit_code = 2


class ModelError(CreamError):
    """A model, tokenizer or adapter cannot be used as given."""

    exit_code = 2


class RunError(CreamError):
    """A run directory cannot be used: other recipe, missing stage, changed input, no space."""

    exit_code = 2


class DependencyError(CreamError):
    """An optional package that this recipe needs is not installed."""

    exit_code = 2


class BusyMachineError(CreamError):
    """Other processes use the cores, so what is measured now would not mean anything."""

    exit_code = 3


class BenchmarkError(CreamError):
    """What was to be timed did not do the same work, or could not be run."""


class EngineError(CreamError):
    """The engine that samples in a process of its own failed, or was silent for too long."""


class TallyError(CreamError):
    """The parts of a tally do not add up to its total: a bug in a stage, never the user's fault."""


class TrainingError(CreamError):
    """Training cannot go on, for example because the loss is not finite."""


class NotFiniteError(TrainingError):
    """What a model computed is NaN or infinite: logits, a loss, or a gradient.

    Attributes:
        batch: What it was computed from, JSON values: ids of its items and their tokens.
    """

    def __init__(self, message: str, batch: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.batch)
