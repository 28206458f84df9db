"""What a run tells of itself, as typed records: its stages now, and what each of them found.

Everything here is plain data that is stored as JSON and read back unchanged. Who writes a record
and who reads it import the same class, so a key exists once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """The base of every record: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


StageKind = Literal[
    "freeze_prompts",
    "freeze_seed",
    "freeze_seed_parts",
    "evaluate",
    "fine_tune",
    "sample",
    "score",
    "verify",
    "mark",
    "text_score",
    "matrix",
    "pair",
    "transform",
    "score_examples",
    "train",
]
"""What a stage does. ``score``: log-probabilities under a model of the run. ``mark``: which
completions a data set brought. ``text_score``: a judge, a reward model or a scorer of the user's
reads completions. ``matrix``: columns joined. ``transform``: pairs to training examples of another
shape, whose new sequences ``score_examples`` scores under the loss reference. The three that freeze
keep the data of the run."""


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
    name."""
    inputs: tuple[str, ...] = ()
    """Stages that are read, by name. Of scores: the samples. Of a matrix: all samples, those of the
    policy first, then their scores. Of a training: pairs and matrix, then
    the transformed examples and their scores, if there are any."""
    source: str | None = None
    """Which prompts it works on, a key of the run's token counts; None where no model runs."""
    prompts: int = 0
    """How many of them; seed examples of a fine-tuning."""
    completions: int = 0
    """Completions drawn, read or trained on; of ``train`` the most there can be."""
    max_completion_tokens: int | None = None
    """Limit of what is drawn."""
    epochs: int = 1
