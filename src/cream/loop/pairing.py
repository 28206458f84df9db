"""Making pairs from a stored score matrix: read the columns a method needs, decide, keep why.

Shared by the pair step of a run and by `cream pair --from`, which needs no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cream.algorithms.diagnostics import kl_from_seed, margin_fixed_point, pair_accuracy
from cream.algorithms.statistics import Absent, Interval
from cream.errors import RunError
from cream.recipe.parts import Agreement, MethodParts
from cream.runs.files import write_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage
from cream.runs.tables import LOGP_PREFIX, NUM_TOKENS, matrix_from_tables, pairs_to_table
from cream.stages.pair import PairingResult, PromptTable, pair
from cream.types import PairTable, ScoreMatrix

BASE_COLUMNS = ("prompt_id", "completion_id", "ids_hash", "finish_reason", NUM_TOKENS)
DIAGNOSTIC_SCORE = "verifier"
"""Read to report how many pairs are right; a method ranks by it only if it says so."""


def read_matrix(
    stage: Stage, parts: MethodParts, t: int, *, report_consistency: bool
) -> ScoreMatrix:
    """Read the columns of a matrix stage that a method needs, and no others.

    Raises:
        RunError: A column is missing; named, with the command that makes it.
    """
    reported = parts.reported_columns if report_consistency else ()
    logp_columns = tuple(dict.fromkeys((*parts.logp_columns, *reported, f"M{t}", "M0")))
    score_columns = tuple(dict.fromkeys((*parts.score_columns, DIAGNOSTIC_SCORE)))
    available = set(pq.read_schema(stage.part(0)).names)
    needed = [*(LOGP_PREFIX + name for name in logp_columns), *score_columns]
    missing = [name for name in needed if name not in available]
    if missing:
        raise RunError(
            f"{stage.folder} has no column {', '.join(missing)}, which this method reads; "
            "`cream score` with a recipe that names this method makes it (in a new run_dir)"
        )
    wanted = [*BASE_COLUMNS, *needed]
    return matrix_from_tables(list(stage.tables(wanted)), logp_columns, score_columns)


def make_pairs(
    folder: Path,
    matrix: ScoreMatrix,
    parts: MethodParts,
    t: int,
    *,
    seed: int,
    report_consistency: bool,
) -> dict[str, Any]:
    """Decide, write ``pairs.parquet`` and ``prompts.parquet`` to `folder`, return the summary.

    Raises:
        RunError: No prompt gave a pair; the reasons are counted.
    """
    generator = np.random.default_rng(derive_seed(seed, "pair", t))
    result = pair(matrix, parts, generator=generator, report_consistency=report_consistency)
    if not len(result.pairs):
        reasons = ", ".join(f"{name} {n}" for name, n in result.tally.parts.items() if n)
        raise RunError(
            f"iteration {t}: none of {result.tally.total} prompts gave a pair ({reasons}). Ties "
            "and duplicates: sample more completions or raise the temperature; below_min_gap: "
            "lower method.pairing.min_gap; truncated: raise sampling.max_completion_tokens; below_half: "
            "the rankings agree no more than chance, see method.below_half"
        )
    write_table(folder / "pairs.parquet", pairs_to_table(result.pairs))
    write_table(folder / "prompts.parquet", _prompt_columns(result.prompts))
    return _summary(matrix, parts, t, result, report_consistency)


def outcome_in_words(summary: Mapping[str, Any]) -> str:
    """One line about the pairs of an iteration."""
    words = f"{summary['tally']['parts']['paired']} pairs of {summary['tally']['total']} prompts"
    consistency = summary["consistency"]
    if consistency:
        words += f", C {consistency['rate']:.3f}"
    accuracy = summary["pair_accuracy"]
    if accuracy["n"]:
        words += f", {100 * accuracy['accuracy']:.0f} % of {accuracy['n']} decidable pairs right"
    return words


def _summary(
    matrix: ScoreMatrix, parts: MethodParts, t: int, result: PairingResult, report: bool
) -> dict[str, Any]:
    compared = parts.agreement or (parts.reported if report else None)
    in_loss = float(result.pairs.consistency.mean()) if parts.agreement else None
    fixed_point = None if in_loss is None else float(margin_fixed_point(np.array([in_loss]))[0])
    kl = kl_from_seed(matrix.logps[f"M{t}"], matrix.logps["M0"], matrix.num_tokens)
    gap = result.pairs.chosen_reward - result.pairs.rejected_reward
    return {
        "reward": str(parts.reward),
        "compared": f"{compared.first}, {compared.second}" if compared else None,
        "compared_picks_pairs": compared.first == parts.reward if compared else None,
        "consistency": _consistency(result, compared),
        "consistency_in_loss": in_loss,
        "margin_fixed_point": _finite(fixed_point),
        "mean_gap": float(gap.mean()),
        "tally": {"total": result.tally.total, "parts": dict(result.tally.parts)},
        "pair_accuracy": _pair_accuracy(matrix, result.pairs),
        "kl_to_seed_per_token": None if isinstance(kl, Absent) else kl.per_token,
        "noise": dict(matrix.noise),
        "completions": len(matrix.completion_ids),
        "distinct": int(result.prompts.num_distinct.sum()),
        "truncated": int(matrix.truncated.sum()),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _consistency(result: PairingResult, compared: Agreement | None) -> dict[str, Any] | None:
    summary = result.consistency
    if summary is None or compared is None:
        return None
    undefined = {k: n for k, n in summary.prompts.parts.items() if k != "defined"}
    if not isinstance(summary.rate, Interval):
        return None
    below = summary.share_below_half
    # TopOrder is a rate; there is no correlation behind it.
    correlation = compared.statistic != "top_order"
    return {
        "rate": summary.rate.estimate,
        "low": summary.rate.low,
        "high": summary.rate.high,
        "n": summary.rate.num_items,
        "tau_mean": summary.tau_mean if correlation else None,
        "tau_std": summary.tau_std
        if correlation and not isinstance(summary.tau_std, Absent)
        else None,
        "share_below_half": below.estimate if isinstance(below, Interval) else None,
        "undefined": undefined,
    }


def _pair_accuracy(matrix: ScoreMatrix, pairs: PairTable) -> dict[str, Any]:
    verdict = dict(
        zip(matrix.completion_ids.tolist(), matrix.scores[DIAGNOSTIC_SCORE].tolist(), strict=True)
    )
    accuracy = pair_accuracy(
        np.array([verdict[key] for key in pairs.chosen_ids.tolist()], dtype=np.float64),
        np.array([verdict[key] for key in pairs.rejected_ids.tolist()], dtype=np.float64),
    )
    share = accuracy.share
    decided = isinstance(share, Interval)
    return {
        "n": share.num_items if decided else 0,
        "accuracy": share.estimate if decided else None,
        "low": share.low if decided else None,
        "high": share.high if decided else None,
        "counts": dict(accuracy.pairs.parts),
    }


def _prompt_columns(prompts: PromptTable) -> pa.Table:
    correlation = pa.array(prompts.correlation, from_pandas=True)  # NaN becomes null
    return pa.table(
        {
            "prompt_id": pa.array(prompts.prompt_ids.tolist(), pa.string()),
            "num_completions": prompts.num_completions,
            "num_distinct": prompts.num_distinct,
            "correlation": correlation,
            "definedness": pa.array(prompts.definedness.tolist(), pa.string()),
            "outcome": pa.array(prompts.outcome.tolist(), pa.string()),
        }
    )
