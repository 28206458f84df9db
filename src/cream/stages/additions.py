"""Pairs to training examples with the further sequences that options of an objective read.

Each option says of each pair what it adds, or why nothing (`cream.protocols.Addition`); the pair is
trained on either way, and the reasons are counted per option.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cream.errors import DataError
from cream.protocols import Addition, TextEncoder
from cream.recipe.degree import PreferenceDegree
from cream.recipe.likelihood import AddingSection
from cream.recipe.scir import Scir
from cream.records import ADDED
from cream.stages.degrees import Degrees
from cream.stages.verdicts import Verdicts
from cream.training.examples import pair_example
from cream.types import Added, Example, RankedPair, Tally, TokenSequence


@dataclass(frozen=True, slots=True)
class Extended:
    """The examples of an iteration's pairs, and what each option did to them."""

    examples: list[Example]
    """In the order of the pairs."""
    tallies: Mapping[str, Tally]
    """By the name of the option."""
    figures: Mapping[str, Mapping[str, float | None]]
    """Likewise; see `cream.protocols.Addition.figures`."""


def extend_pairs(
    pairs: Sequence[RankedPair], additions: Sequence[Addition], encoder: TextEncoder
) -> Extended:
    """The example of each pair with what every option adds to it.

    Raises:
        DataError: Two options add the same sequence or column.
        RunError: Too few pairs got what an option needs.
    """
    examples = [_plain(pair) for pair in pairs]
    tallies = {}
    for option in additions:
        added = [option.add(pair, encoder) for pair in pairs]
        counts = Counter(one.reason or ADDED for one in added)
        parts = {ADDED: counts.pop(ADDED, 0), **dict(sorted(counts.items()))}
        tallies[option.name] = Tally(len(pairs), parts)
        examples = [
            _with(example, _kept(option, pair, one))
            for example, pair, one in zip(examples, pairs, added, strict=True)
        ]
    figures = {option.name: option.figures(examples) for option in additions}
    return Extended(examples, tallies, figures)


def _plain(pair: RankedPair) -> Example:
    return pair_example(
        pair.pair_id,
        pair.prompt_token_ids,
        TokenSequence(pair.chosen.token_ids, pair.chosen_reference),
        TokenSequence(pair.rejected.token_ids, pair.rejected_reference),
        consistency=pair.consistency,
        weight=pair.weight,
    )


def _kept(option: Addition, pair: RankedPair, added: Added) -> Added:
    """What is added, the columns that the option takes from the pair among it."""
    missing = [name for name in option.columns if name not in pair.columns]
    if missing:
        raise DataError(
            f"{option.name} reads {missing[0]} of pair {pair.pair_id}, which has no such value"
        )
    columns = {name: pair.columns[name] for name in option.columns}
    return replace(added, columns={**columns, **added.columns})


def _with(example: Example, added: Added) -> Example:
    twice = example.sequences.keys() & added.sequences.keys()
    twice |= {n for n, v in added.columns.items() if example.columns.get(n, v) != v}
    if twice:
        raise DataError(f"two options of the objective add {', '.join(sorted(twice))}")
    return replace(
        example,
        sequences={**example.sequences, **added.sequences},
        columns={**example.columns, **added.columns},
    )


def addition_of(
    section: AddingSection, *, seed: int, special: Sequence[str], policy: str
) -> Addition:
    """What makes the sequences of an option.

    Args:
        section: As it stands in the recipe.
        seed: For options that draw.
        special: How special tokens are spelled; a text that spells one is shown to no judge.
        policy: M_t.

    Raises:
        ValueError: There is nothing for it here.
    """
    match section:
        case PreferenceDegree():
            return Degrees(section, seed=seed)
        case Scir():
            return Verdicts(special=special, policy=policy)
        case _:
            raise ValueError(f"{type(section).__name__} adds nothing")
