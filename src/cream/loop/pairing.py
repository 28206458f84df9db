"""Making pairs from a stored score matrix: read the columns a method needs, decide, keep why.

Shared by the pair stage of a run and by `cream pair --from`, which needs no model and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cream.algorithms.answers import normalised
from cream.algorithms.pair_consistency import Calibration
from cream.errors import RunError
from cream.loop.pair_summary import summarise_pairs
from cream.pair_records import PairSummary
from cream.recipe.columns import EXTRACTED, VERIFIER
from cream.recipe.parts import Calibrated, MethodParts
from cream.runs.files import write_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage
from cream.runs.tables import (
    BASE_COLUMNS,
    LOGP_PREFIX,
    ORIGIN,
    matrix_from_tables,
    pairs_to_table,
)
from cream.stages.pair import UNANIMOUS, PromptTable, pair
from cream.stages.witnesses import SCORE_WITNESSES, calibrate
from cream.types import Origin, ScoreMatrix, counts

UNANIMOUS_FILE = "unanimous.parquet"
"""What unanimous groups say, one completion per prompt, where the method trains on it."""


def read_matrix(
    stage: Stage, parts: MethodParts, t: int, *, report_consistency: bool
) -> ScoreMatrix:
    """Read the columns of a matrix stage that a method needs, or that can be asked as a witness.

    Raises:
        RunError: A column that the method needs is missing; named, with the command that makes it.
    """
    reported = parts.reported_columns if report_consistency else ()
    logp_columns = tuple(dict.fromkeys((*parts.logp_columns, *reported, parts.model_at(t), "M0")))
    score_columns = tuple(dict.fromkeys((*parts.score_columns, VERIFIER)))
    label_columns = parts.label_columns
    names = pq.read_schema(stage.part(0)).names
    available = set(names)
    needed = [*(LOGP_PREFIX + name for name in logp_columns), *score_columns, *label_columns]
    missing = [name for name in needed if name not in available]
    if missing:
        raise RunError(
            f"{stage.folder} has no column {', '.join(missing)}, which this method reads; "
            "`cream score` with a recipe that names this method makes it (in a new run_dir)"
        )
    models = [n.removeprefix(LOGP_PREFIX) for n in names if n.startswith(LOGP_PREFIX)]
    logp_columns = tuple(dict.fromkeys((*logp_columns, *models)))
    score_columns = _with_available(score_columns, SCORE_WITNESSES, available)
    label_columns = _with_available(label_columns, (EXTRACTED,), available)
    wanted = [
        *BASE_COLUMNS,
        *(LOGP_PREFIX + name for name in logp_columns),
        *score_columns,
        *label_columns,
        *([ORIGIN] if parts.others or parts.editing else []),
    ]
    tables = list(stage.tables(wanted))
    if parts.advantage and parts.editing:  # edits were not drawn, so no gradient is their own
        drawn = [[o == Origin.POLICY for o in table[ORIGIN].to_pylist()] for table in tables]
        tables = [t.filter(pa.array(d, pa.bool_())) for t, d in zip(tables, drawn, strict=True)]
    return matrix_from_tables(tables, logp_columns, score_columns, label_columns)


def _with_available(
    needed: tuple[str, ...], others: Sequence[str], available: Set[str]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*needed, *(name for name in others if name in available))))


def make_pairs(
    folder: Path,
    matrix: ScoreMatrix,
    parts: MethodParts,
    t: int,
    *,
    seed: int,
    report_consistency: bool,
    calibration: Calibration | None = None,
) -> PairSummary:
    """Decide, write ``pairs.parquet`` and ``prompts.parquet`` to `folder`, return the summary.

    Raises:
        RunError: No prompt gave a pair; the reasons are counted.
    """
    generator = np.random.default_rng(derive_seed(seed, "pair", t))
    result = pair(
        matrix,
        parts,
        generator=generator,
        report_consistency=report_consistency,
        calibration=calibration,
    )
    if not len(result.pairs) and not len(result.agreed.prompt):
        reasons = counts(result.tally.parts)
        whose = f" of {parts.learner}" if parts.learner else ""
        raise RunError(
            f"iteration {t}{whose}: none of {result.tally.total} prompts gave a pair ({reasons}). "
            "Ties and duplicates: sample more completions or raise the temperature; below_min_gap: "
            "lower method.pairing.min_gap; truncated: raise sampling.max_completion_tokens; "
            "below_half: the rankings agree no more than chance, see method.below_half; "
            "witness_disagrees, witness_silent: see method.filter; no_majority: lower "
            "method.pairing.min_share"
        )
    write_table(folder / "pairs.parquet", pairs_to_table(result.pairs))
    write_table(folder / "prompts.parquet", _prompt_columns(result.prompts))
    if parts.paired_by.unanimous == "nll":
        agreed = result.agreed
        columns = {"prompt_id": agreed.prompt_ids, "completion_id": agreed.completion_ids}
        named = {name: pa.array(values, pa.string()) for name, values in columns.items()}
        write_table(folder / UNANIMOUS_FILE, pa.table(named))
    return summarise_pairs(
        parts,
        t,
        result,
        report=report_consistency,
        generator=np.random.default_rng(derive_seed(seed, "pair", t, "summary")),
        calibration=calibration,
    )


def outcome_in_words(summary: PairSummary) -> str:
    """One line about the pairs of an iteration."""
    words = f"{summary.tally.parts['paired']} pairs of {summary.tally.total} prompts"
    if summary.unanimous is not None:
        words += f", {summary.tally.parts[UNANIMOUS]} unanimous"
        if summary.unanimous.share is not None:
            words += f" ({100 * summary.unanimous.share:.0f} % of {summary.unanimous.n} right)"
    if summary.consistency:
        words += f", C {summary.consistency.rate:.3f}"
        null = summary.consistency.null
        if null is not None and null.estimate is not None:
            words += f" ({null.estimate:.3f} if models were unrelated)"
    decidable, chosen = summary.pair_accuracy, summary.chosen_right
    if decidable.accuracy is not None:
        words += f", {100 * decidable.accuracy:.0f} % of {decidable.n} decidable pairs right"
    if chosen.share is not None:
        words += f", chosen right in {100 * chosen.share:.0f} % of {chosen.n}"
    return words


def _prompt_columns(prompts: PromptTable) -> pa.Table:
    correlation = pa.array(prompts.correlation, from_pandas=True)  # NaN becomes null
    return pa.table(
        {
            "prompt_id": pa.array(prompts.prompt_ids, pa.string()),
            "num_completions": prompts.num_completions,
            "num_distinct": prompts.num_distinct,
            "correlation": correlation,
            "definedness": pa.array(prompts.definedness, pa.string()),
            "outcome": pa.array(prompts.outcome, pa.string()),
        }
    )


def calibration_of(stage: Stage, parts: MethodParts) -> Calibration | None:
    """Counts for the two rankings that a method compares; None if its C is not calibrated.

    Args:
        stage: Score matrix of the held-out seed prompts' completions.
        parts: Of iteration 1, whatever the iteration: completions are M1's, and so is the reward.

    Raises:
        RunError: The scores are not there, or no pair could be counted.
    """
    spec = parts.agreement
    if spec is None or not isinstance(spec.level, Calibrated):
        return None
    available = pq.read_schema(stage.part(0)).names
    missing = [name for name in parts.logp_columns if LOGP_PREFIX + name not in available]
    if missing:
        raise RunError(
            f"{stage.folder} has no column {', '.join(missing)}, which this method reads; a run "
            "with `calibration` scores under M0, M1 and its witnesses (in a new run_dir)"
        )
    wanted = [*BASE_COLUMNS, "text", "origin", *(LOGP_PREFIX + m for m in parts.logp_columns)]
    tables = list(stage.tables(wanted))
    table = pa.concat_tables(tables)
    gold = np.array([origin != Origin.POLICY for origin in table["origin"].to_pylist()])
    prompts, texts = table["prompt_id"].to_pylist(), table["text"].to_pylist()
    keys = [(prompt, normalised(text)) for prompt, text in zip(prompts, texts, strict=True)]
    known = {key for key, is_gold in zip(keys, gold.tolist(), strict=True) if is_gold}
    found = calibrate(
        matrix_from_tables(tables, parts.logp_columns, ()),
        gold,
        np.array([key not in known for key in keys]),
        spec.first,
        spec.second,
        parts.paired_by,
        source=f"{len(set(prompts))} held-out seed prompts answered by M1",
    )
    if found.agree_total + found.disagree_total == 0:
        raise RunError(
            f"{stage.folder} holds no pair of a seed completion and another one that reward and "
            "witness both order; raise calibration.seed_share or sampling.num_completions"
        )
    return found
