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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cream.data.snapshot import prompts_from_table, seed_from_table
from cream.errors import RunError
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import DONE, GIVEN, Run
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, pairs_from_table
from cream.types import FinishReason, Prompt

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
    summary: Mapping[str, Any]
    """Of the pair stage."""
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
    run, t = Run(root), iteration or last_paired(root)
    _refuse_given_objective(run, t)
    paired = run.finished(f"iteration-{t}/pair")
    pairs = pairs_from_table(read_table(paired.folder / "pairs.parquet"))
    if not len(pairs):
        raise RunError(f"iteration {t} of {root} has no pairs to export; `cream status` tells why")
    wanted = {*pairs.chosen_ids.tolist(), *pairs.rejected_ids.tolist()}
    completions = _completions(run, t, wanted)
    prompts = _prompts(run, t)
    rows = [
        _row(prompts[prompt_id], completions[chosen], completions[rejected])
        | {
            "pair_id": f"{chosen}>{rejected}",
            "consistency": consistency,
            "weight": weight,
            "margin": chosen_reward - rejected_reward,
            "chosen_reward": chosen_reward,
            "rejected_reward": rejected_reward,
        }
        for prompt_id, chosen, rejected, chosen_reward, rejected_reward, consistency, weight in zip(
            pairs.prompt_ids.tolist(),
            pairs.chosen_ids.tolist(),
            pairs.rejected_ids.tolist(),
            pairs.chosen_reward.tolist(),
            pairs.rejected_reward.tolist(),
            pairs.consistency.tolist(),
            pairs.weight.tolist(),
            strict=True,
        )
    ]
    record = paired.finished()
    assert record is not None  # `finished` of the run has just read it
    return ExportedPairs(_table(rows), t, record.summary, None)


def _refuse_given_objective(run: Run, t: int) -> None:
    """What was trained on the pairs is known to its author only; no other trainer has it."""
    name = f"iteration-{t}/train"
    if not (run.root / name / DONE).exists():
        return
    objective = run.finished(name).inputs.get("objective")
    if isinstance(objective, Mapping) and GIVEN in objective:
        raise RunError(
            f"iteration {t} of {run.root} trained under the objective {objective[GIVEN]!r}, which "
            "was given in Python: pairs exported for another trainer would stand for another "
            "loss. Read them with cream.open_run instead"
        )


def flip(pairs: ExportedPairs, *, seed: int) -> ExportedPairs:
    """Turn the order of each pair with probability 1 - C, drawn from the seed and the pair's id.

    Everything that has two sides changes sides, ``margin`` its sign; ``flipped`` tells which rows.

    Raises:
        RunError: The method weighs its pairs; a plain trainer would ignore the weights, and the
            mean over flips would be another loss.
    """
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
    return ExportedPairs(_table(flipped), pairs.iteration, pairs.summary, sum(turned))


def is_flipped(consistency: float, pair_id: str, *, seed: int) -> bool:
    """Draw whether a pair is turned: probability 1 - `consistency`, independent of other pairs."""
    draw = np.random.default_rng(derive_seed(seed, "flip", pair_id)).random()  # in [0, 1)
    return bool(draw >= consistency)


def last_paired(root: Path) -> int:
    """The last iteration whose pairs are finished.

    Raises:
        RunError: There is none.
    """
    found = [
        int(path.parents[1].name.removeprefix("iteration-"))
        for path in root.glob(f"iteration-*/pair/{DONE}")
    ]
    if not found:
        raise RunError(f"{root} holds no finished pairs; `cream status {root}` shows what it holds")
    return max(found)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = {"chosen": "rejected", "rejected": "chosen"}
    result = dict(row)
    for key in row:
        side, _, rest = key.partition("_")
        if side in sides:
            other = sides[side]
            result[key] = row[f"{other}_{rest}" if rest else other]
    return result | {"margin": -row["margin"]}


def _row(prompt: Prompt, chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "chosen": [{"role": "assistant", "content": chosen["text"]}],
        "rejected": [{"role": "assistant", "content": rejected["text"]}],
        "prompt_id": prompt.prompt_id,
        "task": prompt.task,
        **{f"chosen_{name}": value for name, value in chosen.items() if name != "text"},
        **{f"rejected_{name}": value for name, value in rejected.items() if name != "text"},
    }


def _completions(run: Run, t: int, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Text, truncation and scores of the completions named, by id."""
    found = {}
    for table in run.finished(f"iteration-{t}/matrix").tables():
        scores = [
            name
            for name, kind in zip(table.column_names, table.schema.types, strict=True)
            if name not in _NO_SCORE and _is_score(name, kind)
        ]
        columns = ["completion_id", "text", "finish_reason", "num_tokens", *scores]
        for row in table.select(columns).to_pylist():
            if row["completion_id"] in wanted:
                found[row["completion_id"]] = {
                    "text": row["text"],
                    "truncated": row["finish_reason"] == str(FinishReason.LENGTH),
                    "tokens": row["num_tokens"],
                    **{name: _absent_as_none(row[name]) for name in scores},
                }
    return found


def _is_score(name: str, kind: pa.DataType) -> bool:
    return name.startswith(LOGP_PREFIX) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _absent_as_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _prompts(run: Run, t: int) -> dict[str, Prompt]:
    """Prompts that the iteration may have answered: its own, and those of the seed examples."""
    own = prompts_from_table(pa.concat_tables(run.finished(f"data/prompts-{t}").tables()))
    examples = seed_from_table(pa.concat_tables(run.finished("data/seed").tables()))
    return {p.prompt_id: p for p in (*(example.prompt for example in examples), *own)}


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist([dict(row) for row in rows])
    for name in ("prompt", "chosen", "rejected"):
        place = table.column_names.index(name)
        table = table.set_column(place, pa.field(name, _TURNS), table[name].cast(_TURNS))
    return table
