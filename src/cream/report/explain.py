"""Why one prompt got its pair, or none: everything the store knows about it. Loads no model.

Rewards and rankings are computed again from the score matrix by the same code that decided; the
pair, its C and the outcome are read from what was stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from rich.console import Console
from rich.text import Text

from cream.data.snapshot import read_prompts, read_seed
from cream.errors import RunError
from cream.recipe import Recipe
from cream.recipe.load import validate_recipe
from cream.recipe.pairing import Penalise
from cream.recipe.parts import VERIFIER, Agreement, MethodParts
from cream.records import Count, Record
from cream.report.table import Table, figure, terminal
from cream.report.terminal import printable
from cream.runs.files import read_table, read_yaml
from cream.runs.plan import RECIPE, read_plan
from cream.runs.store import DONE, Run
from cream.runs.tables import LOGP_PREFIX, matrix_from_tables
from cream.stages.layout import Layout
from cream.types import Origin, Prompt

Question = Literal["consistency", "pair", "reward"]
SHOWN_IDS = 5
"""How many prompt ids an error names."""
VERDICTS = {1.0: "right", 0.0: "wrong"}
OUTCOMES: Mapping[str, str] = {
    "paired": "it has a pair",
    "single": "it has fewer than two completions",
    "all_duplicates": "all completions have the same tokens",
    "unscored": "fewer than two distinct completions have a reward",
    "truncated": "fewer than two distinct completions are left once truncated ones are dropped "
    "(raise sampling.max_completion_tokens, or see method.pairing.truncated)",
    "tied": "no two rewards differ by more than the noise of scoring",
    "below_min_gap": "no gap of rewards reaches method.pairing.min_gap",
    "no_majority": "the most voted answer has too small a share (method.pairing.min_share)",
    "below_half": "C is below 1/2, and method.below_half drops such pairs",
    "witness_disagrees": "the witness orders the pair the other way, and method.filter drops it",
    "witness_silent": "the witness has no order for the pair, and method.filter drops it",
}
"""What an outcome says about a prompt."""
UNDEFINED: Mapping[str, str] = {
    "single": "fewer than two distinct completions count",
    "unscored": "fewer than two completions have a value in both rankings",
    "first_tied": "all completions are tied in the first ranking",
    "second_tied": "all completions are tied in the second ranking",
    "": "no two rankings were compared",
}
"""Why two rankings of a prompt cannot be compared."""


class Turn(Record):
    """One turn of a prompt."""

    role: str
    content: str


class ExplainedCompletion(Record):
    """A completion of the prompt, in stored order."""

    completion_id: str
    text: str
    num_tokens: Count
    figures: dict[str, float | None]
    """Log-probability sums per model, and each ranking's values, nats."""
    ranks: dict[str, float | None]
    """In each ranking; 1 is best."""
    notes: list[str]


class ExplainedPair(Record):
    """A pair of the prompt."""

    chosen_id: str
    rejected_id: str
    chosen_reward: float
    rejected_reward: float
    consistency: float
    weight: float


class Explanation(Record):
    """What a run knows about one prompt."""

    question: Question
    prompt_id: str
    iteration: Annotated[int, Field(ge=1)]
    method: str
    prompt: list[Turn]
    answer: str | None
    completions: list[ExplainedCompletion]
    outcome: str
    correlation: float | None
    pairs: list[ExplainedPair]
    words: list[str]


@dataclass(frozen=True)
class _Place:
    """A prompt in the score matrix of an iteration."""

    t: int
    prompt_id: str
    rows: pa.Table
    """Its rows of the score matrix."""
    layout: Layout
    index: int
    """Its group."""


