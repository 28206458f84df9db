"""What each command prints with ``--json``: one record per command, and the schema made of it.

Records that other rooms share are defined where they are made; those that only a command knows are
here. ``scripts/write_schemas.py`` writes the schemas to ``cream/schemas``, and a test compares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from cream.records import ConstantAnswer, Count, MatrixSummary, Record, SampleSummary, TrainSummary
from cream.report.summary import Evaluation, RunSummary
from cream.types import Tally

Least1 = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class EvaluatedModel(Evaluation):
    """Accuracy of one model."""

    model: str
    seed: Count
    baseline: dict[str, ConstantAnswer]
    """Best constant answer per task."""


class ComingModel(Record):
    """A model that comes with Cream."""

    name: str
    what: str
    parameters: Count
    cached: bool
    folder: str


class WrittenPage(Record):
    """The page that was written."""

    path: str
    bytes: Least1
    """Of the page and of the records beside it, together."""
    prompts: Count
    """Prompts of all sets of all runs that have completions or answers."""
    shown: Count
    """Of these, the ones that can be read in the page."""
    records: Literal["whole", "sampled"]
    """Whether every prompt can be read, or a stratified sample stands for them."""


class UploadFile(Record):
    """A file of a model."""

    name: str
    bytes: Count


class Pushed(Record):
    """What goes, or would go, to the hub."""

    run: str
    model: str
    to: str
    private: bool
    files: list[UploadFile]
    left_out: list[str]
    """Files of the model's folder that are no part of a model and are not sent."""
    bytes: Count
    """Sum over the files."""
    card: str
    """Text of README.md, as it would be sent."""
    url: str | None
    """Of the commit; null with --dry-run."""


class PreparedFile(Record):
    """A file of a recipe made from a public dataset."""

    role: Literal["seed", "prompts", "test"]
    rows: Count
    tally: Tally
    """Rows read, by what became of them."""


class PreparedData(Record):
    """What was written of a public dataset, and left out; the manifest beside it is the same."""

    dataset: str
    source: str
    """Hub id, or the local folder."""
    revision: str | None
    """On the hub, as given."""
    evaluation_instruction: str | None
    """What test prompts end with; null for a dataset without test prompts."""
    files: dict[str, PreparedFile]


class WrittenTrajectories(Record):
    """Seed data made of a model's own answers."""

    path: str
    tally: Tally
    """Seed prompts that were ``written``, and the others by reason."""


class HarnessMetric(Record):
    """A metric of a task of lm-eval-harness."""

    metric: str
    filter: str
    value: float
    stderr: float | None
    """As the harness has it; null where it has none."""


class HarnessTask(Record):
    """A task of lm-eval-harness."""

    task: str
    version: str | None
    n: Count
    """Examples that were asked."""
    of: Count
    """Examples that the task has."""
    metrics: list[HarnessMetric]


class HarnessOptions(Record):
    """How the harness was run."""

    limit: Least1 | None
    fewshot: Count | None
    """Null: as the task says."""
    chat_template: bool
    seed: Count
    batch_size: Least1
    dtype: str


class OutsideEvaluation(Record):
    """Results of lm-eval-harness; the same object is stored."""

    model: str
    harness: str
    """Version of lm-eval."""
    settings: HarnessOptions
    tasks: list[HarnessTask]


class BenchMachine(Record):
    """What a benchmark was measured on."""

    cpu: str
    device: str
    threads: Least1
    usable_cores: Least1
    memory_bytes: Least1
    trl: str | None
    cream: str
    python: str
    platform: str
    cpu_count: int | None
    packages: dict[str, str | None]
    vllm: str | None = None
    """Version of vLLM, if it took part."""


class BenchSettings(Record):
    """How a benchmark was measured."""

    model: str
    dtype: Literal["bfloat16", "float32"]
    rounds: Least1
    quick: bool
    allow_load: bool


class BenchProduct(Record):
    """A measured matrix product of shapes (rows, inner) and (inner, columns)."""

    dtype: Literal["bfloat16", "float32"]
    rows: Least1
    inner: Least1
    columns: Least1
    flops_per_second: Positive


