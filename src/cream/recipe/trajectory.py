"""Trajectories in a recipe: the phrases by which they are cut, and what an action is credited with.

The rules are in `cream.algorithms.trajectories` and `cream.algorithms.action_advantages`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cream.algorithms.trajectories import Grammar
from cream.recipe.base import Section, usual
from cream.recipe.policy_gradient import Advantage, RewardKl

NonBlank = Annotated[str, Field(pattern=r"\S")]


class Phrases(Section):
    """What opens a check and another try, and how a check says its verdict; in any language."""

    recheck: NonBlank = "Wait, let me recheck my solution."
    """Opens a check. In a solution that begins a line or stands anywhere; white space within it
    does not matter, case does."""
    retry: NonBlank = "Let me try again."
    """Opens another solution, after a check."""
    correct: list[NonBlank] = Field(default=["the answer is correct"], min_length=1)
    """By which a check says that the answer before it is right; case does not matter."""
    incorrect: list[NonBlank] = Field(default=["the answer is incorrect"], min_length=1)
    """By which it says that the answer is wrong. A check that says both, or neither, is unread."""
    joint: str = Field(default="\n\n", pattern=r"^\s*$")
    """White space that `cream data trajectories` writes between parts, and after each phrase."""
    confirm: NonBlank = "Therefore, the answer is correct."
    """What `cream data trajectories` writes as the check of a right answer; ``{answer}`` is what
    was extracted."""
    reject: NonBlank = "Therefore, the answer is incorrect."
    """The same of a wrong answer."""

    @property
    def grammar(self) -> Grammar:
        """The rule by which completions are cut and checks are read."""
        return Grammar(self.recheck, self.retry, tuple(self.correct), tuple(self.incorrect))

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Phrases:
        grammar = self.grammar
        if any(pattern.search(a) for pattern in grammar.opening.values() for a in self._said):
            raise ValueError("a phrase of a verdict holds `recheck` or `retry`, which would cut it")
        if grammar.opening["solve"].search(self.retry) or grammar.opening["verify"].search(
            self.recheck
        ):
            raise ValueError("`recheck` and `retry` must differ, and neither may hold the other")
        if grammar.verdict(self.recheck)[1] != "missing":
            raise ValueError("`recheck` says a verdict, so that every check would have one")
        for name, text, says in (
            ("confirm", self.confirm, True),
            ("reject", self.reject, False),
        ):
            if grammar.verdict(text)[0] is not says:
                phrases = " or ".join(self.correct if says else self.incorrect)
                raise ValueError(f"`{name}` must say {phrases!r}, and nothing of the other kind")
        return self

    @property
    def _said(self) -> tuple[str, ...]:
        return (*self.correct, *self.incorrect, self.confirm, self.reject)


class Credit(Section):
    """What outcome and process level have in common."""

    including_own: bool = False
    """Whether the mean that is the baseline holds an action's own reward too (S2R's paper), so that
    one that is alone has no advantage; else it is of the others."""
    beta: float = Field(default=0.0, ge=0)
    """Divergence from ``training.loss_reference`` that an action pays, without gradient and after
    the baseline: factor on the sum over its tokens of log pi - log ref, nats. S2R: 0.05, from M1
    (``loss_reference: sft``)."""
    truncated: Literal["minus_one", "drop", "keep"] = "minus_one"
    """Of a completion cut off at the token limit: its outcome, or its last action, gets -1; it is
    left out; it counts like others."""

    @property
    def kl(self) -> RewardKl | None:
        """The divergence in the words of `Advantage`."""
        return RewardKl(place="advantage", beta=self.beta) if self.beta else None


class OutcomeCredit(Credit):
    """Every token is credited with the last answer: +1 right, -1 wrong."""

    level: Literal["outcome"] = "outcome"
    baseline: Literal["loo", "none"] = "loo"
    """What is taken off: the mean of the samples of the prompt, or nothing."""

    @property
    def advantage(self) -> Advantage:
        """The same rule in the words of `Advantage`."""
        mean = "group_mean" if self.including_own else "leave_one_out"
        alike = self.baseline == "none" or self.beta > 0
        return Advantage(
            truncated="drop" if self.truncated == "drop" else "keep",
            baseline="none" if self.baseline == "none" else mean,
            without_variance="keep" if alike else "drop",
            kl=self.kl,
        )


class ProcessCredit(Credit):
    """Every action is credited with its own answer or verdict: +1 right, -1 wrong."""

    level: Literal["process"] = "process"
    baseline: Literal["context", "position", "loo", "none"] = "context"
    """Mean reward of which actions is taken off: those of the iteration with the same rewards
    before them, at the same position, those at the same position of the prompt's samples, or none.
    An action that is alone there is compared with its position, then with its kind."""
    bonus: float = Field(default=1.0, ge=1)
    """Factor on the advantage of checks of right answers, and of solutions that differ in being
    right from the one before; the reference code has 2."""
    separator_credit: Literal["own", "none"] = "own"
    """Tokens of the phrases are part of the action that they open, or not trained on."""
    unparsed: Literal["minus_one", "incorrect"] = "minus_one"
    """A check without one verdict is wrong, or is read as "incorrect"."""
    max_rounds: int | None = Field(default=None, ge=1)
    """Solutions that are allowed; later actions get -1. null: any number."""

    @property
    def advantage(self) -> Advantage:
        """What of the rule concerns whole samples."""
        return Advantage(
            truncated="drop" if self.truncated == "drop" else "keep",
            baseline="none",
            without_variance="keep",
            kl=self.kl,
        )


AnyCredit = Annotated[
    Annotated[OutcomeCredit | ProcessCredit, Field(discriminator="level")],
    usual("level", "process"),
]
"""``credit: outcome`` is short for ``credit: {level: outcome}``."""


class Trajectory(Section):
    """How completions are read as trajectories, and what their actions are worth."""

    phrases: Phrases
    credit: AnyCredit

    @property
    def per_action(self) -> bool:
        """Whether each action has an advantage of its own."""
        return isinstance(self.credit, ProcessCredit)

    @property
    def read_by(self) -> dict[str, Any]:
        """What decides how completions are cut and their answers found."""
        return self.phrases.model_dump(mode="json", exclude={"joint", "confirm", "reject"})

    @property
    def rewarded_by(self) -> dict[str, Any]:
        """What decides the rewards beside it."""
        deciding = {"level", "truncated", "unparsed", "max_rounds"}
        return self.credit.model_dump(mode="json", include=deciding)
