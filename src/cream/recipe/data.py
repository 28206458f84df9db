"""The data of a recipe: seed examples, unlabelled prompts, verifiable test prompts.

Three roles, each a list of sources. A source is a file, a hub dataset, or procedurally generated
tasks. How many prompts a generated source makes is written where it is decided: ``count`` for seed
and test, ``per_iteration`` for prompts. Reading and checking the data is `cream.data`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from cream.recipe.base import Section

VerifierName = Literal[
    "exact_match",
    "last_number",
    "stated_number",
    "math_verify",
    "choice_letter",
    "reasoning_gym",
    "custom",
]
"""How completions of a prompt are checked; see `cream.data.verifiers`. ``custom`` is an object in
Python, given to `cream.run`."""

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".csv")
"""File names that `FileSource` understands."""


class ColumnMapping(Section):
    """Which column holds what, where the names differ from the usual ones.

    Without a mapping these shapes are recognised: ``messages``; ``prompt`` (+ ``completion``), each
    a string or a list of messages; ``instruction`` / ``input`` / ``output`` (Alpaca);
    ``conversations`` with ``from`` / ``value`` (ShareGPT). Columns ``system`` and ``history``
    become turns. Of preference data (``chosen`` and ``rejected``, with a prompt column or repeating
    the prompt) the chosen side is the completion; completions with ``label`` false are left out.
    """

    prompt: str | None = None
    """The prompt: a string (one user turn) or a list of messages."""
    completion: str | None = None
    """What the assistant answered: a string or a list with one assistant message."""
    messages: str | None = None
    """A whole conversation; a final assistant turn is its completion. Excludes ``prompt``."""
    answer: str | None = None
    """The reference answer that a verifier reads. Default: ``answer`` where it exists."""
    id: str | None = None
    """The data set's own id, kept in the prompt's metadata. Default: ``id`` where it exists."""
    task: str | None = None
    """Name under which accuracy is reported. Default: ``task`` where it exists."""

    @model_validator(mode="after")
    def _one_shape(self) -> ColumnMapping:
        if self.messages is not None and (self.prompt is not None or self.completion is not None):
            raise ValueError(
                "`messages` is a whole conversation: map either `messages`, or `prompt` and "
                "`completion`"
            )
        return self


def _task_by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """One task of reasoning-gym. A plain name is short for a task with its default config."""

    name: str = Field(min_length=1)
    """Name in reasoning-gym, for example ``gcd``."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of the task's generator, for example ``{max_value: 60}``; checked against it."""
    count: int | None = Field(default=None, ge=1)
    """Distinct prompts of this task. Either every task has a count, or the source has one."""

    @model_validator(mode="after")
    def _no_seed_or_size(self) -> TaskConfig:
        for key in ("seed", "size"):
            if key in self.config:
                raise ValueError(
                    f"`{key}` of task {self.name} is decided by the run (its seed and the counts); "
                    "remove it from `config`"
                )
        return self


Task = Annotated[
    TaskConfig,
    BeforeValidator(_task_by_name, json_schema_input_type=str | dict[str, JsonValue]),
]


