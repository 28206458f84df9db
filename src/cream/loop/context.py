"""What the stages of a run share: recipe, run directory, data, template, models, progress.

The models outside the loop that a method ranks by, its judge and its reward model, are found and
examined when a run is opened; loaded by their stage only, and only while nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, assert_never

import torch

from cream.algorithms.goals import with_goal
from cream.algorithms.judging import comparison_prompt, judge_prompt
from cream.data.dataset import LoadedData
from cream.data.verifiers import CUSTOM
from cream.engines.checkpoints import Checkpoints
from cream.engines.crew import Crew
from cream.engines.crew_engine import OnCrew
from cream.engines.embedder import Embedder
from cream.engines.engine import EngineChoice, OnTorch
from cream.engines.texts import Text
from cream.engines.window import WindowScorer, window_scorer
from cream.errors import DataError, RecipeError
from cream.loop.extensions import Extensions
from cream.models.chat import ChatEncoder
from cream.models.conversations import ConversationEncoder
from cream.models.loading import load_reward_model
from cream.models.reranker import Heads
from cream.models.steered_reward import FittedReward
from cream.plan import RunPlan
from cream.protocols import Engine, Progress, SamplingParams, Verifier
from cream.recipe import Recipe
from cream.recipe.recipe import EvaluationConfig, SamplingConfig
from cream.recipe.reranking import RerankerConfig, WindowConfig
from cream.recipe.scorers import JudgeConfig, PairwiseJudgeConfig
from cream.records import StageSpec
from cream.runs.store import Run, Stage, fingerprint
from cream.runs.trackers import RunTrackers
from cream.stages.segment import LastAnswer
from cream.types import EncodedPrompt, Goal, Prompt


@dataclass(frozen=True, slots=True)
class ExternalJudge:
    """A judge that is no model of the run; its weights are M0 of checkpoints of its own."""

    checkpoints: Checkpoints
    encoder: ChatEncoder
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ExternalRewardModel:
    """A reward model that has been examined and not loaded."""

    folder: Path
    encoder: ConversationEncoder
    fingerprint: str
    context_length: int | None
    device: torch.device
    compute_dtype: torch.dtype
    trust_remote_code: bool

    def load(self) -> Any:
        """Load the weights."""
        return load_reward_model(
            self.folder,
            dtype=self.compute_dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


DECIDED = ("instruction", "max_candidate_tokens")
"""Settings of windows that decide what heads were trained to read."""


@dataclass(frozen=True, slots=True)
class ExternalReranker:
    """A reranker, or a model that reranks by its own answers; examined and not loaded."""

    checkpoints: Checkpoints
    encoder: ChatEncoder
    config: RerankerConfig
    fingerprint: str
    """Of model and heads."""
    heads: Heads | None = None
    """None: the model's own answers are the scores."""

    def windows(self, given: WindowConfig | None) -> WindowConfig:
        """How candidates are put to it: as said, or as it was trained.

        Raises:
            RecipeError: Something is to be changed that training has decided.
        """
        own = self.config.windows
        if given is None:
            return own
        for name in DECIDED if self.heads is not None else ():
            if getattr(given, name) != getattr(own, name):
                raise RecipeError(
                    f"windows.{name}: training has decided it, it is {getattr(own, name)!r}; "
                    "leave it so, or fit another reranker"
                )
        return given

    def scorer(self, windows: WindowConfig, seed: int, name: str = "M0") -> WindowScorer:
        """The scorer, its model loaded: that of its own, or a model of a run by name."""
        model = self.checkpoints.for_inference(name)
        tokenizer, template = self.encoder.tokenizer, self.encoder.template
        return window_scorer(model, tokenizer, template, self.heads, windows, seed=seed)


@dataclass(frozen=True, slots=True)
class ExternalSteering:
    """A steered reward and the model whose states it reads; that one is not loaded."""

    checkpoints: Checkpoints
    encoder: ChatEncoder
    fitted: FittedReward
    context: tuple[tuple[Text, Text], ...] = ()
    """Winner and loser of each choice of the user."""

    @property
    def fingerprint(self) -> str:
        """Of the reward, the model it reads, its arithmetic, and what is known of the user."""
        known = [[one.text_id for one in pair] for pair in self.context]
        embedding = [self.fitted.record["embedding"], str(self.checkpoints.compute_dtype)]
        return fingerprint([self.fitted.fingerprint, embedding, known])

    def embedder(self) -> Embedder:
        """What it reads completions by, its model loaded."""
        return Embedder(
            self.checkpoints.for_inference("M0"),
            self.encoder,
            token_budget=self.fitted.module.config.token_budget,
            context_length=self.checkpoints.context_length,
        )


@dataclass(frozen=True, slots=True)
class ScorerModels:
    """What a method needs beside the models of its run; mostly nothing."""

    judge: ExternalJudge | None = None
    """None also where a model of the run judges."""
    reward_model: ExternalRewardModel | None = None
    steering: ExternalSteering | None = None
    reranker: ExternalReranker | None = None
    """None also where a model of the run reranks."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint per scorer, for the manifest."""
        found = {
            "judge": self.judge,
            "reward_model": self.reward_model,
            "steer": self.steering,
            "reranker": self.reranker,
        }
        return {name: model.fingerprint for name, model in found.items() if model is not None}


def empty_question(judge: JudgeConfig | PairwiseJudgeConfig) -> str:
    """What a judge is asked, without prompt and responses."""
    match judge:
        case JudgeConfig():
            return judge_prompt("", "")
        case PairwiseJudgeConfig():
            return comparison_prompt("", "", "")
        case _:
            assert_never(judge)


