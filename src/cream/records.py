"""What a run tells of itself, as typed records: its stages, what each found, and its results.

Everything here is plain data that is stored as JSON and read back unchanged. Who writes a record
and who reads it import the same class, so a key and its unit are stated once; the JSON Schemas of
``--json`` come from here too (`cream.cli.documents`). Absence is null: a figure that could not be
computed or was not asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cream.errors import RunError
from cream.types import AddedTokens, Tally

Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]
"""A share of something, a rate, or a probability."""
Counts = dict[str, Count]

AnyRecord = TypeVar("AnyRecord", bound="Record")


class Record(BaseModel):
    """Base of all records: frozen, closed to unknown keys, without NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def read(cls: type[AnyRecord], value: Any, source: object) -> AnyRecord:
        """Inverse of `as_json`.

        Args:
            value: JSON values.
            source: Where they come from, for the error.

        Raises:
            RunError: They are not such a record: another version of Cream wrote them.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(
                f"{source} holds no record that this version of Cream knows ({place}: "
                f"{first['msg']}); the version that made the run, named in its manifest.json, "
                "reads it"
            ) from error


StageKind = Literal[
    "freeze_prompts",
    "freeze_seed",
    "freeze_seed_parts",
    "evaluate",
    "evaluate_goal",
    "fine_tune",
    "sample",
    "edit",
    "score",
    "verify",
    "mark",
    "text_score",
    "answer",
    "certainty",
    "token_reward",
    "token_head",
    "segment",
    "matrix",
    "pair",
    "advantage",
    "score_tokens",
    "transform",
    "score_examples",
    "train",
]
"""What a stage does. ``evaluate_goal``: an evaluation of a model that is told a goal. ``score``:
log-probabilities under a model of the run. ``edit``: wrong completions edited, the edits put behind
them. ``mark``: which completions a data set or an editor brought. ``text_score``: a judge, a reward
model or a scorer of the user's reads completions. ``answer``: a witness answers, and completions
are compared with its answers. ``certainty``: how certain the policy is of its next tokens.
``token_reward``: a reward of every token. ``token_head``: a head learns such rewards from edits.
``segment``: completions cut into solutions and checks, each verified. ``matrix``: columns joined.
``advantage``: each sample's reward against the others'. ``score_tokens``: log-probabilities of
every token under a model. ``transform``: pairs to training examples of another shape, whose new
sequences ``score_examples`` scores under the loss reference. The three that freeze keep the data of
the run."""


class StageSpec(Record):
    """One stage of a run, before it is made: what it does, to what, and how much work it is.

    The list of all of them, in running order, is the run's plan: it is executed, shown, counted and
    reported from. A stage keeps its own spec in its record, so nothing reads meaning from names.
    """

    name: str
    """Its folder in the run, as in ``iteration-1/sample``."""
    kind: StageKind
    label: str
    """What it does in words, as progress shows it."""
    t: int = 0
    """Iteration that it is part of; 0 before the loop."""
    draft: bool = False
    """Part of the draft of an iteration, which trains the future model."""
    learner: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Witness whose iteration it is part of, where one learns along."""
    model: str | None = None
    """The model of the run that is loaded: sampled from, scored under, evaluated, or the one that
    a training starts from."""
    result: str | None = None
    """The model that a training makes."""
    reference: str | None = None
    """The model whose log-probabilities the loss of a preference training compares with."""
    seed_part: str | None = None
    """Part of the seed examples that a fine-tuning imitates: the policy's, or a witness'."""
    origin: str | None = None
    """What makes the completions of a sample stage is to the iteration: policy, past or future."""
    column: str | None = None
    """Score column that is filled; of ``score`` it is the model's, see `model`. Of a transform its
    name. Of ``evaluate_goal`` the goal."""
    inputs: tuple[str, ...] = ()
    """Stages that are read, by name. Of samples and evaluations: the frozen data that the prompts
    are from. Of edits: the samples. Of scores: the samples, or the edits with them; of token
    rewards then the log-probabilities of tokens, or the head. Of a matrix: all samples, those of
    the policy first, then their scores. Of advantages: the matrix, then those of the first
    iteration, what was segmented, and log-probabilities of tokens. Of a training: pairs or
    advantages and the matrix, then the transformed examples and their scores, or the reference's
    token log-probabilities, if there are any."""
    source: str | None = None
    """Which prompts it works on, a key of the run's token counts; None where no model runs."""
    prompts: int = 0
    """How many of them; seed examples of a fine-tuning."""
    completions: int = 0
    """Completions drawn, read or trained on; of ``train``, ``edit`` and what reads edits the most
    there can be."""
    max_completion_tokens: int | None = None
    """Limit of what is drawn."""
    epochs: int = 1
    added: AddedTokens | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a training: what runs through the model beside every pair, at most; None: nothing."""
    examples: int = Field(default=0, exclude_if=lambda value: value == 0)
    """Of a training on examples that are no pairs: how many, prompts with all their samples."""

    @property
    def branch(self) -> tuple[str, ...]:
        """The draft or the learner that it is part of; empty in the policy's own iteration."""
        return ("draft",) if self.draft else () if self.learner is None else (self.learner,)


