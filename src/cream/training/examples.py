"""Examples as batches, and a batch's log-probabilities and hidden states as objective inputs.

Sequences that share a prompt share a row where the layout allows it; a sequence with a prompt of
its own is a further row of its example. All rows of an example are in one micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cream.algorithms.objective import Needs, Objective, ObjectiveInputs, SequenceInputs
from cream.errors import DataError
from cream.training.batches import Row, TokenBatch, lay_out
from cream.types import Example, TokenSequence

ABSENT = -1
"""Place of a sequence that an example does not have."""


def completion_example(
    example_id: str, prompt_token_ids: tuple[int, ...], token_ids: tuple[int, ...]
) -> Example:
    """A prompt with the completion that fine-tuning imitates."""
    return Example(example_id, prompt_token_ids, {"completion": TokenSequence(token_ids)})


def pair_example(
    example_id: str,
    prompt_token_ids: tuple[int, ...],
    chosen: TokenSequence,
    rejected: TokenSequence,
    *,
    consistency: float = 1.0,
    weight: float = 1.0,
) -> Example:
    """A preference pair with its C: 1 trusts the order fully, 0.5 not at all."""
    return Example(
        example_id,
        prompt_token_ids,
        {"chosen": chosen, "rejected": rejected},
        {"consistency": consistency},
        weight,
    )


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """How the sequences that an objective needs are laid out in rows."""

    needs: Needs
    shared: bool
    """Whether sequences of one prompt stand in one row."""

    def roles(self, example: Example) -> tuple[str, ...]:
        """Roles of an example that run through the model."""
        return tuple(role for role in self.needs.roles if role in example.sequences)

    def rows(self, example: Example) -> list[tuple[str, ...]]:
        """Roles of each row of an example."""
        roles = self.roles(example)
        if not self.shared:
            return [(role,) for role in roles]
        by_prompt: dict[tuple[int, ...], list[str]] = {}
        for role in roles:
            by_prompt.setdefault(example.prompt_of(role), []).append(role)
        return [tuple(together) for together in by_prompt.values()]

    def row_lengths(self, example: Example) -> list[int]:
        """Tokens of each row of an example."""
        return [
            len(example.prompt_of(roles[0]))
            + sum(len(example.sequences[role].token_ids) for role in roles)
            for roles in self.rows(example)
        ]

    def shape(self, example: Example) -> tuple[int, int]:
        """Rows of an example, and tokens of the longest of them."""
        lengths = self.row_lengths(example)
        return len(lengths), max(lengths)

    def loss_tokens(self, example: Example) -> int:
        """Tokens of an example that get log-probabilities."""
        given = (self._loss_mask(example, role) for role in self.roles(example))
        return sum(map(sum, given))

    def batch(self, examples: Sequence[Example]) -> ExampleBatch:
        """Lay examples out: the first row of every example, then the second ones, and so on."""
        rows: list[Row] = []
        places = {role: [ABSENT] * len(examples) for role in self.needs.roles}
        laid = [self.rows(example) for example in examples]
        filled = 0
        for rank in range(max(map(len, laid))):
            for i, (example, row) in enumerate(zip(examples, laid, strict=True)):
                if rank >= len(row):
                    continue
                for role in row[rank]:
                    places[role][i] = filled
                    filled += 1
                rows.append(self._row(example, row[rank]))
        tokens = lay_out(rows)
        at = {role: torch.tensor(place) for role, place in places.items()}
        return ExampleBatch(examples, self.needs, _with_states(tokens, self.needs, at), at)

    def _row(self, example: Example, roles: tuple[str, ...]) -> Row:
        return Row(
            example.prompt_of(roles[0]),
            tuple(example.sequences[role].token_ids for role in roles),
            tuple(self._loss_mask(example, role) for role in roles),
        )

    def _loss_mask(self, example: Example, role: str) -> tuple[bool, ...]:
        sequence = example.sequences[role]
        if role not in self.needs.scored:
            return (False,) * len(sequence.token_ids)
        return sequence.loss_mask or (True,) * len(sequence.token_ids)


def _with_states(
    tokens: TokenBatch, needs: Needs, places: Mapping[str, Int64[Tensor, " example"]]
) -> TokenBatch:
    """Ask for the hidden states that are needed, role by role and example by example."""
    rows, positions = [], []
    for role, place in needs.hidden.items():
        for k in places[role][places[role] != ABSENT].tolist():
            start, length = int(tokens.completion_starts[k]), int(tokens.lengths[k])
            wanted = range(start + length - 1 if place == "last" else start, start + length)
            positions += wanted
            rows += [int(tokens.completion_rows[k])] * len(wanted)
    return replace(
        tokens,
        state_rows=torch.tensor(rows, dtype=torch.long),
        state_positions=torch.tensor(positions, dtype=torch.long),
    )


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Examples as rows, with the place of each of their sequences among the completions."""

    examples: Sequence[Example]
    needs: Needs
    tokens: TokenBatch
    places: Mapping[str, Int64[Tensor, " example"]]
    """By role; `ABSENT` where an example has no such sequence."""

    def to(self, device: torch.device) -> ExampleBatch:
        """Return the batch on a device."""
        places = {role: place.to(device) for role, place in self.places.items()}
        return replace(self, tokens=self.tokens.to(device), places=places)

    def inputs(
        self,
        token_logps: Float[Tensor, " target"],
        states: Float[Tensor, "state hidden"] | None = None,
        start: Mapping[str, Sequence[Tensor]] | None = None,
        auxiliary: Mapping[str, nn.Module] | None = None,
    ) -> ObjectiveInputs:
        """What the objective looks at.

        Args:
            token_logps: Of every target of `tokens`.
            states: At every state place of `tokens`.
            start: Per role and example the log-probabilities of its loss tokens before the first
                step; read where the objective needs them.
            auxiliary: The objective's own modules.
        """
        table = self.tokens.table(token_logps)
        hidden = {} if states is None else self._hidden(states.float())
        return ObjectiveInputs(
            {
                role: self._sequences(role, table, hidden.get(role), (start or {}).get(role))
                for role in self.needs.roles
            },
            {
                name: self._column([e.columns[name] for e in self.examples])
                for name in self.needs.columns
            },
            auxiliary or {},
        )

    def loss_token_logps(
        self, token_logps: Float[Tensor, " target"]
    ) -> dict[str, list[Float[Tensor, " token"]]]:
        """Per role and example the log-probabilities of its loss tokens, without padding."""
        table = self.tokens.table(token_logps)
        return {
            role: [
                table[k][self.tokens.mask[k]] if k != ABSENT else table[:0, 0]
                for k in place.tolist()
            ]
            for role, place in self.places.items()
        }

    @property
    def weights(self) -> Float[Tensor, " example"]:
        """Factor on the loss of each example."""
        return self._column([example.weight for example in self.examples])

    def _sequences(
        self,
        role: str,
        table: Float[Tensor, "completion token"],
        hidden: Tensor | None,
        start: Sequence[Tensor] | None,
    ) -> SequenceInputs:
        place = self.places[role]
        present = place != ABSENT
        mask, values = self.tokens.mask[place], table[place]
        if not present.all():
            mask, values = mask & present[:, None], values * present[:, None]
        given = [example.sequences.get(role) for example in self.examples]
        reference = None
        if role in self.needs.references:
            reference = self._column([0.0 if s is None else _reference(s) for s in given])
        before = None
        if start is not None:
            before = torch.zeros_like(values).masked_scatter(mask, torch.cat(list(start)))
        columns = {
            name: self._token_column(given, name, width=mask.shape[1])
            for name in self.needs.token_columns.get(role, ())
        }
        return SequenceInputs(mask, values, present, reference, before, columns, hidden)

    def _hidden(self, states: Float[Tensor, "state hidden"]) -> dict[str, Tensor]:
        """By role the states at its place, 0 where there is no token."""
        found, used = {}, 0
        for role, place in self.needs.hidden.items():
            lengths = self._lengths(role)
            wanted = lengths.clamp_max(1) if place == "last" else lengths
            count = int(wanted.sum())
            width = 1 if place == "last" else self.tokens.mask.shape[1]
            exists = torch.arange(width, device=lengths.device) < wanted[:, None]
            table = states.new_zeros(*exists.shape, states.shape[1])
            table = table.masked_scatter(exists[..., None], states[used : used + count])
            found[role] = table[:, 0] if place == "last" else table
            used += count
        return found

    def _lengths(self, role: str) -> Int64[Tensor, " example"]:
        place = self.places[role]
        return torch.where(place == ABSENT, 0, self.tokens.lengths[place])

    def _token_column(
        self, given: Sequence[TokenSequence | None], name: str, *, width: int
    ) -> Float[Tensor, "example token"]:
        rows = [() if sequence is None else sequence.token_columns[name] for sequence in given]
        padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.float32, device=self.tokens.mask.device)

    def _column(self, values: list[float]) -> Float[Tensor, " example"]:
        return torch.tensor(values, dtype=torch.float32, device=self.tokens.mask.device)


