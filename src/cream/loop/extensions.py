"""What a user may bring to a run in Python: a method, an objective, a verifier, a sampler, scorers.

Each is one object of a class that the user writes; nothing has to be inherited or registered. An
object cannot be looked into, so it must say by its ``fingerprint`` what it is: a text that changes
whenever what it decides changes. The fingerprint is an input of the stages that use the object, so
an interrupted run goes on only with the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cream.algorithms.objective import Objective
from cream.algorithms.preference import PAIR
from cream.engines.texts import TextScorer
from cream.errors import RecipeError
from cream.protocols import OwnSampler, Transform, Verifier
from cream.recipe import Recipe
from cream.recipe.columns import BUILT_IN_COLUMNS
from cream.recipe.methods.custom import CustomMethod
from cream.recipe.parts import MethodParts


@runtime_checkable
class Method(Protocol):
    """Decides how pairs are made and trained on, iteration by iteration. See `MethodParts`."""

    name: str
    """Shown in messages and recorded in the run."""
    fingerprint: str

    def parts(self, t: int) -> MethodParts:
        """Parts of iteration t >= 1 (M_t to M_{t+1}); the same for the same t."""
        ...


@runtime_checkable
class OwnVerifier(Verifier, Protocol):
    """Checks completions of prompts whose source says ``verifier: custom``."""

    fingerprint: str


@runtime_checkable
class OwnScorer(TextScorer, Protocol):
    """Fills a score column; a method reads it with ``ScoreQuantity(column=...)``."""

    fingerprint: str


@runtime_checkable
class OwnTransform(Transform, Protocol):
    """Makes training examples of the pairs; a method names it by ``transform=...`` in its parts."""

    fingerprint: str


@dataclass(frozen=True)
class Extensions:
    """The objects of one run; empty for a recipe alone."""

    method: Method | None = None
    verifier: OwnVerifier | None = None
    sampler: OwnSampler | None = None
    scorers: Mapping[str, OwnScorer] = field(default_factory=dict)
    """By the name of the column that each fills."""
    objective: Objective | None = None
    """Trains on the pairs in place of the method's."""
    transforms: Mapping[str, OwnTransform] = field(default_factory=dict)
    """By the name that a method gives each."""

    def __post_init__(self) -> None:
        for place, thing in self._named().items():
            text = getattr(thing, "fingerprint", None)
            if not isinstance(text, str) or not text:
                raise RecipeError(
                    f"{place} ({type(thing).__name__}) has no `fingerprint`; give it a text that "
                    "changes whenever what it decides changes"
                )
        for name in self.scorers:
            if not name.isidentifier() or name in BUILT_IN_COLUMNS or name.startswith("logp"):
                raise RecipeError(
                    f"scorers: {name!r} cannot name a score column; choose a name of letters, "
                    f"digits and underscores other than {', '.join(BUILT_IN_COLUMNS)}"
                )

        if self.objective is not None and not self.transforms:
            _refuse_unknown_sequences(self.objective)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Per object its fingerprint, for the manifest."""
        return {place: thing.fingerprint for place, thing in self._named().items()}

    def recorded(self, recipe: Recipe) -> Recipe:
        """The recipe with the user's method, if there is one, in place of its own."""
        if self.method is None:
            return recipe
        method = CustomMethod(label=self.method.name, fingerprint=self.method.fingerprint)
        return recipe.model_copy(update={"method": method})

    def parts(self, recipe: Recipe, t: int) -> MethodParts:
        """Parts of iteration t: of the user's method, else of the recipe's."""
        return recipe.parts(t, self.method)

    def refuse_missing_transform(self, parts: MethodParts) -> None:
        """A transform that a method names must be there before anything runs.

        Raises:
            RecipeError: It is not among those given.
        """
        if parts.transform is not None and parts.transform not in self.transforms:
            given = ", ".join(self.transforms) or "none"
            raise RecipeError(
                f"the method's parts name the transform {parts.transform!r}, and cream.run was "
                f"given {given}; give it as transforms={{{parts.transform!r}: ...}}"
            )

    def sampler_inputs(self) -> dict[str, str]:
        """What a stage that samples depends on, beside the model; empty without a sampler."""
        return {} if self.sampler is None else {"sampler": self.sampler.fingerprint}

    def _named(self) -> dict[str, Any]:
        single = {
            "method": self.method,
            "objective": self.objective,
            "verifier": self.verifier,
            "sampler": self.sampler,
        }
        given = {name: thing for name, thing in single.items() if thing is not None}
        given |= {f"scorers.{name}": scorer for name, scorer in self.scorers.items()}
        return given | {f"transforms.{name}": one for name, one in self.transforms.items()}


def _refuse_unknown_sequences(objective: Objective) -> None:
    """The examples of a run are its pairs; what those lack is missed now, not after sampling."""
    needs = objective.needs
    wanted = [role for role in needs.roles if role not in (*PAIR, *needs.optional)]
    wanted += [f"{name} of {role}" for role, names in needs.token_columns.items() for name in names]
    if wanted:
        raise RecipeError(
            f"objective {objective.name} reads {', '.join(wanted)}, and the training examples of "
            f"this run are pairs: {' and '.join(PAIR)}, without token columns"
        )