@dataclass
class Context:
    """Everything a stage needs. Holds no results: those are in the run directory."""

    recipe: Recipe
    run: Run
    data: LoadedData
    encoder: ChatEncoder
    checkpoints: Checkpoints
    engine: Engine
    """What samples from and scores under the models."""
    engine_choice: EngineChoice
    progress: Progress
    seed_model_fingerprint: str
    plan: RunPlan
    verifier: Verifier
    """Checks an answer the way its prompt says; see `answer_verifier`."""
    scorers: ScorerModels = field(default_factory=ScorerModels)
    """Models outside the run that a method ranks by."""
    trackers: RunTrackers = field(default_factory=RunTrackers)
    """Where metrics go beside the run directory."""
    extensions: Extensions = field(default_factory=Extensions)
    """Objects that the user brought."""
    borrow: Callable[[Stage], None] | None = None
    """Takes a stage over from another run that has finished it; None: this run makes all itself."""

    @property
    def crew(self) -> Crew | None:
        """Workers that sample and score; None where this process does."""
        return self.engine.crew if isinstance(self.engine, OnCrew) else None

    def engine_of(self, checkpoints: Checkpoints) -> Engine:
        """Torch on the models of others, such as a judge of its own, where the run's engine is."""
        on = self.engine
        return on.of(checkpoints) if isinstance(on, OnCrew) else OnTorch(checkpoints)

    def close(self) -> None:
        """Hold no model and no worker any more, and let go of the trackers."""
        self.checkpoints.close()
        if self.crew is not None:
            self.crew.close()
        self.trackers.close()

    @cached_property
    def template_fingerprint(self) -> str:
        """Fingerprint of what turns messages into ids."""
        return fingerprint([self.encoder.template, list(self.encoder.stop_ids)])

    @property
    def sampled_by(self) -> dict[str, str]:
        """What a stage that samples depends on, beside the model."""
        return {"engine": self.engine_choice.settings.name, **self.extensions.sampler_inputs()}

    def encode_set(self, sampled: str) -> dict[str, tuple[int, ...]]:
        """Token ids of the prompts that a stage samples for, by prompt id."""
        asked = self.plan.sets[sampled]
        encoded = self.encode(asked.prompts, 0, asked.goal)
        return {item.prompt.prompt_id: item.token_ids for item in encoded}

    def encode(
        self, prompts: Sequence[Prompt], max_completion_tokens: int, goal: Goal | None = None
    ) -> list[EncodedPrompt]:
        """Token ids of prompts, refused where prompt and completion would not fit the context."""
        limit = self.checkpoints.context_length
        return encode_prompts(prompts, self.encoder, limit, max_completion_tokens, goal)

    def stage(self, spec: StageSpec, inputs: Mapping[str, Any]) -> Stage:
        """A stage of this run; the run's seed is always among the inputs."""
        stage = self.run.stage(spec, {"seed": self.recipe.seed, **inputs})
        if self.borrow is not None:
            self.borrow(stage)
        return stage

    def model_fingerprint(self, model: str) -> str:
        """Fingerprint of a model: of the weights for M0, of the stage that trained it otherwise."""
        if model == "M0":
            return self.seed_model_fingerprint
        return self.run.finished(self.plan.maker(model).name).fingerprint

    def check_model(self, model: str) -> None:
        """Check that a model of this run is what the stage that made it wrote, once per process.

        Raises:
            RunError: It is not.
        """
        self.run.finished(self.plan.maker(model).name).check_model()

    def verified_by(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """What decides verdicts beside prompts: the user's verifier, how trajectories are cut."""
        verifier, rule = self.extensions.verifier, self.plan.parts(1).trajectory
        named = any(prompt.metadata.get("verifier") == CUSTOM for prompt in prompts)
        found = {"verifier": verifier.fingerprint} if verifier is not None and named else {}
        return found if rule is None else {**found, "trajectory": fingerprint(rule.read_by)}

    @cached_property
    def answer_verifier(self) -> Verifier:
        """What checks whole completions: of trajectories their last answer."""
        rule = self.plan.parts(1).trajectory
        return self.verifier if rule is None else LastAnswer(self.verifier, rule.phrases.grammar)

    def prompts_fingerprint(self, prompts: Sequence[Prompt]) -> str:
        """Fingerprint of prompts, their answers included."""
        return fingerprint([[p.prompt_id, p.task, p.answer, dict(p.metadata)] for p in prompts])


def encode_prompts(
    prompts: Sequence[Prompt],
    encoder: ChatEncoder,
    context_length: int | None,
    max_completion_tokens: int,
    goal: Goal | None = None,
) -> list[EncodedPrompt]:
    """Token ids of prompts, told a goal or not.

    Raises:
        DataError: A prompt and its completion would not fit the context.
    """
    encoded = [
        EncodedPrompt(
            p, encoder.encode_prompt(p.messages if goal is None else with_goal(p.messages, goal))
        )
        for p in prompts
    ]
    for item in encoded:
        length = len(item.token_ids)
        if context_length is not None and length + max_completion_tokens > context_length:
            start = item.prompt.messages[-1].content[:50]
            raise DataError(
                f"prompt {item.prompt.prompt_id} ({start!r}) has {length} tokens; with "
                f"max_completion_tokens {max_completion_tokens} it exceeds the model's context of "
                f"{context_length}"
            )
    return encoded


def sampling_params(
    settings: SamplingConfig | EvaluationConfig, encoder: ChatEncoder
) -> SamplingParams:
    """A recipe's sampling settings, with the end tokens of the template."""
    return SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_completion_tokens=settings.max_completion_tokens,
        stop_ids=encoder.stop_ids,
    )