def explain(question: Question, root: Path, prompt: str, t: int | None) -> Explanation:
    """What the store knows about one prompt.

    Args:
        question: What the words are about; the figures are the same but for the rankings shown.
        root: Run directory.
        prompt: Id of the prompt, or the beginning of one.
        t: Iteration; None for the first that has the prompt.

    Raises:
        RunError: No run, no pairs yet, or no such prompt (close ones are named).
    """
    if not (root / RECIPE).exists():
        raise RunError(f"{root} holds no run (no {RECIPE})")
    recipe = validate_recipe(read_yaml(root / RECIPE), source=str(root / RECIPE))
    t, prompt_id = find_prompt(root, recipe.iterations, prompt, t)
    parts = read_plan(root).parts[t]
    place = _place(root, parts, t, prompt_id)
    decided = _only(read_table(root / f"iteration-{t}/pair/prompts.parquet"), prompt_id)[0]
    stored = _only(read_table(root / f"iteration-{t}/pair/pairs.parquet"), prompt_id)
    pairs = [ExplainedPair(**{k: v for k, v in row.items() if k != "prompt_id"}) for row in stored]
    compared = parts.agreement or parts.reported
    told = _prompt(root, parts, t, prompt_id)
    return Explanation(
        question=question,
        prompt_id=prompt_id,
        iteration=t,
        method=recipe.method.name,
        prompt=[Turn(role=m.role, content=m.content) for m in told.messages],
        answer=told.answer,
        completions=_completions(place, parts, compared if question != "reward" else None),
        outcome=decided["outcome"],
        correlation=decided["correlation"],
        pairs=pairs,
        words=_words(question, recipe, parts, place, decided, pairs),
    )


def find_prompt(root: Path, iterations: int, prompt: str, t: int | None) -> tuple[int, str]:
    """Iteration and whole id of the one prompt that `prompt` means.

    Raises:
        RunError: None, or several. The ids that are meant or close are named.
    """
    wanted = range(1, iterations + 1) if t is None else [t]
    paired = [i for i in wanted if (root / f"iteration-{i}/pair" / DONE).exists()]
    if not paired:
        which = "no iteration" if t is None else f"iteration {t}"
        raise RunError(f"{root}: {which} has pairs yet; `cream status {root}` shows what is done")
    known: dict[str, int] = {}
    for i in reversed(paired):
        table = read_table(root / f"iteration-{i}/pair/prompts.parquet", ["prompt_id"])
        known |= dict.fromkeys(table["prompt_id"].to_pylist(), i)
    if prompt in known:
        return known[prompt], prompt
    matches = sorted(key for key in known if key.startswith(prompt)) if prompt else []
    if len(matches) == 1:
        return known[matches[0]], matches[0]
    if matches:
        raise RunError(f"{len(matches)} prompts begin with {prompt!r}: {_some(matches)}")
    close = difflib.get_close_matches(prompt, known, n=SHOWN_IDS, cutoff=0.5)
    hint = f"close: {_some(close)}" if close else f"there are: {_some(sorted(known))}"
    raise RunError(f"no prompt {prompt!r} in iteration {', '.join(map(str, paired))}; {hint}")


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN_IDS])
    return f"{shown}, ..." if len(ids) > SHOWN_IDS else shown


def _rows_of(table: pa.Table, prompt_id: str) -> pa.Table:
    return table.filter(pa.array([key == prompt_id for key in table["prompt_id"].to_pylist()]))


def _only(table: pa.Table, prompt_id: str) -> list[dict[str, Any]]:
    return _rows_of(table, prompt_id).to_pylist()


def _place(root: Path, parts: MethodParts, t: int, prompt_id: str) -> _Place:
    stage = Run(root).finished(f"iteration-{t}/matrix")
    tables = list(stage.tables())
    names = tables[0].column_names
    matrix = matrix_from_tables(
        tables,
        [name.removeprefix(LOGP_PREFIX) for name in names if name.startswith(LOGP_PREFIX)],
        [name for name in dict.fromkeys((*parts.score_columns, VERIFIER)) if name in names],
        parts.label_columns,
    )
    table = pa.concat_tables(tables)
    rows = _rows_of(table, prompt_id)
    index = matrix.prompt_ids.tolist().index(prompt_id)
    return _Place(t, prompt_id, rows, Layout(matrix, parts.pairing, parts.reward), index)


