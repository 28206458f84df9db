"""Preference degree as a section beside any objective over pairs (SPO, arXiv 2409.17791)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cream.recipe.likelihood import AddingSection
from cream.recipe.model import NonBlank

if TYPE_CHECKING:
    from cream.algorithms.objective import Objective
    from cream.types import AddedTokens

Side = Literal["chosen", "rejected"]


class PreferenceDegree(AddingSection):
    """Tell from the policy's states how much of its key content an answer lost."""

    key: ClassVar[str] = "degree"

    gamma: float = Field(default=0.1, gt=0)
    """Weight of the cross-entropy, > 0."""
    degrees: int = Field(default=4, ge=2, le=10)
    """K: versions of an answer, the whole one among them."""
    ceiling: float = Field(default=1.0, gt=0, le=1)
    """Share of the phrases that the last version lacks, in (0, 1]."""
    sides: list[Side] = Field(default=["chosen", "rejected"], min_length=1, max_length=2)
    """Whose versions are read."""
    replace: Literal["delete", "filler"] = "delete"
    """What becomes of a removed phrase. ``delete`` is SPO's, and the length then tells the degree;
    ``filler`` puts a word in the place of each."""
    filler: NonBlank = "something"
    """That word."""
    removal: Literal["key_phrases", "random_words"] = "key_phrases"
    """``random_words`` removes as many words, drawn: what is left of the result is no sign of key
    content. A control."""
    versions: Literal["sampled", "all"] = "sampled"
    """``sampled``: one version per side and pair, drawn uniformly, the same in every epoch.
    ``all``: all K, at K times the tokens."""
    shared_head: bool = False
    """One head for both sides instead of one each."""
    stop_gradient: bool = False
    """Train the heads and leave the model alone: a probe, which measures what the objective beside
    it teaches anyway."""
    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the heads, > 0; it follows the schedule of the training."""
    head_weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of the heads, >= 0; separable data have no finite optimum."""
    stop_words: Literal["english"] | tuple[NonBlank, ...] = "english"
    """Words that part phrases: the built-in list, or your own, lower case."""
    min_share: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of the pairs of which a version can be made; fewer stop the run."""

    @property
    def added_tokens(self) -> AddedTokens:
        """See `AddingSection`: so many more answers, in the pair's own row."""
        from cream.types import AddedTokens

        each = self.degrees if self.versions == "all" else 1
        return AddedTokens(completions=float(len(set(self.sides)) * each))

    def build(self) -> Objective:
        """The term as an objective, to be added to another."""
        from cream.algorithms.degree import preference_degree

        return preference_degree(
            self.model_dump_json(),
            gamma=self.gamma,
            degrees=self.degrees,
            sides=tuple(dict.fromkeys(self.sides)),
            shared_head=self.shared_head,
            stop_gradient=self.stop_gradient,
            learning_rate=self.head_learning_rate,
            weight_decay=self.head_weight_decay,
        )
