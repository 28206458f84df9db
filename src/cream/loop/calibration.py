"""Reading the calibration of a method from the answers to held-out seed prompts. Needs no model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cream.algorithms.pair_consistency import Calibration
from cream.errors import RunError
from cream.recipe.parts import Calibrated, MethodParts
from cream.runs.store import Stage
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, matrix_from_tables
from cream.stages.calibrate import calibrate
from cream.types import Origin


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
    keys = [(prompt, _normalised(text)) for prompt, text in zip(prompts, texts, strict=True)]
    known = {key for key, is_gold in zip(keys, gold.tolist(), strict=True) if is_gold}
    found = calibrate(
        matrix_from_tables(tables, parts.logp_columns, ()),
        gold,
        np.array([key not in known for key in keys]),
        spec.first,
        spec.second,
        parts.pairing,
        source=f"{len(set(prompts))} held-out seed prompts answered by M1",
    )
    if found.agree_total + found.disagree_total == 0:
        raise RunError(
            f"{stage.folder} holds no pair of a seed completion and another one that reward and "
            "witness both order; raise calibration.seed_share or sampling.num_completions"
        )
    return found


def _normalised(text: str) -> str:
    """Without case and spacing, which do not make an answer wrong."""
    return " ".join(text.casefold().split())
