"""What the steps of a run share: recipe, run directory, data, template, models, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cream.data.dataset import LoadedData
from cream.data.splits import POLICY, split_seed
from cream.data.verifiers import CUSTOM
from cream.errors import DataError
from cream.loop.extensions import Extensions
from cream.loop.scorer_models import ScorerModels
from cream.loop.shelf import ModelShelf
from cream.models.chat import ChatEncoder
from cream.protocols import Progress, SamplingParams, Verifier
from cream.recipe import Recipe
from cream.recipe.parts import MethodParts
from cream.recipe.recipe import EvaluationConfig, SamplingConfig
from cream.runs.store import Run, Stage, fingerprint
from cream.runs.tables import FUTURE_ORIGIN, PAST_ORIGIN, POLICY_ORIGIN
from cream.runs.trackers import RunTrackers
from cream.types import EncodedPrompt, Prompt, SeedExample

CALIBRATION = "calibration"
"""Part of the seed examples that no model is fine-tuned on, and the folder of their stages."""


@dataclass(frozen=True)
class SampleSet:
    """Prompts that one model answers, and where the answers and their scores are kept."""

    folder: str
    """``iteration-1``, ..., ``iteration-1/past``, ``iteration-1/future``, or ``calibration``; its
    stages are ``<folder>/sample``, ``<folder>/score/...``"""
    label: str
    """The same in words."""
    model: str
    prompts: tuple[Prompt, ...]
    answers: Mapping[str, Sequence[str]]
    """Per prompt id the completions that the data have for it. They join the sampled ones. Empty
    if no prompt has any."""
    seed_name: tuple[str | int, ...]
    """Name from which the seeds of the completions derive."""
    origin: str = POLICY_ORIGIN
    """What the model is to the iteration: its policy, its past or its future."""


@dataclass(frozen=True)
class Phase:
    """A score matrix, its pairs, and the model trained on them: an iteration, or its draft."""

    t: int
    folder: str
    """``iteration-1`` or ``iteration-1/draft``: ``<folder>/matrix``, ``/pair`` and ``/train``."""
    label: str
    parts: MethodParts
    sets: tuple[SampleSet, ...]
    """Completions of the matrix; those of M_t first."""
    result: str
    """Model that is trained: M_{t+1}, or F_{t+1}, the future model."""
    seed_name: tuple[str | int, ...]
    """Name from which the order of training derives."""


def _with_answers(
    examples: Sequence[SeedExample],
) -> tuple[tuple[Prompt, ...], dict[str, list[str]]]:
    prompts = {example.prompt.prompt_id: example.prompt for example in examples}
    answers: dict[str, list[str]] = {key: [] for key in prompts}
    for example in examples:
        answers[example.prompt.prompt_id].append(example.completion)
    return tuple(prompts.values()), answers


@dataclass
class Context:
    """Everything a step needs. Holds no results: those are in the run directory."""

    recipe: Recipe
    run: Run
    data: LoadedData
    encoder: ChatEncoder
    shelf: ModelShelf
    progress: Progress
    seed_model_fingerprint: str
    verifier: Verifier
    """Checks a completion the way its prompt says."""
    scorers: ScorerModels = field(default_factory=ScorerModels)
    """Models outside the run that a method ranks by."""
    trackers: RunTrackers = field(default_factory=RunTrackers)
    """Where metrics go beside the run directory."""
    extensions: Extensions = field(default_factory=Extensions)
    """Objects that the user brought."""
    borrow: Callable[[Stage], None] | None = None
    """Takes a stage over from another run that has finished it; None: this run makes all itself."""

    @cached_property
    def template_fingerprint(self) -> str:
        """Fingerprint of what turns messages into ids."""
        return fingerprint([self.encoder.template, list(self.encoder.stop_ids)])

    @cached_property
    def seed_parts(self) -> dict[str, tuple[SeedExample, ...]]:
        """Seed examples of the policy, of each witness, and those held out for calibration."""
        shares = {name: witness.seed_share for name, witness in self.recipe.witnesses.items()}
        if self.recipe.calibration is not None:
            shares[CALIBRATION] = self.recipe.calibration.seed_share
        return split_seed(self.data.seed_examples, shares, seed=self.recipe.seed)

    def parts(self, t: int) -> MethodParts:
        """Parts of the recipe's method at iteration t."""
        return self.extensions.parts(self.recipe, t)

    def prompts(self, t: int) -> tuple[Prompt, ...]:
        """What M_t answers in iteration t."""
        return self.sample_set(t).prompts

    def sample_set(self, t: int) -> SampleSet:
        """Completions of M_t in iteration t: for unlabelled prompts, or for M1's seed prompts."""
        if self.parts(t).prompts == "unlabelled":
            prompts, answers = self.data.prompts_for(t), {}
        else:
            prompts, answers = _with_answers(self.seed_parts[POLICY])
        return SampleSet(
            f"iteration-{t}", f"iteration {t}", f"M{t}", prompts, answers, ("sample", t)
        )

    def other_set(self, t: int, origin: str, model: str) -> SampleSet:
        """Completions of another model for the prompts of iteration t, as many as of M_t."""
        own = self.sample_set(t)
        return replace(
            own,
            folder=f"{own.folder}/{origin}",
            label=f"{own.label}, {origin}",
            model=model,
            seed_name=(*own.seed_name, origin),
            origin=origin,
        )

    def phase(self, t: int) -> Phase:
        """Iteration t itself: M_t to M_{t+1}."""
        return self._phase(t, f"iteration-{t}", f"iteration {t}", self.parts(t), f"M{t + 1}")

    def draft(self, t: int) -> Phase | None:
        """The training of the future model that comes before, if the method has one."""
        parts, others = self.parts(t).draft, self.parts(t).others
        if parts is None or others is None or others.future is None:
            return None
        folder, label = f"iteration-{t}/draft", f"iteration {t}, draft"
        return self._phase(t, folder, label, parts, others.future)

    def _phase(self, t: int, folder: str, label: str, parts: MethodParts, result: str) -> Phase:
        others = parts.others
        sets = [self.sample_set(t)]
        if others is not None:
            sets.append(self.other_set(t, PAST_ORIGIN, others.past))
            if others.future is not None:
                sets.append(self.other_set(t, FUTURE_ORIGIN, others.future))
        name = ("train", t) if result.startswith("M") else ("train", t, "draft")
        return Phase(t, folder, label, parts, tuple(sets), result, name)

    def calibration_set(self) -> SampleSet:
        """What M1 answers for calibration: held-out seed prompts, beside their completions."""
        prompts, answers = _with_answers(self.seed_parts[CALIBRATION])
        return SampleSet(CALIBRATION, CALIBRATION, "M1", prompts, answers, (CALIBRATION,))

    def loss_reference(self, t: int) -> str:
        """Name of the model that is the reference of the loss at iteration t."""
        match self.recipe.training.loss_reference:
            case "policy_at_start":
                return f"M{t}"
            case "sft":
                return "M1"
            case "seed":
                return "M0"

    def columns(self, t: int) -> tuple[str, ...]:
        """Models whose log-probabilities iteration t needs, M_t first, M0 always (for the KL)."""
        parts = self.parts(t)
        reported = parts.reported_columns if self.recipe.scoring.report_consistency else ()
        wanted = (f"M{t}", *parts.logp_columns, *reported, self.loss_reference(t), "M0")
        return tuple(dict.fromkeys(wanted))

    def models(self, t: int) -> tuple[str, ...]:
        """Models of earlier stages that iteration t scores under or samples from."""
        others = self.parts(t).others
        return (*self.columns(t), others.past) if others else self.columns(t)

    def encode(self, prompts: Sequence[Prompt], max_completion_tokens: int) -> list[EncodedPrompt]:
        """Token ids of prompts, refused where prompt and completion would not fit the context."""
        return encode_prompts(
            prompts, self.encoder, self.shelf.context_length, max_completion_tokens
        )

    def stage(self, name: str, inputs: dict[str, Any]) -> Stage:
        """A stage of this run; the run's seed is always among the inputs."""
        stage = self.run.stage(name, {"seed": self.recipe.seed, **inputs})
        if self.borrow is not None:
            self.borrow(stage)
        return stage

    def made_by(self, model: str) -> str:
        """Stage that made a model of this run: M1, M2, ..., F2, ... or a witness."""
        if model in self.recipe.witnesses:
            return f"witnesses/{model}/train"
        if model == "M1":
            return "sft/train"
        folder = f"iteration-{int(model[1:]) - 1}"
        return f"{folder}/draft/train" if model.startswith("F") else f"{folder}/train"

    def model_fingerprint(self, model: str) -> str:
        """Fingerprint of a model: of the weights for M0, of the stage that trained it otherwise."""
        if model == "M0":
            return self.seed_model_fingerprint
        return self.run.finished(self.made_by(model)).fingerprint

    def verified_by(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The user's verifier as an input of a stage that verifies these prompts, if it does."""
        verifier = self.extensions.verifier
        named = any(prompt.metadata.get("verifier") == CUSTOM for prompt in prompts)
        return {"verifier": verifier.fingerprint} if verifier is not None and named else {}

    def prompts_fingerprint(self, prompts: Sequence[Prompt]) -> str:
        """Fingerprint of prompts, their answers included."""
        return fingerprint([[p.prompt_id, p.task, p.answer, dict(p.metadata)] for p in prompts])


def encode_prompts(
    prompts: Sequence[Prompt],
    encoder: ChatEncoder,
    context_length: int | None,
    max_completion_tokens: int,
) -> list[EncodedPrompt]:
    """Token ids of prompts.

    Raises:
        DataError: A prompt and its completion would not fit the context.
    """
    encoded = [EncodedPrompt(p, encoder.encode_prompt(p.messages)) for p in prompts]
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
