"""All data of a run, read, checked and divided before any model is loaded.

Order of work: test first, then seed, then prompts, because generated questions skip what an earlier
role has taken and the test set must not depend on how much is trained. Raising the number of
iterations adds prompts and changes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cream.data.dedup import question_key
from cream.data.sources import Item, RoleName, drop_duplicates, read_source
from cream.data.splits import check_leakage, shuffled, split_by_iteration, spread
from cream.data.streams import TaskStream, tasks_of
from cream.data.verdicts import verdict_examples
from cream.errors import DataError
from cream.recipe.data import (
    AnyRole,
    DataConfig,
    GeneratedSource,
    PromptData,
    Role,
    Source,
    StringTaskConfig,
    TaskConfig,
    TestData,
)
from cream.types import Prompt, SeedExample, Tally


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The data of a run. Test prompts are in neither of the other two."""

    seed_examples: tuple[SeedExample, ...]
    """Empty if the recipe has no seed data."""
    iterations: tuple[tuple[Prompt, ...], ...]
    """Prompts of iterations 1, 2, ...; use `prompts_for`."""
    test: tuple[Prompt, ...]
    """Empty if the recipe has no test data."""
    tallies: Mapping[str, Tally]
    """Per role (``seed``, ``prompts``, ``test``): rows or draws, by what became of them (``used``,
    ``duplicate``, ``spare``, ``unwanted`` by their label; generated: ``repeated``, ``taken`` by
    another role or task)."""
    unused: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Per role and source: columns and keys of turns that became nothing, with the number of rows
    in which they hold something."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the files is not used, a sentence per source that has such columns."""
        return tuple(
            f"{name} ({role} data): not used are "
            + ", ".join(f"`{column}` ({count} rows)" for column, count in columns.items())
            for role, sources in self.unused.items()
            for name, columns in sources.items()
        )

    def prompts_for(self, iteration: int) -> tuple[Prompt, ...]:
        """Return the prompts of an iteration, counted from 1.

        Raises:
            DataError: The data was loaded for fewer iterations.
        """
        if not 1 <= iteration <= len(self.iterations):
            raise DataError(
                f"no prompts for iteration {iteration}: the data was loaded for iterations 1 to "
                f"{len(self.iterations)}"
            )
        return self.iterations[iteration - 1]


def load_data(config: DataConfig, *, seed: int, iterations: int, base_dir: Path) -> LoadedData:
    """Read everything the run needs, or say what is wrong with it.

    Args:
        config: The recipe's data section.
        seed: Seed of the run. Decides generated questions and the division over iterations.
        iterations: T, >= 1. The first t iterations are the same for every T >= t.
        base_dir: Folder of the recipe.

    Raises:
        DataError: Malformed, empty, duplicate or too few prompts, or leakage from test to training.
        RecipeError: A generated task or its options do not exist.
        DependencyError: reasoning-gym is needed and not installed as pinned.
    """
    reader = _Reader(seed=seed, base_dir=base_dir)
    test = reader.read(config.test, "test") if config.test else []
    seed_items = reader.read(config.seed, "seed") if config.seed else []
    slices, pool = reader.read_prompts(config.prompts, iterations)
    check_leakage(test, [*seed_items, *pool])
    seed_examples = tuple(
        SeedExample(item.prompt, item.completion, item.masked)
        for item in seed_items
        if item.completion is not None  # always: reading seed data requires it
    )
    if config.seed is not None and config.seed.verdicts:
        seed_examples += verdict_examples(seed_examples, count=config.seed.verdicts, seed=seed)
    return LoadedData(
        seed_examples=seed_examples,
        iterations=slices,
        test=tuple(item.prompt for item in test),
        tallies=reader.tallies,
        unused=reader.unused,
    )


def load_test(
    config: TestData, *, seed: int, base_dir: Path, tasks: Sequence[str] = ()
) -> tuple[Prompt, ...]:
    """Read test prompts alone: the same ones as `load_data` for the same seed.

    Args:
        config: The test section of a recipe.
        seed: Seed of the run.
        base_dir: Folder of the recipe.
        tasks: Keep only these tasks; all if empty.

    Raises:
        DataError: The data is malformed, or a task named is not in it.
    """
    items = _Reader(seed=seed, base_dir=base_dir).read(config, "test")
    prompts = tuple(item.prompt for item in items)
    unknown = sorted(set(tasks) - {prompt.task for prompt in prompts})
    if unknown:
        present = ", ".join(sorted({prompt.task for prompt in prompts}))
        raise DataError(f"the test data has no task {', '.join(unknown)}; it has: {present}")
    return tuple(prompt for prompt in prompts if not tasks or prompt.task in tasks)


