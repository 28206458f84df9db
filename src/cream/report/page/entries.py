"""What the explorer shows of one prompt: its completions with rewards, or its answers per model.

Prompts are given one at a time, part by part, so that a run larger than memory can be packed. Texts
are carried as they were sampled; making them safe is the business of whoever shows them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cream.report.explain import OUTCOMES, Explanation, explained
from cream.report.page.records import RunRecords, rate_of
from cream.report.ranked import Asked, ExplainedCompletion, RankedSet, read_asked, read_ranked_set
from cream.runs.reader import FinishedStage, RunReader
from cream.types import FinishReason, Origin

TEST = "test"
"""Key of the set of test prompts."""

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
    facts: dict[str, dict[str, Any]] = {
        _set_key(t): {"name": f"iteration {t}", "model": stage.spec.model}
        for t in records.run.decisions
        if (stage := records.run.sole("sample", t)) is not None
    }
    if records.run.evaluations:
        facts[TEST] = {"name": TEST, "model": ""}
    return facts


def entries(records: RunRecords) -> Iterator[Entry]:
    """Every prompt of a run that has completions: iterations first, then the test set.

    Raises:
        RunError: A file is damaged, or was made by a version that knows other quantities.
    """
    run = records.run
    for t in run.decisions:
        ranked, prompts = read_ranked_set(run, t), read_asked(run.asked(t))
        for key, completions in ranked.groups():
            told = explained("consistency", run, ranked, key, prompts[key], completions)
            yield _iteration_entry(_set_key(t), prompts[key], told, ranked)
    yield from _test_entries(run)


def _set_key(t: int) -> str:
    return f"iteration-{t}"


def _asked(prompt: Asked) -> dict[str, Any]:
    return {
        "messages": [[turn.role, turn.content] for turn in prompt.turns],
        "answer": prompt.answer,
    }


def _label(prompt: Asked) -> str:
    last = prompt.turns[-1].content if prompt.turns else ""
    return " ".join(last[: 4 * LABEL_CHARACTERS].split())[:LABEL_CHARACTERS]


def _iteration_entry(set_key: str, prompt: Asked, told: Explanation, ranked: RankedSet) -> Entry:
    right = {one.completion_id: one.right for one in told.completions}
    verdicts = [(right[pair.chosen_id], right[pair.rejected_id]) for pair in told.pairs]
    statistic = ranked.compared.statistic if ranked.compared else "kendall"
    tau = np.asarray(told.correlation, dtype=np.float64)  # None is NaN
    return Entry(
        set_key=set_key,
        prompt_id=told.prompt_id,
        task=prompt.task,
        label=_label(prompt),
        right=verdicts[0][0] if verdicts else None,
        change="",
        reversed=any(verdict == (False, True) for verdict in verdicts),
        outcome=told.outcome,
        consistency=_rounded(float(rate_of(tau, statistic))),
        detail={
            **_asked(prompt),
            "id": told.prompt_id,
            "quantities": list(ranked.values),
            **_cards(told, list(ranked.values)),
            "outcome": OUTCOMES[told.outcome],
            "words": told.words,
        },
    )


def _cards(told: Explanation, quantities: Sequence[str]) -> dict[str, Any]:
    """The distinct completions, and the pairs by place in their list."""
    shown = [one for one in told.completions if one.copy_of is None]
    place = {one.completion_id: i for i, one in enumerate(shown)}
    place |= {one.completion_id: place[one.copy_of] for one in told.completions if one.copy_of}
    copies = Counter(place.values())
    return {
        "completions": [
            {
                "text": one.text,
                "origin": "" if one.origin == Origin.POLICY else one.origin,
                "tokens": one.num_tokens,
                "truncated": one.truncated,
                "copies": copies[i],
                "correct": one.right,
                "extracted": one.extracted,
                "values": [_rounded(one.figures[name]) for name in quantities],
                "ranks": [one.ranks.get(name) for name in quantities],
                **_by_token(one),
            }
            for i, one in enumerate(shown)
        ],
        "pairs": [
            [
                place[pair.chosen_id],
                place[pair.rejected_id],
                _rounded(pair.consistency),
                _rounded(pair.weight),
            ]
            for pair in told.pairs
        ],
    }


def _by_token(one: ExplainedCompletion) -> dict[str, Any]:
    """Where each token ends and its reward, of a completion whose tokens have one."""
    told = one.token_rewards
    if told is None:
        return {}
    return {"rewards": [[e, _rounded(r)] for e, r in zip(told.ends, told.rewards, strict=True)]}


def _rounded(value: float | None) -> float | None:
    """To four decimals: enough to compare, and half the bytes; None for what is not finite."""
    return round(value, 4) if value is not None and np.isfinite(value) else None


def _test_entries(run: RunReader) -> Iterator[Entry]:
    answers = {model: _answers(stage) for model, stage in run.evaluations.items()}
    if not answers:
        return
    (frozen, *_) = next(iter(run.evaluations.values())).spec.inputs
    for prompt_id, prompt in read_asked([run.finished[frozen]]).items():
        given = {m: found[prompt_id] for m, found in answers.items() if prompt_id in found}
        greedy = {model: rows[0].correct for model, rows in given.items() if rows[0].greedy}
        newest = greedy.get(list(answers)[-1])
        yield Entry(
            set_key=TEST,
            prompt_id=prompt_id,
            task=prompt.task,
            label=_label(prompt),
            right=newest,
            change=_change(greedy.get("M1"), newest),
            reversed=False,
            outcome="",
            consistency=None,
            detail={
                **_asked(prompt),
                "id": prompt_id,
                "answers": {m: [asdict(row) for row in rows] for m, rows in given.items()},
            },
        )


def _change(before: bool | None, after: bool | None) -> str:
    if before is None or after is None or before == after:
        return ""
    return "gained" if after else "lost"


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer to a test prompt, as the page shows it."""

    index: int
    greedy: bool
    text: str
    tokens: int
    truncated: bool
    correct: bool
    extracted: str | None


def _answers(stage: FinishedStage) -> dict[str, list[_Answer]]:
    """Answers of one model per prompt id, the greedy one first."""
    found: dict[str, list[_Answer]] = defaultdict(list)
    names = ("prompt_id", "index", "text", "finish_reason", "num_tokens", "correct", "extracted")
    for key, index, text, reason, tokens, correct, extracted in stage.rows(*names):
        truncated = reason == FinishReason.LENGTH
        found[key].append(_Answer(index, index == -1, text, tokens, truncated, correct, extracted))
    return {key: sorted(rows, key=lambda row: row.index) for key, rows in found.items()}
