"""Scorers that read text: a judge asked in words for a score, and an external reward model.

They belong to the methods that rank by them (`srlm_judge`, `reward_model`). Like the ``model``
section they only name a model; whether it can be used is found out when the run is opened.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cream.recipe.base import Section, usual
from cream.recipe.columns import JUDGE, REWARD_MODEL, STEER, VERDICT
from cream.recipe.model import EMBEDDED_NAME, NonBlank
from cream.recipe.reranking import RerankerSource

OWN_MODELS = ("policy", "seed")
"""Judges that are models of the run itself."""


class JudgeModel(Section):
    """Who judges, and how its judgements are drawn."""

    column: ClassVar = JUDGE

    model: NonBlank = "policy"
    """``policy``: M_t judges its own completions (self-rewarding). ``seed``: M0, a judge that does
    not move. Anything else is a local folder or a hub id, as in ``model.name``; write ``./policy``
    for a folder of that name."""
    revision: NonBlank | None = None
    """Branch, tag or commit of a judge from the hub."""
    chat_template: NonBlank | None = None
    """Jinja chat template of a judge of its own, or a path to one; see ``model.chat_template``."""
    trust_remote_code: bool = False
    """Run Python code that comes with a judge of its own."""
    temperature: float = Field(default=0.7, ge=0.0)
    """Softmax temperature of the judgements; 0 is greedy."""
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    """Nucleus mass of the judgements."""
    max_judgement_tokens: int = Field(default=256, ge=1)
    """Tokens after which a judgement is cut off, and then usually holds no score."""

    @model_validator(mode="after")
    def _own_models_have_no_settings(self) -> JudgeModel:
        given = [
            name
            for name in ("revision", "chat_template", "trust_remote_code")
            if getattr(self, name) not in (None, False)
        ]
        if self.model in OWN_MODELS and given:
            raise ValueError(
                f"{', '.join(given)} would be ignored: judge {self.model!r} is a model of the run, "
                "which the `model` section describes. Remove it, or name another judge"
            )
        if self.model == EMBEDDED_NAME and self.revision is not None:
            raise ValueError(
                f"revision {self.revision!r} is given, but the embedded model has one pinned "
                "revision. Remove it, or name a hub model"
            )
        return self


class JudgeConfig(JudgeModel):
    """A judge that is asked for a score from 0 to 5, several times per completion."""

    rubric: Literal["additive_5"] = "additive_5"
    """One point for each of five statements that holds (arXiv 2401.10020)."""
    votes: int = Field(default=3, ge=1)
    """Judgements per completion, 1 if greedy; the score is the mean of those that could be read."""

    @model_validator(mode="after")
    def _greedy_judges_once(self) -> JudgeConfig:
        if self.temperature == 0 and self.votes > 1:
            raise ValueError(
                f"votes {self.votes} at temperature 0 are the same judgement {self.votes} times; "
                "set votes: 1, or a temperature above 0"
            )
        return self


class PairwiseJudgeConfig(JudgeModel):
    """A judge that is asked which of two completions is better, once in either order."""

    rubric: Literal["pairwise"]
    """Every completion meets every other one of its group: N (N - 1) judgements per prompt. The
    score is the share of the others that it beats; a tie, or a preference that turns with the
    order, counts half."""


class VerdictConfig(Section):
    """Verdicts of one letter, scored in both orders: N (N - 1) short questions per prompt."""

    column: ClassVar = VERDICT

    model: Literal["policy", "seed"] = "policy"
    """``policy``: M_t judges its own completions. ``seed``: M0, a judge that does not move."""
    label_mass: float = Field(default=0.5, ge=0, le=1)
    """Probability of the two letters, in the worse order, below which a verdict is none."""
    temperature: float = Field(default=1.0, gt=0)
    """What the log-odds of the letters are divided by, > 0."""


AnyJudge = Annotated[
    Annotated[JudgeConfig | PairwiseJudgeConfig, Field(discriminator="rubric")],
    usual("rubric", "additive_5"),
]
"""``rubric`` decides which fields may follow; left out it is ``additive_5``."""


class RewardModelConfig(Section):
    """A sequence classifier with one output that was trained to score answers."""

    column: ClassVar = REWARD_MODEL

    name: NonBlank
    """A local folder or a hub id (``org/name``) of a model with a classification head of one
    output (``AutoModelForSequenceClassification``), weights in safetensors."""
    revision: NonBlank | None = None
    """Branch, tag or commit of a hub model."""
    chat_template: NonBlank | None = None
    """Jinja chat template, or a path to one, in place of the reward model's own."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the reward model, as in ``model.compute_dtype``; its head is float32."""
    token_budget: int = Field(default=4096, ge=64)
    """Tokens in one forward pass, padding included; a longer text goes alone."""

    @model_validator(mode="after")
    def _is_no_language_model(self) -> RewardModelConfig:
        if self.name == EMBEDDED_NAME:
            raise ValueError(
                f"{EMBEDDED_NAME} is a language model without a classification head; name a reward "
                "model, or let it judge in words: method srlm_judge with judge.model"
            )
        return self


class SteerConfig(Section):
    """A reward of ``cream steer fit``, for one user."""

    column: ClassVar = STEER

    reward: NonBlank
    """Folder that ``cream steer fit`` wrote."""
    context: NonBlank | None = None
    """JSONL of the user's choices (``prompt``, ``a``, ``b``, ``choice``, ``user_id``); null:
    nobody in particular, C = 0."""
    model: NonBlank | None = None
    """Where the model that the reward reads is now; null: where it was when the reward was
    fitted."""


TextScorerConfig = (
    JudgeConfig | PairwiseJudgeConfig | RewardModelConfig | SteerConfig | RerankerSource
)
"""What a method can rank by that reads text; ``column`` is the score column that it fills."""
