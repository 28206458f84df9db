"""What the explorer shows of one prompt: its completions with rewards, or its answers per model.

Prompts are given one at a time, part by part, so that a run larger than memory can be packed. Texts
are carried as they were sampled; making them safe is the business of whoever shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cream.report.page.ranked import RankedSet, read_ranked_set
from cream.report.page.records import RunRecords, evaluation_folders
from cream.runs.files import read_table
from cream.types import FinishReason

LABEL_CHARACTERS = 140
"""Of a prompt's last message, in the explorer's table."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt of one set: the columns to filter by, and the record to read."""

    set_key: str
    """``iteration-1``, ..., or ``test``."""
    prompt_id: str
    task: str
    label: str
    """Start of the prompt."""
    right: bool | None
    """Test: the newest model's greedy answer is correct; iteration: the first chosen one is."""
    change: str
    """Test: ``gained`` or ``lost`` from M1 to the newest model; else empty."""
    reversed: bool
    """A chosen completion is wrong whose rejected one is right."""
    outcome: str
    """``paired`` or why there is no pair; empty for test prompts."""
    consistency: float | None
    """C_j, in [0, 1]."""
    detail: Mapping[str, Any]
    """JSON value that ``page.js`` shows."""


def set_facts(records: RunRecords) -> dict[str, dict[str, Any]]:
    """Per set of a run, in the page's order, what holds for all its prompts."""
    facts: dict[str, dict[str, Any]] = {}
    for row in records.iterations:
        t = row.iteration
        facts[f"iteration-{t}"] = {"name": f"iteration {t}", "model": f"M{t}"}
    if evaluation_folders(records):
        facts["test"] = {"name": "test", "model": ""}
    return facts


def entries(records: RunRecords) -> Iterator[Entry]:
    """Every prompt of a run that has completions: iterations with pairs first, then the test set.

    Raises:
        RunError: A file is damaged, or was made by a version that knows other quantities.
    """
    for row in records.iterations:
        t = row.iteration
        ranked = read_ranked_set(records.root, records.stages[f"iteration-{t}/pair"], t)
        prompts = _prompts(records.root, t, ranked)
        for group in ranked.groups():
            yield _iteration_entry(f"iteration-{t}", prompts[group["id"]], group)
    yield from _test_entries(records)


def _prompts(root: Path, t: int, ranked: RankedSet) -> dict[str, Mapping[str, Any]]:
    """Prompts of an iteration by id; those of methods that answer the seed prompts are there."""
    found = _read_prompts(root / "data" / f"prompts-{t}")
    if not set(ranked.prompt_ids) <= set(found):
        found |= _read_prompts(root / "data" / "seed")
    unknown = {"prompt": [], "task": "unknown", "answer": None}
    return {key: found.get(key, unknown) for key in ranked.prompt_ids}


def _read_prompts(folder: Path) -> dict[str, Mapping[str, Any]]:
    names = ["prompt_id", "prompt", "task", "answer"]
    paths = sorted(folder.glob("part-*.parquet"))
    rows = (row for path in paths for row in read_table(path, names).to_pylist())
    return {row["prompt_id"]: row for row in rows}


def _asked(prompt: Mapping[str, Any]) -> dict[str, Any]:
    messages = [[turn["role"], turn["content"]] for turn in prompt["prompt"]]
    return {"messages": messages, "answer": prompt["answer"]}


def _label(prompt: Mapping[str, Any]) -> str:
    last = prompt["prompt"][-1]["content"] if prompt["prompt"] else ""
    return " ".join(last[: 4 * LABEL_CHARACTERS].split())[:LABEL_CHARACTERS]


def _iteration_entry(set_key: str, prompt: Mapping[str, Any], group: Mapping[str, Any]) -> Entry:
    verdicts = [
        (group["completions"][c]["correct"], group["completions"][r]["correct"])
        for c, r, *_ in group["pairs"]
    ]
    return Entry(
        set_key=set_key,
        prompt_id=group["id"],
        task=prompt["task"],
        label=_label(prompt),
        right=verdicts[0][0] if verdicts else None,
        change="",
        reversed=any(verdict == (False, True) for verdict in verdicts),
        outcome=group["outcome"],
        consistency=group["consistency"],
        detail={**_asked(prompt), **group},
    )


def _test_entries(records: RunRecords) -> Iterator[Entry]:
    folders = evaluation_folders(records)
    if not folders:
        return
    answers = {model: _answers(folder) for model, folder in folders.items()}
    for prompt_id, prompt in _read_prompts(records.root / "data" / "test").items():
        given = {m: found[prompt_id] for m, found in answers.items() if prompt_id in found}
        greedy = {model: rows[0]["correct"] for model, rows in given.items() if rows[0]["greedy"]}
        newest = greedy.get(list(folders)[-1])
        yield Entry(
            set_key="test",
            prompt_id=prompt_id,
            task=prompt["task"],
            label=_label(prompt),
            right=newest,
            change=_change(greedy.get("M1"), newest),
            reversed=False,
            outcome="",
            consistency=None,
            detail={**_asked(prompt), "id": prompt_id, "answers": given},
        )


def _change(before: bool | None, after: bool | None) -> str:
    if before is None or after is None or before == after:
        return ""
    return "gained" if after else "lost"


def _answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Answers of one model per prompt id, the greedy one first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    names = ["prompt_id", "index", "text", "finish_reason", "num_tokens", "correct", "extracted"]
    for path in sorted(folder.glob("part-*.parquet")):
        for row in read_table(path, names).to_pylist():
            answer = {
                "index": row["index"],
                "greedy": row["index"] == -1,
                "text": row["text"],
                "tokens": row["num_tokens"],
                "truncated": row["finish_reason"] == FinishReason.LENGTH,
                "correct": row["correct"],
                "extracted": row["extracted"],
            }
            found[row["prompt_id"]].append(answer)
    return {key: sorted(rows, key=lambda row: row["index"]) for key, rows in found.items()}
