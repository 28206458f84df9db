"""Procedurally generated prompts: the adapter to reasoning-gym 0.1.25.

The package is optional and pinned, because another version makes other prompts. Its generators
often know few distinct questions (the lcm of two numbers to 20 runs out after some hundred draws),
so `TaskStream` counts distinct ones and refuses when there are no more. Generation is deterministic
in (run seed, role, task, options); the roles draw from separate streams and skip questions that an
earlier role has taken, so they never overlap.

Source: github.com/open-thought/reasoning-gym, version 0.1.25 (Apache-2.0).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import tokenize
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from types import ModuleType
from typing import Any, final

from cream.data.dedup import prompt_id, question_key
from cream.errors import DataError, DependencyError, RecipeError
from cream.recipe.data import ReasoningGymSource, TaskConfig
from cream.runs.seeds import derive_seed
from cream.types import Message, Prompt

VERSION = "0.1.25"
_INSTALL = (
    f"`pip install 'cream-align[tasks]'` and then `pip install --no-deps reasoning-gym=={VERSION}`"
)
_CHUNK = 500
"""Entries per generator object; reasoning-gym's default size, which every task can make."""
_PATIENCE = 2000
"""Draws without a new question after which a generator counts as exhausted, plus ten per question
seen: a uniform generator with one question left hides it that long with probability e^-10."""
_HASH_DEPENDENT = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
"""Generators that iterate over sets of strings: measured, their questions change from process to
process unless Python's hash randomisation is off."""
_SCORER_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)
"""What scorers raise on text that they cannot parse."""


class _MissingPycosat(ModuleType):
    """Stands for pycosat while reasoning-gym is imported; only zebra puzzles ever touch it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise DependencyError(
            "the task zebra_puzzles needs pycosat, which is built from C source: install a C "
            "compiler and `pip install pycosat==0.6.6`, or leave the task out"
        )


@lru_cache(maxsize=1)
def import_reasoning_gym() -> ModuleType:
    """Import reasoning-gym's factory, without pycosat if that is not installed.

    Raises:
        DependencyError: The package, one of its requirements, or the pinned version is missing.
    """
    try:
        version = importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        raise DependencyError(
            f"generated tasks need reasoning-gym; install it by {_INSTALL}"
        ) from None
    if version != VERSION:
        raise DependencyError(
            f"reasoning-gym {version} is installed, but its prompts differ between versions and "
            f"{VERSION} is the one Cream uses; install it by {_INSTALL}"
        )
    placeholder = importlib.util.find_spec("pycosat") is None
    if placeholder:
        sys.modules["pycosat"] = _MissingPycosat("pycosat")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules that are compiled for the first time
            importlib.import_module("reasoning_gym")
            return importlib.import_module("reasoning_gym.factory")
    except ImportError as error:
        raise DependencyError(
            f"reasoning-gym cannot be imported ({error}); install it by {_INSTALL}"
        ) from error
    finally:
        if placeholder:
            del sys.modules["pycosat"]


@lru_cache(maxsize=256)
def _generator(name: str, config_json: str, seed: int) -> Any:
    factory = import_reasoning_gym()
    if name not in factory.DATASETS:
        nearest = difflib.get_close_matches(name, factory.DATASETS, n=1)
        hint = f"; did you mean `{nearest[0]}`?" if nearest else ""
        raise RecipeError(f"reasoning-gym {VERSION} has no task `{name}`{hint}")
    config = json.loads(config_json)
    known = [field.name for field in fields(factory.DATASETS[name][1])]
    for key in config:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{nearest[0]}`? " if nearest else ""
            raise RecipeError(
                f"task `{name}` has no option `{key}`; {hint}It has: "
                f"{', '.join(sorted(set(known) - {'seed', 'size'}))}"
            )
    try:
        return factory.create_dataset(name, **config, seed=seed, size=_CHUNK)
    except (AssertionError, TypeError, ValueError) as error:
        raise RecipeError(f"task `{name}` cannot be made with options {config}: {error}") from error


def task_scorer(name: str, config: Mapping[str, Any]) -> Callable[[str, dict[str, Any]], float]:
    """Return the task's graded scorer: (answer, entry) -> [0, 1], 0 for text it cannot parse."""
    generator = _generator(name, _canonical(config), 0)

    def score(answer: str, entry: dict[str, Any]) -> float:
        try:
            return float(generator.score_answer(answer, entry))
        except _SCORER_FAULTS:
            return 0.0

    return score