class BenchFloor(Record):
    """Rates of this machine, measured in the same run, and the formula of the shares."""

    formula: str
    products: list[BenchProduct]
    copy_bytes_per_second: Positive


class BenchRow(Record):
    """Ours against one baseline, in one case."""

    name: str
    baseline: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    """Median over the rounds."""
    theirs: float
    ratio: float
    """ours / theirs, of the medians."""
    low: float
    """Smallest ratio of a round."""
    high: float
    """Largest ratio of a round."""
    n: Least1
    """Rounds."""
    floor_share: Positive | None
    """Least possible time over our time; null where no floor is stated."""
    foreign_cores: Annotated[float, Field(ge=0)] | None
    """Work of other processes meanwhile, in cores; null where the system does not tell."""
    notes: list[str]
    command: str


class BenchPoint(Record):
    """Our own figure at one value of what is varied."""

    curve: str
    x: float
    x_name: str
    value: Positive
    unit: str
    n: Least1
    floor_share: Positive | None
    foreign_cores: Annotated[float, Field(ge=0)] | None


class BenchStage(Record):
    """Seconds of a stage of the whole run, or of all of it."""

    stage: str
    seconds: Annotated[float, Field(ge=0)]


class BenchSkip(Record):
    """A case or contestant that was left out, and why."""

    name: str
    reason: str


class BenchDocument(Record):
    """Cream timed side by side with what one would otherwise run."""

    command: str
    complete: bool
    """False if the run ended early; what was measured until then is here."""
    machine: BenchMachine
    settings: BenchSettings
    floor: BenchFloor | None
    rows: list[BenchRow]
    points: list[BenchPoint]
    stages: list[BenchStage]
    skipped: list[BenchSkip]


def documents() -> dict[str, Any]:
    """What each command prints, by the name of its schema."""
    from cream.inspect.doctor import Machine
    from cream.inspect.plan import Plan
    from cream.programs.ranking_evaluation import RankingFigures
    from cream.programs.recompute import RecomputedPairs
    from cream.programs.reranking import FittedReranker, ScoredCandidates
    from cream.programs.steering import FittedSteering, SteeredScores
    from cream.programs.steering_evaluation import SteeringEvaluation
    from cream.report.comparison import Comparison
    from cream.report.edits import WrittenEdits
    from cream.report.explain import Explanation
    from cream.report.export import WrittenExport
    from cream.report.signals import TrustReport
    from cream.report.summary import RunStatus
    from cream.runs.verification import Verification

    return {
        "bench": BenchDocument,
        "compare": Comparison,
        "data-prepare": PreparedData,
        "data-trajectories": WrittenTrajectories,
        "doctor": Machine,
        "eval": EvaluatedModel,
        "eval-lm-eval": OutsideEvaluation,
        "explain": Explanation,
        "export": WrittenExport,
        "export-edits": WrittenEdits,
        "models": list[ComingModel],
        "pair": RecomputedPairs,
        "plan": Plan,
        "push": Pushed,
        "report": WrittenPage,
        "rerank-eval": RankingFigures,
        "rerank-fit": FittedReranker,
        "rerank-score": ScoredCandidates,
        "run": RunSummary,
        "sample": SampleSummary,
        "score": MatrixSummary,
        "status": RunStatus,
        "steer-eval": SteeringEvaluation,
        "steer-fit": FittedSteering,
        "steer-score": SteeredScores,
        "train": TrainSummary,
        "trust": TrustReport,
        "verify": Verification,
    }


SPOKEN = {"export": "export trl|flipped", "data-prepare": "data prepare"}
SPOKEN |= {"export-edits": "export edits"}
SPOKEN |= {"data-trajectories": "data trajectories"}
SPOKEN |= {"eval-lm-eval": "eval --lm-eval"}
SPOKEN |= {f"rerank-{name}": f"rerank {name}" for name in ("eval", "fit", "score")}
SPOKEN |= {f"steer-{name}": f"steer {name}" for name in ("eval", "fit", "score")}
"""Commands that a schema's file name does not spell."""


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(command: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what a command prints."""
    schema = TypeAdapter[Any](documents()[command]).json_schema(
        mode="serialization", schema_generator=_Untitled
    )
    title = f"cream {SPOKEN.get(command, command)} --json"
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": title}
