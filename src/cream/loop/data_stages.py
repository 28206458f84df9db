"""Freezing the data of a run: what was read or generated is kept, and must not change later."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cream.data.dataset import LoadedData
from cream.data.snapshot import prompts_to_table, seed_to_table
from cream.data.verifiers import constant_baseline
from cream.loop.context import Context
from cream.plan import FROZEN_TEST
from cream.records import StageSpec
from cream.runs.store import StageRecord, fingerprint
from cream.types import Tally


def freeze_prompts(context: Context, spec: StageSpec) -> StageRecord:
    """The prompts of an iteration, or those of the test.

    Raises:
        RunError: They differ from what this run was begun with.
    """
    items = context.plan.frozen[spec.name]
    role = "test" if spec.name == FROZEN_TEST else "prompts"
    summary: dict[str, Any] = {"prompts": len(items), **_unused(context.data, role)}
    if spec.name == FROZEN_TEST:
        if "test" in context.data.tallies:
            summary["tally"] = _as_json(context.data.tallies["test"])
        summary["constant_baseline"] = {
            task: {"answer": c.answer, "accuracy": c.accuracy, "n": c.num_prompts}
            for task, c in constant_baseline(items, context.verifier).items()
        }
    inputs = {"content": context.prompts_fingerprint(items)}
    return _freeze(context, spec, inputs, prompts_to_table(items), summary)


def freeze_seed(context: Context, spec: StageSpec) -> StageRecord:
    """The seed examples. See `freeze_prompts`."""
    examples = context.data.seed_examples
    content = [example.content for example in examples]
    summary = {
        "examples": len(examples),
        "tally": _as_json(context.data.tallies["seed"]),
        **_unused(context.data, "seed"),
    }
    inputs = {"content": fingerprint(content)}
    return _freeze(context, spec, inputs, seed_to_table(examples), summary)


def freeze_seed_parts(context: Context, spec: StageSpec) -> StageRecord:
    """Who is fine-tuned on which seed prompts: one row per prompt."""
    named = context.plan.seed_parts
    owners = {e.prompt.prompt_id: name for name, part in named.items() for e in part}
    table = pa.table({"prompt_id": list(owners), "part": list(owners.values())})
    parts = {name: len(part) for name, part in named.items()}
    summary = {"tally": {"total": sum(parts.values()), "parts": parts}}
    inputs = {"owners": fingerprint(sorted(owners.items()))}
    return _freeze(context, spec, inputs, table, summary)


def _freeze(
    context: Context,
    spec: StageSpec,
    inputs: dict[str, Any],
    table: pa.Table,
    summary: dict[str, Any],
) -> StageRecord:
    stage = context.stage(spec, inputs)
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    stage.write_part(0, table, 0.0)
    return stage.finish(summary, 0.0)


def _unused(data: LoadedData, role: str) -> dict[str, object]:
    """Columns of the role's files that became nothing, if there are any."""
    unused = data.unused.get(role)
    return {"unused": unused} if unused else {}


def _as_json(tally: Tally) -> dict[str, object]:
    return {"total": tally.total, "parts": dict(tally.parts)}
