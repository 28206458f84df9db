"""Methods: each decides from its options and an iteration number what that iteration does.

A module of this package is a family of methods and lists its classes in ``METHODS``; there is no
other list. See ``docs/methods/`` for equations and sources.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from cream.recipe.base import Section
from cream.recipe.parts import MethodParts
from cream.recipe.scorers import TextScorerConfig


class MethodSection(Section):
    """The section ``method`` of a recipe: the options of one method, and the parts they make."""

    name: Any
    """Which method; each class allows one name."""

    def parts(self, t: int) -> MethodParts:
        """What iteration t (M_t -> M_{t+1}, t >= 1) reads and does.

        Raises:
            RecipeError: The options cannot be met at this t.
        """
        raise NotImplementedError

    @property
    def scorer(self) -> TextScorerConfig | None:
        """The judge or reward model that the method ranks by, if it does."""
        return None

    @property
    def scorer_section(self) -> str:
        """Where in a recipe the settings of `scorer` stand."""
        return f"method.{self.scorer.column}" if self.scorer else "method"


def _declared() -> tuple[type[MethodSection], ...]:
    families = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    methods = [method for family in families for method in family.METHODS]
    return tuple(sorted(methods, key=lambda method: method.model_fields["name"].default))


METHODS = _declared()
"""Every method that a recipe can name, by name."""


def _from_name(value: Any) -> Any:
    """``method: cream`` is short for ``method: {name: cream}``."""
    return {"name": value} if isinstance(value, str) else value


if TYPE_CHECKING:
    MethodConfig = MethodSection
else:
    MethodConfig = Annotated[
        Annotated[reduce(or_, METHODS), Field(discriminator="name")], BeforeValidator(_from_name)
    ]
    """``name`` decides which options may follow."""