class _Reader:
    """Reads the roles one after the other and remembers what is taken."""

    def __init__(self, *, seed: int, base_dir: Path) -> None:
        self.tallies: dict[str, Tally] = {}
        self.unused: dict[str, dict[str, dict[str, int]]] = {}
        self._seed = seed
        self._base_dir = base_dir
        self._taken: set[str] = set()

    def read(self, role: Role, name: RoleName) -> list[Item]:
        """Read seed or test data: every source in full."""
        items, parts = self._table_items(role, role.sources, name)
        for source in role.sources:
            if isinstance(source, GeneratedSource):
                counts = _task_counts(source)
                streams = self._streams([source], name)
                for stream, count in zip(streams, counts, strict=True):
                    items += [_generated(prompt, name) for prompt in stream.draw(count)]
                    parts += _draws(stream)
        self._finish(name, parts, used=len(items))
        return items

    def read_prompts(
        self, role: PromptData, iterations: int
    ) -> tuple[tuple[tuple[Prompt, ...], ...], list[Item]]:
        """Read the prompts and divide them; return slices and everything that was read."""
        slices: list[tuple[Prompt, ...]] = []
        read: list[Item] = []
        counted = Counter[str]()
        sources = [role.sources_of(t) for t in range(1, iterations + 1)]
        for first, last in _runs(sources):
            used = {prompt.prompt_id for prompts in slices for prompt in prompts}
            some, items, parts = self._divided(role, sources[first], last - first, used)
            slices += some
            read += items
            counted += parts
        self._finish("prompts", counted, used=sum(map(len, slices)))
        return tuple(slices), read

    def _divided(
        self, role: PromptData, sources: Sequence[Source], iterations: int, used: Set[str]
    ) -> tuple[tuple[tuple[Prompt, ...], ...], list[Item], Counter[str]]:
        """The prompts of consecutive iterations with the same sources, none of the `used` ones."""
        generated = [s for s in sources if isinstance(s, GeneratedSource)]
        if not generated:
            pool, parts = self._table_items(role, sources, "prompts")
            slices = split_by_iteration(
                [item.prompt for item in pool if item.prompt.prompt_id not in used],
                per_iteration=role.per_iteration,
                iterations=iterations,
                seed=self._seed,
            )
            spare = len(pool) - sum(map(len, slices))
            return slices, pool, parts + Counter(spare=spare)
        streams = self._streams(generated, "prompts")
        counts = spread(role.per_iteration, len(streams))
        slices = tuple(
            tuple(
                shuffled(
                    [p for s, n in zip(streams, counts, strict=True) for p in s.draw(n)],
                    seed=self._seed,
                    name="prompts",
                )
            )
            for _ in range(iterations)
        )
        parts = sum((_draws(stream) for stream in streams), Counter[str]())
        items = [_generated(p, "prompts") for prompts in slices for p in prompts]
        return slices, items, parts

    def _table_items(
        self, how: AnyRole, sources: Sequence[Source], name: RoleName
    ) -> tuple[list[Item], Counter[str]]:
        readings = [
            read_source(source, name, self._base_dir)
            for source in sources
            if not isinstance(source, GeneratedSource)
        ]
        for reading in readings:
            if reading.unused:
                before = self.unused.setdefault(name, {}).setdefault(reading.name, {})
                before |= {c: before.get(c, 0) + n for c, n in reading.unused.items()}
        rows = [item for reading in readings for item in reading]
        items, dropped = drop_duplicates(rows, duplicates=how.duplicates)
        self._taken |= {question_key(item.prompt.messages) for item in items}
        unwanted = sum(reading.num_unwanted for reading in readings)
        return items, Counter(duplicate=dropped, unwanted=unwanted)

    def _streams(self, sources: Sequence[GeneratedSource], name: RoleName) -> list[TaskStream]:
        return [
            TaskStream(task, role=name, taken=self._taken)
            for source in sources
            for task in tasks_of(source, role=name, seed=self._seed)
        ]

    def _finish(self, name: RoleName, parts: Counter[str], *, used: int) -> None:
        counted = {"used": used, **{key: n for key, n in parts.items() if n}}
        self.tallies[name] = Tally(total=sum(counted.values()), parts=counted)


def _generated(prompt: Prompt, role: RoleName) -> Item:
    completion = prompt.answer if role == "seed" else None
    return Item(prompt, completion, f"generated {prompt.task} for {role}")


def _draws(stream: TaskStream) -> Counter[str]:
    return Counter(repeated=stream.num_repeated, taken=stream.num_taken)


def _runs(values: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each stretch of equal neighbours."""
    starts = [i for i in range(len(values)) if i == 0 or values[i] != values[i - 1]]
    return zip(starts, (*starts[1:], len(values)), strict=True)


def _task_counts(source: GeneratedSource) -> list[int]:
    if source.count is not None:
        return spread(source.count, len(source.tasks))
    return [_own_count(task) for task in source.tasks]


def _own_count(task: TaskConfig | StringTaskConfig) -> int:
    assert task.count is not None  # the recipe requires it where the source has no count
    return task.count
