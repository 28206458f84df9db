"""Freezing the data of a run: what was read or generated is kept, and must not change later."""

from __future__ import annotations

import pyarrow as pa

from cream.data.frozen import prompts_to_table, seed_to_table
from cream.data.verifiers import constant_baseline
from cream.loop.context import Context
from cream.runs.store import fingerprint
from cream.types import Tally


def freeze_data(context: Context) -> None:
    """Write seed, prompts of each iteration and test as Parquet, with their fingerprints.

    Raises:
        RunError: The data differs from what this run was begun with.
    """
    data = context.data
    prompts = {f"prompts-{t}": data.prompts_for(t) for t in range(1, context.recipe.iterations + 1)}
    for name, items in {**prompts, "test": data.test}.items():
        stage = context.stage(f"data/{name}", {"content": context.prompts_fingerprint(items)})
        if stage.finished() is None:
            stage.begin()
            stage.write_part(0, prompts_to_table(items), 0.0)
            summary: dict[str, object] = {"prompts": len(items)}
            if name in data.tallies:
                summary["tally"] = _as_json(data.tallies[name])
            if name == "test":
                summary["constant_baseline"] = {
                    task: {"answer": c.answer, "accuracy": c.accuracy, "n": c.num_prompts}
                    for task, c in constant_baseline(items, context.verifier).items()
                }
            stage.finish(summary, 0.0)
    content = [[e.prompt.prompt_id, e.completion] for e in data.seed_examples]
    stage = context.stage("data/seed", {"content": fingerprint(content)})
    if stage.finished() is None:
        stage.begin()
        stage.write_part(0, seed_to_table(data.seed_examples), 0.0)
        summary = {"examples": len(data.seed_examples), "tally": _as_json(data.tallies["seed"])}
        stage.finish(summary, 0.0)
    if len(context.seed_parts) > 1:
        _freeze_seed_parts(context)


def _freeze_seed_parts(context: Context) -> None:
    """Write who is fine-tuned on which seed prompts: one row per prompt."""
    owners = {e.prompt.prompt_id: n for n, part in context.seed_parts.items() for e in part}
    stage = context.stage("data/seed-parts", {"owners": fingerprint(sorted(owners.items()))})
    if stage.finished() is None:
        stage.begin()
        table = pa.table({"prompt_id": list(owners), "part": list(owners.values())})
        stage.write_part(0, table, 0.0)
        parts = {name: len(part) for name, part in context.seed_parts.items()}
        stage.finish({"tally": {"total": sum(parts.values()), "parts": parts}}, 0.0)


def _as_json(tally: Tally) -> dict[str, object]:
    return {"total": tally.total, "parts": dict(tally.parts)}