class Share(Record):
    """A share of items with its 95 % Wilson interval; all null where there is no item."""

    share: Rate | None
    low: Rate | None
    high: Rate | None
    n: Count
    """Items."""


class ActionSummary(Record):
    """What the actions of an iteration are worth."""

    tally: Tally
    """Actions by what their reward was compared with; ``left_out``: not trained on."""
    mean_reward: dict[str, float | None]
    mean_abs_advantage: dict[str, float | None]
    """By kind, of those trained on."""


class AdvantageSummary(Record):
    """What the samples of an iteration are worth; figures that read verdicts decide nothing."""

    reward: str
    """Quantity that is the reward."""
    tally: Tally
    """Prompts: trained on, or left out by reason."""
    completion_tally: Tally
    """Samples likewise."""
    mean_reward: float | None
    """Over all samples with a value, penalties included; null without any."""
    mean_abs_advantage: float | None
    """Over the samples that are trained on; null without any."""
    right: Share
    """Samples that are right, of those with a verdict."""
    reward_order: Share
    """Two samples of a prompt, one right and one wrong, whose rewards differ: how often the right
    one's is higher. The interval takes such pairs as independent, which those of a prompt are
    not."""
    reward_ties: Count
    """Further such pairs, of equal reward."""
    trained_tokens: Count
    """Tokens of the samples that are trained on."""
    entropy: float
    """Mean of -log p over M_t's sampled tokens, nats per token."""
    vote_share: Rate | None
    """Mean share of a prompt's samples with its most frequent answer; null where none is found."""
    behaviour_gap: float | None
    """Mean of log-probability when sampled less that under M_t, nats per token: 0 up to rounding if
    samples are drawn from the policy that is trained (temperature 1, top-p 1)."""
    kl_to_reference: float | None
    """What the divergence in the reward is: mean over samples of its k1 estimate, nats per
    completion; null without one."""
    kl_to_seed_per_token: float | None
    """Mean log-ratio of M_t against M0 on what M_t sampled, nats per token (estimator k1)."""
    kl_to_previous_per_token: float | None
    """The same against M_{t-1}."""
    noise: dict[str, float]
    """Noise floor of scoring per model, nats per square root of a token."""
    completions: Count
    distinct: Count
    truncated: Count
    mean_completion_tokens: float
    warnings: dict[str, str]
    """By name: a sentence each, see `cream.algorithms.advantages.collapse`."""
    actions: ActionSummary | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of methods that weigh every action by itself."""


class EngineUsed(Record):
    """Base of summaries of stages that sample."""

    engine: str
    engine_reason: str


class SampleProfile(Record):
    """Completions that a model sampled; those a data set brought along are not counted."""

    completions: Count
    tokens: Count
    truncated: Count
    distinct: Count
    """Different ones per prompt."""
    duplicate_rate: Rate | None
    distinct_2: Rate | None
    """Different pairs of neighbouring tokens over all such pairs."""
    distinct_2_completions: Count
    """How many completions, the first ones, `distinct_2` is of."""


class SampleSummary(SampleProfile, EngineUsed):
    """What a sample stage made."""


class ScoreSummary(Record):
    """What a scoring pass of a model found."""

    noise: float
    """Noise floor, nats per square root of a token."""


class TextScoreSummary(Record):
    """What a judge, a reward model or a scorer of one's own gave."""

    tally: Tally
    """Completions scored, and not, by reason."""
    mean_score: float | None
    distinct_scores: Count
    details: dict[str, float] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Means of what else the scorer told, by name."""


class AnswerSummary(EngineUsed):
    """What a witness answered, and which completions are the same answer."""

    answers: Count
    """Prompts answered, greedily."""
    tokens: Count
    """Of these answers."""
    truncated: Count
    same: Count
    """Completions that are the witness' answer."""
    other: Count
    not_compared: Count
    """Completions without an answer, or of prompts where the witness has none."""


