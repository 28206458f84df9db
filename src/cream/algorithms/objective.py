"""What an objective is: what it needs of an example, what it is given, what it returns.

An objective maps the examples of a micro-batch to one loss per example. It neither reduces nor
knows of models: the training runs the sequences it names through the model and divides by the
examples, or the loss tokens, of the whole step. The formulas are in `cream.algorithms.objectives`;
an objective of the user's is an `Objective` like those, given to `cream.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

Place = Literal["last", "tokens"]
"""Where hidden states are read: after the last token of a sequence, or after each of its tokens."""

PerExample = Float[Tensor, " example"]

LayerHook = Callable[[int, Tensor], Tensor]
"""Called after each decoder layer with its index and the residual stream, ``(token, hidden)`` or
``(row, token, hidden)``; what it returns goes on. It may keep what it is given, not write to it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What of an example an objective reads. An example that lacks any of it is an error."""

    scored: tuple[str, ...]
    """Roles whose loss tokens get log-probabilities."""
    read: tuple[str, ...] = ()
    """Roles that run through the model for their hidden states alone."""
    optional: tuple[str, ...] = ()
    """Those of the roles above that an example may lack (see `SequenceInputs.present`)."""
    references: tuple[str, ...] = ()
    """Roles whose log-prob sums under the loss reference are read."""
    columns: tuple[str, ...] = ()
    """Columns of the example."""
    token_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Token columns, by role."""
    start_logps: bool = False
    """Whether the log-probabilities of the policy before the first step are read."""
    hidden: Mapping[str, Place] = field(default_factory=dict)
    """Where the last hidden states are read, by role."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that run through the model, in the order in which they are laid out."""
        return (*self.scored, *self.read)

    def __or__(self, other: Needs) -> Needs:
        """What is needed for both; a role is optional if neither demands it."""
        scored = _union(self.scored, other.scored)
        roles = _union(self.roles, other.roles)
        demanded = {r for n in (self, other) for r in n.roles if r not in n.optional}
        named = _union(tuple(self.token_columns), tuple(other.token_columns))
        return Needs(
            scored,
            tuple(role for role in roles if role not in scored),
            tuple(role for role in roles if role not in demanded),
            _union(self.references, other.references),
            _union(self.columns, other.columns),
            {
                role: _union(self.token_columns.get(role, ()), other.token_columns.get(role, ()))
                for role in named
            },
            self.start_logps or other.start_logps,
            {**self.hidden, **other.hidden},
        )


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


@dataclass(frozen=True, slots=True)
class SequenceInputs:
    """The sequences of one role; row i belongs to example i, and is empty where it has none."""

    mask: Bool[Tensor, "example token"]
    """Loss tokens: where log-probabilities stand. False everywhere for a role merely read."""
    token_logps: Float[Tensor, "example token"]
    """Log-probabilities of the loss tokens under the model in training, nats; 0 elsewhere."""
    present: Bool[Tensor, " example"]
    """Whether the example has a sequence of this role."""
    reference_logps: Float[Tensor, " example"] | None = None
    """Sums over the loss tokens under the loss reference, nats; 0 where not `present`."""
    start_token_logps: Float[Tensor, "example token"] | None = None
    """`token_logps` as they were before the first step of the stage."""
    token_columns: Mapping[str, Float[Tensor, "example token"]] = field(default_factory=dict)
    """By name; entry i judges token i; 0 beyond the end."""
    hidden: Float[Tensor, "example hidden"] | Float[Tensor, "example token hidden"] | None = None
    """Last hidden states at the place that was asked for; 0 where there is no token."""

    def examples(self, kept: Bool[Tensor, " example"]) -> SequenceInputs:
        """The same for some of the examples."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[kept]

        return SequenceInputs(
            self.mask[kept],
            self.token_logps[kept],
            self.present[kept],
            some(self.reference_logps),
            some(self.start_token_logps),
            {name: values[kept] for name, values in self.token_columns.items()},
            some(self.hidden),
        )

    @property
    def logps(self) -> PerExample:
        """Sum over the loss tokens."""
        return self.token_logps.sum(-1)

    @property
    def lengths(self) -> PerExample:
        """Number of loss tokens."""
        return self.mask.sum(-1).to(self.token_logps.dtype)


@dataclass(frozen=True, slots=True)
class ObjectiveInputs:
    """What an objective looks at: the examples of one micro-batch."""

    sequences: Mapping[str, SequenceInputs]
    columns: Mapping[str, PerExample] = field(default_factory=dict)
    auxiliary: Mapping[str, nn.Module] = field(default_factory=dict)
    """The objective's own modules (`Objective.auxiliary`), as they are at this step."""

    def __getitem__(self, role: str) -> SequenceInputs:
        """The sequences of a role."""
        return self.sequences[role]

    def examples(self, kept: Bool[Tensor, " example"]) -> ObjectiveInputs:
        """The same for some of the examples."""
        return ObjectiveInputs(
            {role: sequences.examples(kept) for role, sequences in self.sequences.items()},
            {name: column[kept] for name, column in self.columns.items()},
            self.auxiliary,
        )


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """A module of the objective itself, trained beside the model and never exported with it.

    Its gradient is clipped apart from the model's, so that neither scales the other's step.
    """

    module: nn.Module
    """Float32; its parameters, initial values included, are part of the objective."""
    learning_rate: float
    """Peak, > 0; it follows the schedule of the training."""
    weight_decay: float = 0.0
    """Decoupled, on all its parameters, >= 0."""
    max_grad_norm: float = 1.0
    """Norm of its gradient above which that is scaled down, > 0."""


