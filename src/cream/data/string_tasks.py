"""Tasks on strings, as hard as the strings are long: what a model of characters can be studied on.

Each task is a function from a string to its only answer, so a prompt costs nothing to make and is
checked by ``exact_match``. Everything is deterministic in (run seed, role, task, lengths).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, groupby
from typing import final

import numpy as np

from cream.data.dedup import prompt_id
from cream.recipe.data import StringTaskConfig
from cream.runs.seeds import derive_seed
from cream.types import Message, Prompt

CHUNK = 500
"""Prompts drawn together, which is faster and decides which ones they are."""
LETTERS, DIGITS, BITS = "abcdefghij", "0123456789", "01"


def added(pairs: str) -> str:
    """The sum of two numbers whose digits stand in pairs, the last ones first, in that order.

    ``2971`` is 72 + 19, read from the back: 2 and 9, then 7 and 1. The answer has a digit more
    than the numbers: 91 is ``190``.
    """
    digits, carry = "", 0
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        carry, digit = divmod(int(first) + int(second) + carry, 10)
        digits += str(digit)
    return f"{digits}{carry}"


def parities(bits: str) -> str:
    """After each bit, 1 if the number of ones so far is odd."""
    return "".join(str(total % 2) for total in accumulate(map(int, bits)))


def edited(letters: str) -> str:
    """Of equal neighbours one, then every ``a`` twice."""
    return "".join(letter for letter, _ in groupby(letters)).replace("a", "aa")


ANSWERS: Mapping[str, tuple[str, int, Callable[[str], str]]] = {
    "reverse": (LETTERS, 1, lambda text: text[::-1]),
    "copy": (LETTERS, 1, lambda text: text),
    "spaced_copy": (LETTERS, 1, ".".join),
    "sort": (LETTERS, 1, lambda text: "".join(sorted(text))),
    "add": (DIGITS, 2, added),
    "parity": (BITS, 1, parities),
    "edit": (LETTERS, 1, edited),
    "double": (LETTERS, 1, lambda text: "".join(letter * 2 for letter in text)),
    "shift": (LETTERS, 1, lambda text: text.translate(str.maketrans(LETTERS, "bcdefghija"))),
    "highest": (LETTERS, 1, lambda text: "".join(accumulate(text, max))),
    "mirror": (LETTERS, 1, lambda text: text + text[::-1]),
    "rotate": (LETTERS, 1, lambda text: text[1:] + text[:1]),
}
"""By name: characters of a prompt, how many of them make one of its length, and the answer."""


@final
class StringTask:
    """One task for one role: prompt i, the same for the same seed.

    Args:
        task: Name and lengths.
        role: ``test``, ``seed`` or ``prompts``; part of the seed.
        seed: Seed of the run.
    """

    def __init__(self, task: StringTaskConfig, *, role: str, seed: int) -> None:
        self.name = task.name
        self.options = f"lengths {task.lengths[0]} to {task.lengths[1]}"
        self._lengths, self._instruction = task.lengths, task.instruction
        self._separator = task.separator
        self._chunk, self._drawn = -1, (list[int](), list[list[int]]())
        self._seed = derive_seed(seed, "string_tasks", role, task.name, *task.lengths)

    def prompt(self, index: int) -> Prompt:
        """The prompt of a draw: an even choice among the lengths, then among the strings."""
        characters, width, answer = ANSWERS[self.name]
        chunk, place = divmod(index, CHUNK)
        if chunk != self._chunk:
            self._chunk, self._drawn = chunk, self._draw(chunk, len(characters), width)
        length, letters = self._drawn[0][place], self._drawn[1][place]
        text = "".join(characters[letter] for letter in letters[: length * width])
        shown = self._separator.join(text)
        messages = (Message("user", f"{self._instruction} {shown}".lstrip()),)
        return Prompt(
            prompt_id=prompt_id(messages),
            messages=messages,
            task=f"{self.name}-{length}",
            answer=self._separator.join(answer(text)),
            metadata={"verifier": "exact_match"},
        )

    def _draw(self, chunk: int, letters: int, width: int) -> tuple[list[int], list[list[int]]]:
        """Lengths, and letters enough for the longest string."""
        generator = np.random.default_rng((self._seed, chunk))
        shortest, longest = self._lengths
        lengths = generator.integers(shortest, longest + 1, size=CHUNK)
        return lengths.tolist(), generator.integers(letters, size=(CHUNK, longest * width)).tolist()

    def check(self, prompt: Prompt) -> None:
        """Every answer is text that can be compared."""
