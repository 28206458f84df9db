r"""How the authors' code finds the answer in a completion, restated; for comparison only.

Source: ``github.com/Raibows/CREAM`` at ``de1d04b``, ``evaluate.py``. Nothing in a run uses this
module: figures of the paper were measured with these rules, so a difference to ours should be
measurable. Where they go wrong (each a row of the table in the tests):

`reference_choice`
    takes the *first* ``answer:``, although a model may correct itself; reads ``Answer: A dog`` as
    A; does not see ``Answer: (B)`` or ``Answer: **B**``; and then falls back to the last letter A
    to D that stands alone anywhere, so that ``I have no idea, a guess`` is A. Options beyond D do
    not exist.

`reference_number`
    takes the first number after the *first* mark, in the order ``####``, ``###``, ``answer:``,
    ``answer is``: a Markdown heading ``### Step 1`` answers 1, ``Answer: 5 + 3 = 8`` answers 5,
    ``Answer: 1/2`` answers 1. ``5-3`` holds a minus 3. Without a mark the last number counts.
"""

from __future__ import annotations

import re

_STATED_LETTER = re.compile(r"\banswer:\s*([a-d])\b")
_LETTER_ALONE = re.compile(r"\b([a-d])\b")
_NUMBER = re.compile(r"-?\d+\.?\d*")
_MARKS = ("####", "###", "answer:", "answer is")


def reference_choice(text: str) -> str | None:
    """Letter A to D by the authors' rule, or None if no such letter stands alone anywhere."""
    lowered = text.lower()
    stated = _STATED_LETTER.search(lowered)
    if stated:
        return stated[1].upper()
    alone = _LETTER_ALONE.findall(lowered)
    return alone[-1].upper() if alone else None


def reference_number(text: str) -> str | None:
    """Number by the authors' rule, whole numbers without a decimal point; None without a number."""
    lowered = text.strip().lower()
    mark = next((mark for mark in _MARKS if mark in lowered), None)
    if mark is None:
        numbers = _numbers(lowered)
        return numbers[-1] if numbers else None
    for piece in lowered.split(mark)[1:]:
        numbers = _numbers(piece)
        if numbers:
            return numbers[0]
    return None


def _numbers(text: str) -> list[str]:
    values = [float(found) for found in _NUMBER.findall(text.replace(",", ""))]
    return [str(int(value)) if value.is_integer() else str(value) for value in values]