class ReasoningGymSource(Section):
    """Prompts made by generators of reasoning-gym 0.1.25, checked by its verifiers."""

    source: Literal["reasoning_gym"]
    tasks: list[Task] = Field(min_length=1)
    """Tasks by name, or with generator options and a count."""
    count: int | None = Field(default=None, ge=1)
    """Distinct prompts in all, spread evenly: each task gets ``count // tasks`` and the first
    ``count % tasks`` tasks of the list one more."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """System message put before every question."""
    answer_tag: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """Tag that holds the answer (``answer`` for ``<answer>..</answer>``). Without it the whole
    completion is the answer."""


def _from_one(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


class StringTaskConfig(Section):
    """One task on strings; it is as hard as the strings are long."""

    name: Literal[
        "reverse", "copy", "spaced_copy", "sort", "add", "parity", "edit",
        "double", "shift", "highest", "mirror", "rotate",
    ]  # fmt: skip
    """``reverse``: the letters backwards. ``copy``: again. ``spaced_copy``: with a dot between each
    two. ``sort``: in the order of the alphabet. ``add``: two numbers, their digits in pairs, the
    last ones first; the digits of the sum, last one first. ``parity``: after each bit, whether an
    odd number of ones has been read. ``edit``: of equal neighbours one, and every ``a`` twice.
    ``double``: every letter twice. ``shift``: for each letter the next of the alphabet, ``a`` for
    the last. ``highest``: after each letter, the highest that has been read. ``mirror``: forwards,
    then backwards. ``rotate``: the first letter moved to the end."""
    lengths: Annotated[
        tuple[int, int],
        BeforeValidator(_from_one, json_schema_input_type=int | tuple[int, int]),
    ]
    """Shortest and longest string, >= 1, drawn evenly; a number is both. Letters are ``a`` to
    ``j``; of ``add`` it is the number of digits."""
    count: int | None = Field(default=None, ge=1)
    """Distinct prompts of this task. Either every task has a count, or the source has one."""
    instruction: str = Field(default="", exclude_if=lambda value: not value)
    """Stands before the string, with a space between: for models of text, which read requests."""
    separator: str = Field(default="", exclude_if=lambda value: not value)
    """Stands between the characters of the string and of the answer, such as a space, so that a
    tokenizer of text makes one token of each."""

    @model_validator(mode="after")
    def _an_interval(self) -> StringTaskConfig:
        shortest, longest = self.lengths
        if not 1 <= shortest <= longest:
            raise ValueError(f"`lengths` must be [shortest, longest] from 1 on, not {self.lengths}")
        return self


class StringTaskSource(Section):
    """Prompts of tasks on strings, made by Cream, checked by ``exact_match``.

    For models of characters (``model.from_scratch``), and with ``separator`` for others. The task
    of a prompt in reports is its name with its length, such as ``reverse-7``.
    """

    source: Literal["string_tasks"]
    tasks: list[StringTaskConfig] = Field(min_length=1)
    """Tasks with their lengths."""
    count: int | None = Field(default=None, ge=1)
    """Distinct prompts in all, spread evenly over the tasks, the first ones getting the rest."""


class TableSource(Section):
    """What file and hub sources have in common: how rows become prompts."""

    columns: ColumnMapping = ColumnMapping()
    """Where the columns are, if they do not have the usual names."""
    ignore: list[str] = Field(default_factory=list)
    """Columns, and keys of turns, that may be dropped although they carry meaning (``label``,
    ``tools``, ``images``, ...). Without it such a file is refused."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many rows, from the start. Default: all."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """System message put first where a row has none."""
    task: str = Field(default="default", min_length=1)
    """Task name of rows without a task column."""
    verifier: VerifierName | None = None
    """How completions are checked against ``answer``. Required for test data. ``reasoning_gym``
    needs a ``metadata`` column with the entry's metadata."""


class FileSource(TableSource):
    """Rows of a JSONL, Parquet or CSV file."""

    source: Literal["file"]
    path: str
    """Path, relative to the recipe's folder. The format follows the suffix."""

    @model_validator(mode="after")
    def _known_suffix(self) -> FileSource:
        if PurePath(self.path).suffix.lower() not in TABLE_SUFFIXES:
            raise ValueError(
                f"cannot tell the format of {self.path!r}: expected one of "
                f"{', '.join(TABLE_SUFFIXES)}"
            )
        return self


class HubSource(TableSource):
    """Rows of one split of a dataset, read with ``datasets.load_dataset``.

    The dataset's own loading code is never run: ``datasets`` 4 and later have no such feature.
    """

    source: Literal["hub"]
    dataset: str = Field(min_length=1)
    """Hub id, or a local folder (starting with ``.`` or ``/``, relative to the recipe's folder)."""
    config_name: str | None = None
    """Configuration (subset) of the dataset, for example ``main``."""
    split: str = Field(min_length=1)
    """Split, slices allowed: ``train``, ``test[:500]``."""
    revision: str | None = None
    """Branch, tag or commit; a commit makes the run repeatable."""


GeneratedSource = ReasoningGymSource | StringTaskSource
"""What makes prompts instead of reading them."""
Source = Annotated[
    ReasoningGymSource | StringTaskSource | FileSource | HubSource, Field(discriminator="source")
]


Sources = Annotated[list[Source], Field(min_length=1)]


class AnyRole(Section):
    """What seed, prompts and test have in common."""

    duplicates: Literal["refuse", "drop"] = "refuse"
    """What to do with rows of files or datasets that occur twice: refuse the data, or keep the
    first and count the rest. Generated prompts are always distinct."""


