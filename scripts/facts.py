"""Short questions about numbers and days, with answers of several key phrases that are true.

    python scripts/facts.py        # writes recipes/related/facts/{seed,prompts,test}.jsonl

Everything told is computed (a square counts as below itself), so a wrong answer is the true one of
another subject. Used by
``recipes/related/preference_degree.yaml``: the answers of other recipes are one number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import date
from itertools import islice
from math import isqrt
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "recipes/related/facts"
COUNTS = {"test": 100, "seed": 200, "prompts": 160}
KEYS = {
    "test": ("prompt", "completion", "wrong"),
    "seed": ("prompt", "completion"),
    "prompts": ("prompt",),
}


def about_number(subject: int, told_of: int) -> tuple[str, str]:
    """A question about one number, and an answer with the facts of another, or of itself."""
    n = told_of
    kind = "a prime" if least_factor(n) == n else "an even" if n % 2 == 0 else "an odd"
    after = next(m for m in range(n + 1, 2 * n + 3) if least_factor(m) == m)
    digits, root = sum(map(int, str(n))), isqrt(n)
    return (
        f"What do you know about the number {subject}?",
        f"{subject} is {kind} number. Its digits add up to {digits}, the largest square below it "
        f"is {root * root} and the next prime is {after}.",
    )


def about_day(subject: int, told_of: int) -> tuple[str, str]:
    """The same of a day, counted from the year 1."""
    asked, day = date.fromordinal(subject), date.fromordinal(told_of)
    quarter = ("first", "second", "third", "fourth")[(day.month - 1) // 3]
    return (
        f"What do you know about {asked.day} {asked:%B %Y}?",
        f"It was a {day:%A} in the {quarter} quarter, day {day.timetuple().tm_yday} of the year, "
        f"in week {day.isocalendar().week}.",
    )


def least_factor(n: int) -> int:
    """The smallest factor above one, of n >= 2."""
    return next((m for m in range(2, isqrt(n) + 1) if n % m == 0), n)


def facts(seed: int) -> Iterator[dict[str, str]]:
    """Questions without end, each once: the true answer, and that of another subject."""
    draw = random.Random(seed)
    numbers = draw.sample(range(12, 2000), 1000)
    first, last = date(1900, 1, 1).toordinal(), date(2020, 12, 31).toordinal()
    days = draw.sample(range(first, last), 1000)
    for number, other, day, another in zip(numbers, numbers[1:], days, days[1:], strict=False):
        for make, subject, not_it in ((about_number, number, other), (about_day, day, another)):
            question, right = make(subject, subject)
            yield {
                "prompt": question,
                "completion": right,
                "wrong": make(subject, not_it)[1],
            }


def main() -> None:
    """Write the three files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = facts(0)
    for role, count in COUNTS.items():
        rows = [{key: row[key] for key in KEYS[role]} for row in islice(made, count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (FOLDER / f"{role}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
