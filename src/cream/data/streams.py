"""Distinct prompts of generated tasks, in a fixed order.

Generators often know few distinct questions (the lcm of two numbers to 20 runs out after some
hundred draws), so `TaskStream` counts distinct ones and refuses when there are no more. Generation
is deterministic in (run seed, role, task, options); the roles draw from separate streams and skip
questions that an earlier role has taken, so they never overlap.
"""

from __future__ import annotations

from typing import final

from cream.data.dedup import question_key
from cream.data.string_tasks import StringTask
from cream.data.tasks import GymTask
from cream.errors import DataError
from cream.recipe.data import GeneratedSource, ReasoningGymSource
from cream.types import Prompt

_PATIENCE = 2000
"""Draws without a new question after which a generator counts as exhausted, plus ten per question
seen: a uniform generator with one question left hides it that long with probability e^-10."""


GeneratedTask = GymTask | StringTask
"""One task for one role: prompt i of an endless row, and whether it can be verified."""


def tasks_of(source: GeneratedSource, *, role: str, seed: int) -> list[GeneratedTask]:
    """The tasks of a source, in its order.

    Args:
        source: Which tasks.
        role: ``test``, ``seed`` or ``prompts``; part of the seed.
        seed: Seed of the run.
    """
    if isinstance(source, ReasoningGymSource):
        return [GymTask(task, source, role=role, seed=seed) for task in source.tasks]
    return [StringTask(task, role=role, seed=seed) for task in source.tasks]


@final
class TaskStream:
    """Distinct prompts of one task for one role; may be drawn from repeatedly.

    Args:
        task: What makes them.
        role: ``test``, ``seed`` or ``prompts``, for messages.
        taken: Question keys already in use. Shared by all streams of a run and extended by every
            draw: this is what keeps the roles apart.
    """

    def __init__(self, task: GeneratedTask, *, role: str, taken: set[str]) -> None:
        self.num_generated = 0
        self.num_repeated = 0
        """Draws of a question that this stream had generated before."""
        self.num_taken = 0
        """Questions left out because another role, task or source uses them."""
        self._task = task
        self._role = role
        self._taken = taken
        self._seen: set[str] = set()
        self._num_drawn = 0

    def draw(self, count: int) -> list[Prompt]:
        """Return the next `count` prompts.

        Raises:
            DataError: The generator has no more distinct questions, or the task refuses the
                reference answer of one.
        """
        prompts: list[Prompt] = []
        streak = 0
        while len(prompts) < count:
            if streak > _PATIENCE + 10 * len(self._seen):
                self._refuse(count, len(prompts))
            prompt = self._task.prompt(self.num_generated)
            self.num_generated += 1
            key = question_key(prompt.messages)
            if key in self._seen:
                self.num_repeated += 1
                streak += 1
                continue
            self._seen.add(key)
            streak = 0
            if key in self._taken:
                self.num_taken += 1
            else:
                self._task.check(prompt)
                self._taken.add(key)
                prompts.append(prompt)
        self._num_drawn += count
        return prompts

    def _refuse(self, count: int, found: int) -> None:
        total = self._num_drawn + found
        raise DataError(
            f"task `{self._task.name}` ran out of distinct questions: {self._num_drawn + count} "
            f"wanted for {self._role}, {total} found in {self.num_generated} draws "
            f"({self.num_taken} more are used by other roles). Widen the ranges of its "
            f"options (now {self._task.options}), or ask for fewer."
        )