def _prompt(root: Path, parts: MethodParts, t: int, prompt_id: str) -> Prompt:
    if parts.prompts == "seed":
        prompts = [e.prompt for e in read_seed(root / "data/seed/part-00000.parquet")]
    else:
        prompts = list(read_prompts(root / f"data/prompts-{t}/part-00000.parquet"))
    return next(prompt for prompt in prompts if prompt.prompt_id == prompt_id)


def _completions(
    place: _Place, parts: MethodParts, compared: Agreement | None
) -> list[ExplainedCompletion]:
    """The group's completions in stored order, with log-probs, reward and ranks."""
    layout, index = place.layout, place.index
    counted = (layout.usable & layout.groups.distinct)[index]
    quantities = dict.fromkeys([parts.reward])
    if compared is not None:
        quantities |= dict.fromkeys([compared.first, compared.second])
    values = {str(q): layout.quantity(q).values[index] for q in quantities}
    ranks = {name: ranks_of(column, counted) for name, column in values.items()}
    found = []
    for member, row in enumerate(place.rows.to_pylist()):
        logps = {name: row[name] for name in row if name.startswith(LOGP_PREFIX)}
        found.append(
            ExplainedCompletion(
                completion_id=row["completion_id"],
                text=row["text"],
                num_tokens=row["num_tokens"],
                figures=logps | {name: _finite(column[member]) for name, column in values.items()},
                ranks={name: column[member] for name, column in ranks.items()},
                notes=_notes(place, row, member),
            )
        )
    return found


def _notes(place: _Place, row: Mapping[str, Any], member: int) -> list[str]:
    notes = [VERDICTS[row[VERIFIER]]] if row.get(VERIFIER) in VERDICTS else []
    notes += ["duplicate"] if not place.layout.groups.distinct[place.index, member] else []
    notes += ["truncated"] if place.layout.truncated[place.index, member] else []
    notes += [f"origin {row['origin']}"] if row["origin"] != Origin.POLICY else []
    return notes


