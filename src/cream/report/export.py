"""The pairs of an iteration as a dataset that TRL's trainers read as it is.

One row per pair: ``prompt``, ``chosen`` and ``rejected`` as message lists (TRL's conversational
preference format), and beside them what Cream knows of the pair. Text, not token ids: another
trainer applies its own template, so a truncated completion gets an end of turn there that the
policy never sampled (``chosen_truncated``, ``rejected_truncated`` tell).

`flip` makes the same rows usable where no C is: a pair keeps its order with probability C. For a
plain DPO loss l(x) of the margin x, E[loss] = C l(x) + (1 - C) l(-x), which is CREAM's loss of the
pair (arXiv 2410.12735; `cream.algorithms.objectives.cream`), so the mean over flips is unbiased.
One draw per pair has variance, which the loss of CREAM itself does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cream.errors import RunError
from cream.pair_records import PairSummary
from cream.recipe import Recipe
from cream.recipe.objectives import ObjectiveConfig
from cream.records import Count, Rate, Record
from cream.report.ranked import Asked, read_asked
from cream.report.table import percent, share
from cream.report.training_rows import goals_of, refuse_given_objective, require_pairs, under_goals
from cream.runs.files import replacing_folder
from cream.runs.manifest import describe_environment, without_local_paths
from cream.runs.reader import PAIRS, FinishedStage, RunReader, rows_of
from cream.runs.seeds import derive_seed
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, NUM_TOKENS, pairs_from_table
from cream.stages.pair import UNANIMOUS
from cream.types import FinishReason, Tally

FileFormat = Literal["jsonl", "parquet"]

COLUMNS = """| column | meaning |
|---|---|
| `prompt`, `chosen`, `rejected` | lists of messages; the last two hold one assistant turn |
| `pair_id`, `prompt_id`, `task` | ids of the run, and the task of the prompt |
| `consistency` | C that the pair was trained with, in [0, 1]; 1 trusts the order fully |
| `weight` | factor on the loss of this pair |
| `margin` | reward gap, chosen minus rejected, in the unit of the reward |
| `chosen_reward`, `rejected_reward` | the quantity that picked the pair |
| `chosen_tokens`, `rejected_tokens` | length in tokens of the policy, end token included |
| `chosen_truncated`, `rejected_truncated` | cut off at the token limit |
| `chosen_logps_M*`, `rejected_logps_M*` | sum of token log-probabilities under that model, nats |
| `goal` | of runs that tell goals: two rows per pair, the second under the low goal, turned |
| other `chosen_*`, `rejected_*` | scores of the run, such as `verifier`; null where absent |
"""

PLAIN = """Order and C are apart here: a plain DPO trainer reads the three message columns and
trusts every pair fully (SRLM); a trainer that knows label smoothing takes 1 - `consistency`."""

FLIPPED = """Each pair was turned with probability 1 - C (`flipped`), so that a plain DPO trainer,
which knows no C, minimises the run's loss in expectation. For a turned row all `chosen_*` and
`rejected_*` have changed sides and `margin` its sign."""


class WrittenExport(Record):
    """What was written."""

    kind: Literal["trl", "flipped"]
    run: str
    """Run directory as given."""
    iteration: Annotated[int, Field(ge=1)]
    file: str
    """The data file."""
    card: str
    """The dataset card."""
    pairs: Annotated[int, Field(ge=1)]
    tally: Tally
    """Prompts of the iteration by outcome."""
    mean_consistency: Rate
    """Of the C that the pairs are trained with."""
    flipped: Count | None
    """Pairs that were turned; null for trl."""
    seed: Count | None
    """Of the flips; null for trl."""


_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_NO_SCORE = {*BASE_COLUMNS, "token_ids", "text", "seed", "origin", "sampling_logp"}
"""Columns of a score matrix that tell what a completion is, not how good."""


@dataclass(frozen=True, slots=True)
class ExportedPairs:
    """Rows of a preference dataset, and where they come from."""

    table: pa.Table
    """See the module; every score column of the matrix twice, as ``chosen_*`` and ``rejected_*``.
    ``margin`` is the reward gap, chosen minus rejected, in the unit of the reward."""
    iteration: int
    summary: PairSummary
    objective: ObjectiveConfig
    """That the run trained on them."""
    flipped: int | None
    """Pairs whose order was turned, or None if none was drawn."""


def export_pairs(root: Path, iteration: int | None) -> ExportedPairs:
    """Read the pairs of an iteration with their texts and scores; no model is loaded.

    Args:
        root: Run directory.
        iteration: t; None for the last one whose pairs are finished.

    Raises:
        RunError: No such run, its pairs are unfinished, there are none, or they were trained under
            an objective that was given in Python.
    """
    run = RunReader(root)
    require_pairs(run)
    t = iteration or last_paired(run)
    refuse_given_objective(run, t)
    objective = run.plan.parts[t].objective
    if not objective.orders_pairs:
        raise RunError(
            f"the pairs of iteration {t} of {root} are in a drawn order: objective "
            f"{objective.name} labels them anew at every step, and no other trainer has it"
        )
    paired = run.needed("pair", t)
    pairs = pairs_from_table(paired.file(PAIRS))
    if not len(pairs):
        raise RunError(f"iteration {t} of {root} has no pairs to export; `cream status` tells why")
    completions = _completions(run.needed("matrix", t), pairs.completion_ids)
    prompts = read_asked(run.asked(t))
    rows = [
        _row(
            pair.prompt_id,
            prompts[pair.prompt_id],
            completions[pair.chosen_id],
            completions[pair.rejected_id],
        )
        | {
            "pair_id": pair.pair_id,
            "consistency": _trained(objective, pair.consistency),
            "weight": pair.weight,
            "margin": pair.chosen_reward - pair.rejected_reward,
            "chosen_reward": pair.chosen_reward,
            "rejected_reward": pair.rejected_reward,
        }
        for pair in pairs.rows()
    ]
    goals = run.plan.parts[t].goals
    if goals is not None:
        turned = [_turned(row) for row in rows]
        rows = under_goals(rows, turned, goals, goals_of(run.needed("transform", t)))
    return ExportedPairs(_table(rows), t, paired.summary(PairSummary), objective, None)


def _trained(objective: ObjectiveConfig, stored: float) -> float:
    """C of the pair in the loss, wherever the objective has it from; 1 trusts the order fully."""
    trained = objective.trained_consistency(stored)
    return 1.0 if trained is None else trained


def flip(pairs: ExportedPairs, *, seed: int) -> ExportedPairs:
    """Turn the order of each pair with probability 1 - C, drawn from the seed and the pair's id.

    Everything that has two sides changes sides, ``margin`` its sign; ``flipped`` tells which rows.

    Raises:
        RunError: The run's loss of a pair is not C l(x) + (1 - C) l(-x), or the method weighs its
            pairs: the mean over flips would be another loss.
    """
    if "goal" in pairs.table.column_names:
        raise RunError(
            f"iteration {pairs.iteration} trained under goals; use `cream export trl`, two rows"
        )
    if not pairs.objective.is_mixture:
        terms = " and ".join(pairs.objective.terms)
        term = f" with {terms} beside it" if terms else ""
        raise RunError(
            f"iteration {pairs.iteration} trained by {pairs.objective.name}{term}, whose loss of a "
            "pair is no mixture of DPO on both orders, so flips would not stand for it; use "
            "`cream export trl`, which keeps C and weight as columns"
        )
    rows = pairs.table.to_pylist()
    if any(row["weight"] != 1.0 for row in rows):
        raise RunError(
            f"the pairs of iteration {pairs.iteration} carry weights, which a plain DPO trainer "
            "ignores, so flips of them would not stand for their loss; use `cream export trl`, "
            "which keeps the weights as a column"
        )
    turned = [is_flipped(row["consistency"], row["pair_id"], seed=seed) for row in rows]
    flipped = [
        (_turned(row) if turn else row) | {"flipped": turn}
        for row, turn in zip(rows, turned, strict=True)
    ]
    return replace(pairs, table=_table(flipped), flipped=sum(turned))


def is_flipped(consistency: float, pair_id: str, *, seed: int) -> bool:
    """Draw whether a pair is turned: probability 1 - `consistency`, independent of other pairs."""
    draw = np.random.default_rng(derive_seed(seed, "flip", pair_id)).random()  # in [0, 1)
    return bool(draw >= consistency)


def last_paired(run: RunReader) -> int:
    """The last iteration whose pairs are finished.

    Raises:
        RunError: There is none.
    """
    if not run.pairings:
        root = run.root
        raise RunError(f"{root} holds no finished pairs; `cream status {root}` shows what it holds")
    return max(run.pairings)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = {"chosen": "rejected", "rejected": "chosen"}
    result = dict(row)
    for key in row:
        side, _, rest = key.partition("_")
        if side in sides:
            other = sides[side]
            result[key] = row[f"{other}_{rest}" if rest else other]
    return result | {"margin": -row["margin"]}


@dataclass(frozen=True, slots=True)
class _Side:
    """A completion of a pair: its text, and columns that are named after the side."""

    text: str
    columns: Mapping[str, Any]


def _row(prompt_id: str, prompt: Asked, chosen: _Side, rejected: _Side) -> dict[str, Any]:
    return {
        "prompt": [turn.as_json() for turn in prompt.turns],
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "prompt_id": prompt_id,
        "task": prompt.task,
        **{f"chosen_{name}": value for name, value in chosen.columns.items()},
        **{f"rejected_{name}": value for name, value in rejected.columns.items()},
    }


def _completions(matrix: FinishedStage, wanted: set[str]) -> dict[str, _Side]:
    """Text, truncation and scores of the completions named, by id."""
    found = {}
    for table in matrix.tables():
        scores = [
            name
            for name, kind in zip(table.column_names, table.schema.types, strict=True)
            if name not in _NO_SCORE and _is_score(name, kind)
        ]
        names = ("completion_id", "text", "finish_reason", NUM_TOKENS, *scores)
        for key, text, reason, tokens, *values in rows_of(table, *names):
            if key in wanted:
                scored = zip(scores, map(_absent_as_none, values), strict=True)
                about = {"truncated": reason == str(FinishReason.LENGTH), "tokens": tokens}
                found[key] = _Side(text, {**about, **dict(scored)})
    return found


def _is_score(name: str, kind: pa.DataType) -> bool:
    return name.startswith(LOGP_PREFIX) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _absent_as_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist([dict(row) for row in rows])
    for name in ("prompt", "chosen", "rejected"):
        place = table.column_names.index(name)
        table = table.set_column(place, pa.field(name, _TURNS), table[name].cast(_TURNS))
    return table


def write_export(
    pairs: ExportedPairs, root: Path, out: Path, *, file_format: FileFormat, command: str, seed: int
) -> WrittenExport:
    """Write ``train.<format>`` and ``README.md`` into a new folder, whole or not at all.

    Args:
        pairs: What to write.
        root: Run directory that they come from.
        out: Folder that does not exist yet.
        file_format: Of the data file.
        command: What was given on the command line, for the card.
        seed: Of the flips; not used if nothing was flipped.

    Raises:
        RunError: `out` exists.
    """
    if out.exists():
        raise RunError(f"{out} exists already; remove it or choose another folder (--out)")
    name = f"train.{file_format}"
    with replacing_folder(out) as temporary:
        if file_format == "parquet":
            pq.write_table(pairs.table, temporary / name, compression="zstd")
        else:
            with (temporary / name).open("w", encoding="utf-8") as stream:
                for row in pairs.table.to_pylist():
                    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        card = dataset_card(pairs, RunReader(root).recipe, name, command, seed)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return WrittenExport(
        kind="trl" if pairs.flipped is None else "flipped",
        run=str(root),
        iteration=pairs.iteration,
        file=str(out / name),
        card=str(out / "README.md"),
        pairs=pairs.table.num_rows,
        tally=pairs.summary.tally,
        mean_consistency=fmean(pairs.table["consistency"].to_pylist()),
        flipped=pairs.flipped,
        seed=None if pairs.flipped is None else seed,
    )


def _left_out(summary: PairSummary, recipe: Recipe) -> list[str]:
    """What the run trained on beside the pairs, which no row of pairs can hold."""
    unanimous, replay = summary.tally.parts.get(UNANIMOUS, 0), recipe.training.replay
    found = [f"{unanimous} prompts whose completions all say the same"] if unanimous else []
    found += [f"seed examples, {100 * replay.share:g} % of each epoch"] if replay else []
    return [f"- Trained on beside these rows, and not among them: {'; '.join(found)}"] * bool(found)


def dataset_card(pairs: ExportedPairs, recipe: Recipe, name: str, command: str, seed: int) -> str:
    """Markdown that says what the rows are, how they were made, and with which command."""
    t, count = pairs.iteration, pairs.table.num_rows
    lines = [
        f"- {count} pairs of iteration {t}, from {pairs.summary.tally.total} prompts; the "
        f"completions are of M{t}, nobody labelled them",
        f"- Method: {recipe.method.name}; M0: {without_local_paths(recipe.model.name)}; "
        f"run seed {recipe.seed}; "
        f"Cream {describe_environment()['cream']}",
        f"- Objective of the run: {pairs.objective.name}"
        + ("" if pairs.objective.is_mixture else ", whose loss plain DPO on these rows is not"),
        f"- Mean C of the pairs: {fmean(pairs.table['consistency'].to_pylist()):.3f}",
        *_measured(pairs.summary),
        *_left_out(pairs.summary, recipe),
    ]
    if pairs.flipped is not None:
        share = 100 * pairs.flipped / count
        lines.append(f"- Turned: {pairs.flipped} of {count} ({share:.1f} %), seed {seed}")
    kind = "cream-pairs" if pairs.flipped is None else "cream-pairs, flipped"
    return f"""---
tags: [preference, dpo, trl, cream]
configs:
- config_name: default
  data_files: {name}
---

# {recipe.name}, iteration {t} ({kind})

Preference pairs in TRL's conversational format, made by Cream without preference labels.

{chr(10).join(lines)}

{PLAIN if pairs.flipped is None else FLIPPED}

Made with:

```sh
{command}
```

{COLUMNS}"""


def _measured(summary: PairSummary) -> list[str]:
    lines, rate, accuracy = [], summary.consistency, summary.pair_accuracy
    if rate:
        lines.append(
            f"- Consistency rate of the iteration: {rate.rate:.3f} [{rate.low:.3f}, "
            f"{rate.high:.3f}], {rate.n} prompts (95 % interval)"
        )
    if rate and rate.null and rate.null.estimate is not None:
        lines.append(f"- What it would be if the models were unrelated: {rate.null.estimate:.3f}")
    if accuracy.n:
        lines.append(
            f"- Right pairs: {percent(accuracy.accuracy)} of the {accuracy.n} that have "
            "exactly one correct completion by the verifier (read by method `oracle` only)"
        )
    if summary.chosen_right.n:
        lines.append(f"- Chosen completion right: {share(summary.chosen_right)} verified pairs")
    return lines