class MatrixSummary(Record):
    """What a score matrix holds."""

    columns: list[str]


ADDED = "added"
"""Name of the pairs that got an option's sequences in a tally; the others are named by reason."""


class TrainSummary(Record):
    """What a training did."""

    steps: Count
    tally: Tally
    """Examples or pairs, replayed ones included: trained, and left out by reason."""
    replayed: Count | None = None
    """Seed examples among them, of all epochs; null where the recipe replays none."""
    precision: str
    layout: str | None
    """How pairs were laid out in a step; null for fine-tuning."""
    learning_rate_scale: float
    skipped: str | None
    """Why nothing was trained; null if it was."""
    steps_at_rounding: Count = 0
    """Steps that were not taken, because their gradient was rounding alone."""
    relative_movement: Rate | None = None
    """Factor on the learning rate times the share of steps taken; null in older records."""
    warnings: list[str]
    last_step: dict[str, float | None]
    """Metrics of the last step."""
    answers: Tally | None = None
    """Examples by where their answer of the optimism term is from: ``apart``, ``chosen`` or
    ``rejected``, or why they have none. Null without that term, and then not written."""

    def as_json(self) -> dict[str, Any]:
        """See `Record`."""
        absent = {"answers"} if self.answers is None else set[str]()
        return self.model_dump(mode="json", by_alias=True, exclude=absent)


class TrajectoryFigures(Record):
    """What solutions and checks within completions came to."""

    counts: Counts
    """See `cream.algorithms.trajectories.TrajectoryCounts`."""
    shares: dict[str, float | None]
    """See its ``figures``; last - first = (1 - first) mended - first spoilt, on counts."""
    one_retry: float | None
    """Gain to expect of one retry, p (1 - p) J; null without checks of right and wrong ones."""


class EvaluateSummary(EngineUsed):
    """What an evaluation counted; `Evaluation` is computed from its answers."""

    greedy_right: Count
    greedy_total: Count
    answers: Count
    """Greedy ones and samples."""
    trajectories: TrajectoryFigures | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Of greedy answers, where completions are cut; one is then right if its last solution is."""


class ConstantAnswer(Record):
    """What always giving one answer scores on a task."""

    answer: str | None
    accuracy: Rate
    n: Count


class FrozenPrompts(Record):
    """What a copy of prompts holds."""

    prompts: Count
    constant_baseline: dict[str, ConstantAnswer] = {}
    """Best constant answer per task, of the test prompts."""
    tally: Tally | None = None
    """Test prompts by what became of them."""
    unused: dict[str, Counts] = {}
    """Rows with a column that became nothing, by source and column."""