ModulesHook = Callable[[Mapping[str, nn.Module]], LayerHook]
"""The objective's own modules, as they are at this step, to a hook behind every layer."""


def _nothing(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
    return {}


def _no_modules(hidden_size: int) -> Mapping[str, Auxiliary]:
    return {}


def _no_warnings(metrics: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss with everything it needs. Holds no state: its modules are made anew per training."""

    name: str
    """Shown in messages and recorded in the run."""
    fingerprint: str
    """A text that changes whenever what it computes changes."""
    needs: Needs
    loss: Callable[[ObjectiveInputs], PerExample]
    """One value per example, with gradient. It is called again on shifted log-probabilities, to
    tell a gradient from rounding (`cream.algorithms.resolution`), so it must keep no state."""
    normalised_by: Literal["example", "token"] = "example"
    """What the sum of a step's losses is divided by: its examples, or its loss tokens."""
    metrics: Callable[[ObjectiveInputs], Mapping[str, PerExample]] = _nothing
    """Values per example without gradient, by name; NaN where an example has none. The mean of a
    step is over those that have one."""
    auxiliary: Callable[[int], Mapping[str, Auxiliary]] = _no_modules
    """Its own modules by name, given the model's hidden size. Random initial values come from the
    seed of the training."""
    warnings: Callable[[Sequence[Mapping[str, float]]], tuple[str, ...]] = _no_warnings
    """What a user should hear about, one sentence each, given the metrics of all steps."""
    hook: ModulesHook | None = None
    """Its own modules to what stands behind every layer of the policy in training, or None. What
    it does to the layers is not part of the model that is saved."""

    def __add__(self, other: Objective) -> Objective:
        """The sum of both losses, as one objective.

        Raises:
            ValueError: They are normalised by different things.
        """
        if self.normalised_by != other.normalised_by:
            raise ValueError(
                f"{self.name} is normalised by {self.normalised_by}, {other.name} by "
                f"{other.normalised_by}; their losses cannot be added"
            )
        return Objective(
            self.name,
            f"{self.fingerprint} + {other.fingerprint}",
            self.needs | other.needs,
            lambda i: self.loss(i) + other.loss(i),
            self.normalised_by,
            lambda i: {**self.metrics(i), **other.metrics(i)},
            lambda size: {**self.auxiliary(size), **other.auxiliary(size)},
            lambda metrics: (*self.warnings(metrics), *other.warnings(metrics)),
            _one_after_the_other(self.hook, other.hook),
        )


def _one_after_the_other(one: ModulesHook | None, other: ModulesHook | None) -> ModulesHook | None:
    if one is None or other is None:
        return one or other

    def both(modules: Mapping[str, nn.Module]) -> LayerHook:
        first, second = one(modules), other(modules)
        return lambda layer, states: second(layer, first(layer, states))

    return both


def reference_of(sequence: SequenceInputs) -> PerExample:
    """Sums under the loss reference, of a role that the objective's `Needs.references` name."""
    assert sequence.reference_logps is not None
    return sequence.reference_logps


def start_of(sequence: SequenceInputs) -> Float[Tensor, "example token"]:
    """Log-probabilities before the first step, for an objective that needs them."""
    assert sequence.start_token_logps is not None
    return sequence.start_token_logps