def ranks_of(values: np.ndarray, counted: np.ndarray) -> list[float | None]:
    """Rank of each value among those that count, 1 the highest, ties their mean rank; else None."""
    usable = counted & ~np.isnan(values)
    known = values[usable]
    return [
        1 + float((known > value).sum()) + (float((known == value).sum()) - 1) / 2
        if takes_part
        else None
        for value, takes_part in zip(values.tolist(), usable.tolist(), strict=True)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _words(
    question: Question,
    recipe: Recipe,
    parts: MethodParts,
    place: _Place,
    decided: Mapping[str, Any],
    pairs: Sequence[ExplainedPair],
) -> list[str]:
    match question:
        case "reward":
            return _reward_words(parts, place)
        case "consistency":
            return _consistency_words(recipe, parts, decided, pairs)
        case "pair":
            return _pair_words(parts, place, decided, pairs)


def _reward_words(parts: MethodParts, place: _Place) -> list[str]:
    reward = place.layout.quantity(parts.reward)
    noise = np.nanmax(reward.noise[place.index], initial=0.0)
    lines = [f"ranked by {parts.reward}: higher is better, rank 1 is best"]
    if noise:
        lines.append(f"values that differ by no more than {noise:.2g} (noise of scoring) are tied")
    if isinstance(parts.pairing.truncated, Penalise):
        lines.append(f"a truncated completion has paid {parts.pairing.truncated.penalty:g} of it")
    return [*lines, "no rank: a duplicate, truncated where these are dropped, or without a value"]


def _consistency_words(
    recipe: Recipe,
    parts: MethodParts,
    decided: Mapping[str, Any],
    pairs: Sequence[ExplainedPair],
) -> list[str]:
    spec = parts.agreement or (parts.reported if recipe.scoring.report_consistency else None)
    if spec is None:
        return [f"method {recipe.method.name} compares no rankings"]
    lines = [f"compared: {spec.first} and {spec.second}, by {spec.statistic}"]
    value, reason = decided["correlation"], decided["definedness"]
    if value is None:
        lines.append(f"no value: {UNDEFINED[reason]}")
    elif spec.statistic == "top_order":
        lines.append(f"C of this prompt: {value:.3f}")
    else:
        lines.append(
            f"tau {value:+.3f}, so C of this prompt is (tau + 1) / 2 = {(value + 1) / 2:.3f}"
        )
    if parts.agreement is None:
        return [*lines, f"method {recipe.method.name} reports C and trusts every pair fully"]
    levels = {"set": "the mean over prompts", "sample": "by prompt", "pair": "by pair"}
    level = f"{levels[parts.agreement.level_name]} (level {parts.agreement.level_name})"
    if not pairs:
        return [*lines, f"C in the loss is {level}; this prompt has no pair: {_why(decided)}"]
    shown = ", ".join(f"{pair.consistency:.3f}" for pair in pairs)
    return [*lines, f"C in the loss, {level}: {shown}"]


def _pair_words(
    parts: MethodParts,
    place: _Place,
    decided: Mapping[str, Any],
    pairs: Sequence[ExplainedPair],
) -> list[str]:
    lines = [f"pairing: {parts.pairing.rule} by {parts.reward}"]
    number = {key: i for i, key in enumerate(place.rows["completion_id"].to_pylist(), start=1)}
    for pair in pairs:
        gap = pair.chosen_reward - pair.rejected_reward
        lines.append(
            f"chosen #{number[pair.chosen_id]} ({pair.chosen_reward:.3f}), rejected "
            f"#{number[pair.rejected_id]} ({pair.rejected_reward:.3f}): gap {gap:.3f}, "
            f"C {pair.consistency:.3f}, weight {pair.weight:.3f}"
        )
    return lines if pairs else [*lines, f"no pair: {_why(decided)}"]


def _why(decided: Mapping[str, Any]) -> str:
    return OUTCOMES[decided["outcome"]]


SHOWN_CHARACTERS = 300
"""Of a completion on the terminal; `--json` has the whole text."""


def print_explanation(console: Console, told: Explanation) -> None:
    """Print what `cream explain` found about a prompt."""
    title = f"prompt {told.prompt_id}, iteration {told.iteration}, method {told.method}"
    console.print(Text(printable(title), style="bold"))
    for message in told.prompt:
        console.print(Text(f"{message.role}: {printable(message.content)}"), soft_wrap=True)
    if told.answer is not None:
        console.print(Text(f"answer: {printable(told.answer)}"), soft_wrap=True)
    for number, row in enumerate(told.completions, start=1):
        notes = f" ({', '.join(row.notes)})" if row.notes else ""
        text = printable(row.text, limit=SHOWN_CHARACTERS)
        console.print(Text(f"#{number}{notes}: {text}"), soft_wrap=True)
    console.print(terminal(figures_table(told.completions)))
    for line in told.words:
        console.print(Text(printable(line)), soft_wrap=True)


def figures_table(completions: Sequence[ExplainedCompletion]) -> Table:
    """Log-probs, values and ranks of a prompt's completions."""
    names = tuple(completions[0].figures)
    rows = [
        (f"#{number}", *(_ranked(row, name) for name in names), str(row.num_tokens))
        for number, row in enumerate(completions, start=1)
    ]
    title = "figures, nats; in brackets the rank, 1 is best"
    return Table(title, ("", *names, "tokens"), tuple(rows))


def _ranked(row: ExplainedCompletion, name: str) -> str:
    words, rank = figure(row.figures[name], ".3f"), row.ranks.get(name)
    return words if rank is None else f"{words} ({rank:g})"