class Role(AnyRole):
    """Data that is read in full: seed and test."""

    sources: Sources
    """Where the data comes from; sources are put together in this order."""


class SeedData(Role):
    """Prompts with completions, imitated by supervised fine-tuning (the paper's D_S)."""

    verdicts: int = Field(default=0, ge=0, exclude_if=lambda value: value == 0)
    """Seed items that also teach the model to judge: each becomes two further examples, the
    question whether its completion or that of another item of its task is better, in both orders.
    For ``scir`` and other verdicts of the model itself."""

    @model_validator(mode="after")
    def _counts(self) -> SeedData:
        _require_counts(self.sources)
        return self


class PromptData(AnyRole):
    """Unlabelled prompts (the paper's D_U), a different slice for every iteration.

    Reference answers that a source happens to have are kept for reports and the oracle.
    """

    sources: Sources | None = None
    """Where the data comes from; sources are put together in this order."""
    by_iteration: list[Sources] | None = Field(default=None, min_length=1)
    """Sources of iteration 1, 2, ..., instead of `sources`: prompts that become harder, say. The
    last ones are also those of later iterations. No prompt is used twice."""
    per_iteration: int = Field(ge=1)
    """Prompts of one iteration. Generated sources spread it evenly over all their tasks: each gets
    ``per_iteration // tasks`` and the first ``per_iteration % tasks`` one more."""

    def sources_of(self, iteration: int) -> list[Source]:
        """Sources of an iteration, counted from 1."""
        if self.by_iteration is None:
            return self.sources or []
        return self.by_iteration[min(iteration, len(self.by_iteration)) - 1]

    @model_validator(mode="after")
    def _one_list(self) -> PromptData:
        if (self.sources is None) == (self.by_iteration is None):
            raise ValueError("give `sources`, or `by_iteration`; one of them and not both")
        for sources in self.by_iteration or [self.sources or []]:
            self._require_one_kind(sources)
        return self

    def _require_one_kind(self, sources: list[Source]) -> None:
        generated = [s for s in sources if isinstance(s, GeneratedSource)]
        if generated and len(generated) < len(sources):
            raise ValueError(
                "`prompts` mixes generated tasks with files or datasets, so `per_iteration` does "
                "not say how many of each; write the generated prompts to a file first"
            )
        for source in generated:
            if source.count is not None or any(task.count is not None for task in source.tasks):
                raise ValueError(
                    "`per_iteration` decides how many prompts are made; remove `count`"
                )
        tasks = sum(len(source.tasks) for source in generated)
        if tasks > self.per_iteration:
            raise ValueError(
                f"`per_iteration` is {self.per_iteration}, less than one for each of {tasks} tasks"
            )


class TestData(Role):
    """Prompts with verifiable answers, never trained on."""

    __test__ = False  # pytest would take the name for a test class

    @model_validator(mode="after")
    def _counts_and_verifiers(self) -> TestData:
        _require_counts(self.sources)
        for source in self.sources:
            if not isinstance(source, GeneratedSource) and source.verifier is None:
                raise ValueError(
                    f"a `{source.source}` source of test data needs a `verifier`: exact_match, "
                    "last_number, stated_number, math_verify, choice_letter or reasoning_gym"
                )
        return self


class DataConfig(Section):
    """All data of a run."""

    seed: SeedData | None = None
    """Examples for supervised fine-tuning."""
    prompts: PromptData
    """Prompts that the policy answers and learns from."""
    test: TestData | None = None
    """Prompts on which every M_t is measured. No test prompt may be a seed or training prompt."""


def _require_counts(sources: list[Source]) -> None:
    for source in sources:
        if not isinstance(source, GeneratedSource):
            continue
        own = [task.count is not None for task in source.tasks]
        if source.count is not None and any(own):
            raise ValueError("give `count` either to the source or to its tasks, not to both")
        if source.count is None and not all(own):
            raise ValueError(
                f"a `{source.source}` source needs `count` (spread over its tasks), or one in "
                "every task"
            )
        if source.count is not None and source.count < len(source.tasks):
            raise ValueError(
                f"`count` is {source.count}, less than one for each of {len(source.tasks)} tasks"
            )