@final
class TaskStream:
    """Distinct prompts of one task for one role, in a fixed order; may be drawn from repeatedly.

    Args:
        task: Name and generator options.
        source: Where the task stands, for its system prompt and answer tag.
        role: ``test``, ``seed`` or ``prompts``; part of the stream's seed.
        seed: Seed of the run.
        taken: Question keys already in use. Shared by all streams of a run and extended by every
            draw: this is what keeps the roles apart.

    Raises:
        RecipeError: The task cannot be made twice alike in this process.
    """

    def __init__(
        self, task: TaskConfig, source: ReasoningGymSource, *, role: str, seed: int, taken: set[str]
    ) -> None:
        if task.name in _HASH_DEPENDENT and sys.flags.hash_randomization:
            raise RecipeError(
                f"task `{task.name}` makes other questions in every process, whatever the seed; "
                "start Python with the environment variable PYTHONHASHSEED=0, or leave the task out"
            )
        self.num_generated = 0
        self.num_repeated = 0
        """Draws of a question that this stream had generated before."""
        self.num_taken = 0
        """Questions left out because another role, task or source uses them."""
        self._task = task
        self._source = source
        self._role = role
        self._config = _canonical(task.config)
        self._seed = derive_seed(seed, "tasks", role, task.name, self._config)
        self._taken = taken
        self._seen: set[str] = set()
        self._num_drawn = 0

    def draw(self, count: int) -> list[Prompt]:
        """Return the next `count` prompts.

        Raises:
            DataError: The generator has no more distinct questions, or its own scorer refuses the
                reference answer once it has been stored as JSON.
        """
        prompts: list[Prompt] = []
        streak = 0
        while len(prompts) < count:
            if streak > _PATIENCE + 10 * len(self._seen):
                self._refuse(count, len(prompts))
            prompt = self._prompt(self._entry(self.num_generated))
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
                self._check_answer(prompt)
                self._taken.add(key)
                prompts.append(prompt)
        self._num_drawn += count
        return prompts

    def _entry(self, index: int) -> dict[str, Any]:
        # Generators seed item i with (seed + i), so chunks take unrelated seeds, not the next one.
        chunk, offset = divmod(index, _CHUNK)
        seed = derive_seed(self._seed, "chunk", chunk) % 2**32
        return _generator(self._task.name, self._config, seed)[offset]

    def _prompt(self, entry: Mapping[str, Any]) -> Prompt:
        user = Message("user", entry["question"].strip())
        system = self._source.system_prompt
        messages = (user,) if system is None else (Message("system", system), user)
        try:
            metadata = json.loads(json.dumps(entry["metadata"]))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"task `{self._task.name}` cannot be stored: its metadata is not JSON ({error})"
            ) from error
        tag = self._source.answer_tag
        return Prompt(
            prompt_id=prompt_id(messages),
            messages=messages,
            task=self._task.name,
            answer=entry["answer"],
            metadata={
                "verifier": "reasoning_gym",
                "generator": self._task.name,
                "config": json.loads(self._config),
                "entry": metadata,
                **({} if tag is None else {"answer_tag": tag}),
            },
        )

    def _check_answer(self, prompt: Prompt) -> None:
        entry = {
            "question": prompt.messages[-1].content,
            "answer": prompt.answer,
            "metadata": prompt.metadata["entry"],
        }
        if not isinstance(prompt.answer, str) or (
            task_scorer(self._task.name, self._task.config)(prompt.answer.strip(), entry) != 1.0
        ):
            raise DataError(
                f"task `{self._task.name}` cannot be verified: its scorer does not accept the "
                f"reference answer {prompt.answer!r:.60} of its own question; leave the task out"
            )

    def _refuse(self, count: int, found: int) -> None:
        total = self._num_drawn + found
        raise DataError(
            f"task `{self._task.name}` ran out of distinct questions: {self._num_drawn + count} "
            f"wanted for {self._role}, {total} found in {self.num_generated} draws "
            f"({self.num_taken} more are used by other roles). Widen the ranges in its "
            f"`config` (now {self._config}), or ask for fewer."
        )


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True)