def _reference(sequence: TokenSequence) -> float:
    """The sum under the loss reference; NaN, which no loss survives, where there is none."""
    return math.nan if sequence.reference_logps is None else sequence.reference_logps


def require(examples: Sequence[Example], needs: Needs, *, objective: str) -> None:
    """Check that examples have what an objective needs.

    An example without one of the optional sequences is compared with nothing and needs no sum under
    the loss reference.

    Raises:
        DataError: One lacks a sequence, a column or a reference; which, and for which objective.
    """
    for example in examples:
        missing = _missing(example, needs)
        if missing is not None:
            raise DataError(
                f"training example {example.example_id!r} has no {missing}, which the objective "
                f"{objective} needs. Give it, or take another objective."
            )


def _missing(example: Example, needs: Needs) -> str | None:
    whole = all(role in example.sequences for role in needs.roles)
    for role in needs.roles:
        sequence = example.sequences.get(role)
        if sequence is None:
            if role not in needs.optional:
                return f"sequence {role!r}"
            continue
        if whole and role in needs.references and sequence.reference_logps is None:
            return f"log-probability of {role!r} under the loss reference"
        for name in needs.token_columns.get(role, ()):
            if name not in sequence.token_columns:
                return f"token column {name!r} of {role!r}"
    absent = [name for name in needs.columns if name not in example.columns]
    return f"column {absent[0]!r}" if absent else None


def usable(
    examples: Sequence[Example], objective: Objective, max_length: int
) -> tuple[list[Example], dict[str, int]]:
    """The examples that can be trained on, and how many are not, by why.

    Raises:
        DataError: None is left.
    """
    layout = BatchLayout(objective.needs, shared=False)
    short = [e for e in examples if max(layout.row_lengths(e)) <= max_length]
    kept = [e for e in short if _trains(layout, e, objective)]
    if not kept:
        raise DataError(
            f"none of {len(examples)} training examples has tokens in every sequence and at most "
            f"{max_length} of them with its prompt (max_length, or the model's context). Raise "
            "max_length, or look at where they come from: the seed data, or the tally of the "
            "pairing stage."
        )
    return kept, {"too_long": len(examples) - len(short), "empty": len(short) - len(kept)}


def _trains(layout: BatchLayout, example: Example, objective: Objective) -> bool:
    """Whether no sequence is empty and, where tokens are averaged over, one of them counts."""
    if not all(example.sequences[role].token_ids for role in layout.roles(example)):
        return False
    return objective.normalised_by == "example" or layout.loss_tokens(example) > 0
