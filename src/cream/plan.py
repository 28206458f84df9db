"""The plan of a run: every stage it will make, in running order, built once before anything runs.

Read it like the loop itself: M0 is measured, fine-tuning makes M1 and the witnesses, then each
iteration samples, scores, pairs, trains and evaluates. The list is what is executed
(`cream.loop.iterations`), shown (`cream plan`, progress), stored in the run directory and reported
from; no stage exists that does not stand here.

Paper numbering: iteration t turns M_t into M_{t+1}; what comes before the loop has t = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from cream.data.dataset import LoadedData
from cream.data.splits import POLICY, split_seed
from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.pairing import (
    AllPairs,
    BestRandom,
    BestWorst,
    MajorityVote,
    PairingConfig,
    TopBottom,
)
from cream.recipe.parts import Calibrated, MethodParts
from cream.records import StageKind, StageSpec
from cream.runs.plan import StoredPlan, TokenCounts
from cream.runs.tables import FROM_DATA, FUTURE_ORIGIN, PAST_ORIGIN, POLICY_ORIGIN
from cream.types import EncodedPrompt, Message, Prompt, SeedExample

CALIBRATION = "calibration"
"""Part of the seed examples that no model is fine-tuned on, and the folder of their stages."""
CALIBRATION_MATRIX = f"{CALIBRATION}/matrix"
FROZEN_TEST = "data/test"
"""Stage that keeps the test prompts."""
TEST = "test"
"""Source of test prompts."""
VERIFIER = "verifier"
"""Score column that every run has: reports say how many pairs are right."""
COLUMNS_WITHOUT_MODEL: Mapping[str, tuple[StageKind, str]] = {
    VERIFIER: ("verify", "verify"),
    FROM_DATA: ("mark", "mark the data's completions"),
}
"""Score columns that no model fills: the kind of their stage, and what it does in words."""

PartsAt = Callable[[int], MethodParts]
"""Iteration t >= 1 to what the method reads and does in it."""


@dataclass(frozen=True)
class SampleSet:
    """Prompts that one model answers, with what the data answer to them."""

    prompts: tuple[Prompt, ...]
    answers: Mapping[str, Sequence[str]]
    """Per prompt id the completions that the data have for it. They join the sampled ones. Empty
    if no prompt has any."""
    seed_name: tuple[str | int, ...]
    """Name from which the seeds of the completions derive."""


@dataclass(frozen=True)
class RunPlan:
    """The stages of a run, and the data that they work on."""

    stages: tuple[StageSpec, ...]
    """In running order; each name once."""
    sets: Mapping[str, SampleSet]
    """By the name of the stage that samples."""
    frozen: Mapping[str, tuple[Prompt, ...]]
    """Prompts that the run keeps a copy of, by the name of the stage that writes it."""
    seed_parts: Mapping[str, tuple[SeedExample, ...]]
    """Seed examples of the policy, of each witness, and those held out for calibration."""
    parts: PartsAt

    def at(self, t: int) -> list[StageSpec]:
        """Stages of iteration t, or those before the loop (0)."""
        return [spec for spec in self.stages if spec.t == t]

    def named(self, name: str) -> StageSpec:
        """The stage of that name."""
        return next(spec for spec in self.stages if spec.name == name)

    def maker(self, model: str) -> StageSpec:
        """The stage that makes a model of this run.

        Raises:
            KeyError: No stage makes it: it is M0, or no model of the run.
        """
        for spec in self.stages:
            if spec.result == model:
                return spec
        raise KeyError(model)

    def prompts(self, t: int) -> tuple[Prompt, ...]:
        """What M_t answers in iteration t."""
        own = next(spec for spec in self.at(t) if spec.kind == "sample")
        return self.sets[own.name].prompts

    def phase_parts(self, spec: StageSpec) -> MethodParts:
        """What the method does in the iteration, or the draft, that a stage is part of."""
        parts = self.parts(spec.t)
        return (parts.draft or parts) if spec.draft else parts

    def pairing(self, t: int) -> StageSpec:
        """The stage that makes the pairs of iteration t, not those of its draft."""
        return next(s for s in self.at(t) if s.kind == "pair" and not s.draft)

    def measured(self) -> list[str]:
        """Models that are evaluated, in order: M0, M1, ..."""
        return [str(spec.model) for spec in self.stages if spec.kind == "evaluate"]

    def stored(self, iterations: int) -> StoredPlan:
        """What a run directory keeps of it."""
        parts = {t: self.parts(t) for t in range(1, iterations + 1)}
        return StoredPlan(stages=self.stages, parts=parts)


def build_plan(recipe: Recipe, data: LoadedData, parts: PartsAt) -> RunPlan:
    """Every stage that a recipe asks for, finished or not.

    Args:
        recipe: What to run.
        data: Its data.
        parts: Of its method, which may be composed in Python.

    Raises:
        RecipeError: A stage needs a model that no stage before it makes.
    """
    planner = _Planner(recipe, data, parts)
    stages = [*planner.opening()]
    for t in range(1, recipe.iterations + 1):
        stages += planner.iteration(t)
    once = {spec.name: spec for spec in reversed(stages)}
    plan = RunPlan(
        tuple(once.values())[::-1], planner.sets, planner.frozen, planner.seed_parts, parts
    )
    _refuse_missing_models(recipe, plan.stages)
    return plan


def columns(recipe: Recipe, parts: MethodParts, t: int) -> tuple[str, ...]:
    """Models whose log-probabilities iteration t needs, M_t first, M0 always (for the KL)."""
    reported = parts.reported_columns if recipe.scoring.report_consistency else ()
    wanted = (f"M{t}", *parts.logp_columns, *reported, loss_reference(recipe, t), "M0")
    return tuple(dict.fromkeys(wanted))


def loss_reference(recipe: Recipe, t: int) -> str:
    """Name of the model that is the reference of the loss at iteration t."""
    match recipe.training.loss_reference:
        case "policy_at_start":
            return f"M{t}"
        case "sft":
            return "M1"
        case "seed":
            return "M0"


def models_kept_for(recipe: Recipe, parts: MethodParts, t: int) -> tuple[str, ...]:
    """Models of earlier stages that iteration t scores under or samples from."""
    others = parts.others
    return (*columns(recipe, parts, t), *((others.past,) if others else ()))


def unneeded_models(plan: RunPlan, recipe: Recipe, t: int) -> list[str]:
    """Models of the loop that nothing reads any more once iteration t is over."""
    # Needed is what the iteration after the last one would need too: T may be raised later.
    needed = models_kept_for(recipe, plan.parts(t + 1), t + 1)
    made = [
        spec.result
        for spec in plan.stages
        if spec.result is not None
        and spec.seed_part in (None, POLICY)  # witnesses are kept
        and (spec.t < t or (spec.t == t and spec.draft))
    ]
    return [name for name in made if name not in needed]


def token_counts(
    plan: RunPlan,
    encode_prompts: Callable[[Sequence[Prompt]], Sequence[EncodedPrompt]],
    encode_completion: Callable[[Sequence[Message], str], Sequence[int]],
) -> dict[str, TokenCounts]:
    """Mean lengths of the prompts of each source that the plan names."""
    counts: dict[str, TokenCounts] = {}
    for spec in plan.stages:
        if spec.source is None or spec.source in counts:
            continue
        examples = plan.seed_parts[spec.seed_part] if spec.seed_part is not None else ()
        if examples:
            prompts = tuple(example.prompt for example in examples)
        elif spec.kind == "sample":
            prompts = plan.sets[spec.name].prompts
        else:  # evaluations alone read prompts that nothing else has
            prompts = plan.frozen[FROZEN_TEST]
        lengths = [len(item.token_ids) for item in encode_prompts(prompts)]
        answers = [len(encode_completion(e.prompt.messages, e.completion)) for e in examples]
        counts[spec.source] = TokenCounts(
            prompt=sum(lengths) / len(lengths),
            completion=sum(answers) / len(answers) if answers else None,
        )
    return counts


def most_pairs(rule: PairingConfig, group: int) -> int:
    """The most pairs that a rule makes of one prompt with `group` completions."""
    match rule:
        case BestWorst() | BestRandom() | MajorityVote():
            return 1
        case AllPairs():
            return group * (group - 1) // 2
        case TopBottom(k=k):
            return min(k * k, group * (group - 1) // 2)
        case _:
            assert_never(rule)


@dataclass(frozen=True)
class _Sampled:
    """A stage that samples, with what the stages that read its completions are called after."""

    spec: StageSpec
    folder: str
    label: str
    completions: int
    """Those of the data included."""


class _Planner:
    """Writes the stages down, in the order of the loop."""

    def __init__(self, recipe: Recipe, data: LoadedData, parts: PartsAt) -> None:
        self.recipe, self.data, self.parts = recipe, data, parts
        self.sets: dict[str, SampleSet] = {}
        prompts = {t: data.prompts_for(t) for t in range(1, recipe.iterations + 1)}
        self.frozen = {f"data/prompts-{t}": items for t, items in prompts.items()}
        self.frozen[FROZEN_TEST] = data.test
        shares = {name: witness.seed_share for name, witness in recipe.witnesses.items()}
        if recipe.calibration is not None:
            shares[CALIBRATION] = recipe.calibration.seed_share
        self.seed_parts = split_seed(data.seed_examples, shares, seed=recipe.seed)

    def opening(self) -> Iterator[StageSpec]:
        """What comes before the loop: data, M0, M1, witnesses, calibration."""
        yield from self._freeze()
        yield from self._evaluate("M0", "seed-model", 0)
        yield self._fine_tune("M1", POLICY, "sft/train")
        yield from self._evaluate("M1", "sft", 0)
        for name in self.recipe.witnesses:
            yield self._fine_tune(name, name, f"witnesses/{name}/train")
        if self.recipe.calibration is not None:
            held_out = _with_answers(self.seed_parts[CALIBRATION], (CALIBRATION,))
            samples = self._sample(CALIBRATION, CALIBRATION, "M1", held_out, 0)
            yield samples.spec
            scores = [self._score(samples, m) for m in ("M1", "M0", *self.recipe.witnesses)]
            yield from scores
            yield self._matrix(CALIBRATION, [samples], scores, draft=False)

    def iteration(self, t: int) -> Iterator[StageSpec]:
        """Iteration t: sample from M_t, score, pair, train M_{t+1}, evaluate it.

        A method that pairs completions of other models has these sampled too; one of them, the
        future model, is trained here first, from the pairs of a draft of the iteration.
        """
        folder, label, parts = f"iteration-{t}", f"iteration {t}", self.parts(t)
        own = self._sample(folder, label, f"M{t}", self._prompts(t), t)
        sets, others = [own], parts.others
        if others is not None:
            sets.append(self._other(own, others.past, PAST_ORIGIN))
            if others.future is not None and parts.draft is not None:
                yield from (samples.spec for samples in sets)
                draft = f"{folder}/draft", f"{label}, draft"
                yield from self._learn(*draft, sets, parts.draft, others.future, draft=True)
                sets.append(self._other(own, others.future, FUTURE_ORIGIN))
        yield from (samples.spec for samples in sets)
        yield from self._learn(folder, label, sets, parts, f"M{t + 1}", draft=False)
        yield from self._evaluate(f"M{t + 1}", folder, t)

    def _learn(
        self,
        folder: str,
        label: str,
        sets: Sequence[_Sampled],
        parts: MethodParts,
        result: str,
        *,
        draft: bool,
    ) -> Iterator[StageSpec]:
        """Score the sets, pair, and train M_t to `result`."""
        own = sets[0].spec
        t, scores = own.t, list[StageSpec]()
        for samples in sets:
            scores += [self._score(samples, m) for m in columns(self.recipe, self.parts(t), t)]
            scores += [self._score_column(samples, name) for name in score_columns(self.parts(t))]
        yield from scores
        matrix = self._matrix(folder, sets, scores, draft=draft)
        yield matrix
        calibrated = (CALIBRATION_MATRIX,) if is_calibrated(self.parts(1)) else ()
        pairs = StageSpec(
            name=f"{folder}/pair",
            kind="pair",
            label=f"{label}: pair",
            t=t,
            draft=draft,
            inputs=(matrix.name, *calibrated),
            source=own.source,
            prompts=own.prompts,
            completions=sets[0].completions * len(sets),
        )
        yield pairs
        group = self.recipe.sampling.num_completions * len(sets)
        yield StageSpec(
            name=f"{folder}/train",
            kind="train",
            label=f"{label}: train M{t} -> {result}",
            t=t,
            draft=draft,
            model=f"M{t}",
            result=result,
            reference=loss_reference(self.recipe, t),
            inputs=(pairs.name, matrix.name),
            source=own.source,
            prompts=own.prompts,
            completions=2 * own.prompts * most_pairs(parts.pairing, group),
            epochs=self.recipe.training.epochs,
        )

    def _freeze(self) -> Iterator[StageSpec]:
        examples = len(self.data.seed_examples)
        for name, items in self.frozen.items():
            yield StageSpec(name=name, kind="freeze_prompts", label=name, prompts=len(items))
        name = "data/seed"
        yield StageSpec(name=name, kind="freeze_seed", label=name, prompts=examples)
        if len(self.seed_parts) > 1:
            name = "data/seed-parts"
            yield StageSpec(name=name, kind="freeze_seed_parts", label=name, prompts=examples)

    def _evaluate(self, model: str, folder: str, t: int) -> Iterator[StageSpec]:
        if not self.data.test:
            return
        settings, prompts = self.recipe.evaluation, len(self.data.test)
        yield StageSpec(
            name=f"{folder}/evaluate",
            kind="evaluate",
            label=f"evaluate {model}",
            t=t,
            model=model,
            source=TEST,
            prompts=prompts,
            completions=prompts * (1 + settings.num_samples),
            max_completion_tokens=settings.max_completion_tokens,
        )

    def _fine_tune(self, result: str, part: str, name: str) -> StageSpec:
        examples = len(self.seed_parts[part])
        return StageSpec(
            name=name,
            kind="fine_tune",
            label=f"fine-tune M0 -> {result}",
            model="M0",
            result=result,
            seed_part=part,
            source=f"seed/{part}",
            prompts=examples,
            completions=examples,
            epochs=self.recipe.sft.epochs,
        )

    def _prompts(self, t: int) -> SampleSet:
        """Unlabelled prompts, or M1's seed prompts beside their completions."""
        if self.parts(t).prompts == "unlabelled":
            return SampleSet(self.data.prompts_for(t), {}, ("sample", t))
        return _with_answers(self.seed_parts[POLICY], ("sample", t))

    def _sample(
        self,
        folder: str,
        label: str,
        model: str,
        samples: SampleSet,
        t: int,
        origin: str = POLICY_ORIGIN,
        source: str | None = None,
    ) -> _Sampled:
        settings, count = self.recipe.sampling, len(samples.prompts)
        drawn = count * settings.num_completions
        spec = StageSpec(
            name=f"{folder}/sample",
            kind="sample",
            label=f"{label}: sample from {model}",
            t=t,
            model=model,
            origin=origin,
            source=source or folder,
            prompts=count,
            completions=drawn,
            max_completion_tokens=settings.max_completion_tokens,
        )
        self.sets[spec.name] = samples
        brought = sum(map(len, samples.answers.values()))
        return _Sampled(spec, folder, label, drawn + brought)

    def _other(self, own: _Sampled, model: str, origin: str) -> _Sampled:
        """Completions of another model for the prompts of an iteration, as many as of M_t."""
        samples, source = self.sets[own.spec.name], own.spec.source
        named = replace(samples, seed_name=(*samples.seed_name, origin))
        folder, label = f"{own.folder}/{origin}", f"{own.label}, {origin}"
        return self._sample(folder, label, model, named, own.spec.t, origin, source)

    def _score(self, samples: _Sampled, model: str) -> StageSpec:
        return self._read(samples, f"score/{model}", "score", f"score under {model}", model=model)

    def _score_column(self, samples: _Sampled, name: str) -> StageSpec:
        kind, words = COLUMNS_WITHOUT_MODEL.get(name, ("text_score", f"score by {name}"))
        return self._read(samples, f"score/{name}", kind, words, column=name)

    def _read(
        self,
        samples: _Sampled,
        name: str,
        kind: StageKind,
        words: str,
        *,
        model: str | None = None,
        column: str | None = None,
    ) -> StageSpec:
        """A stage that reads the completions of a set."""
        return StageSpec(
            name=f"{samples.folder}/{name}",
            kind=kind,
            label=f"{samples.label}: {words}",
            t=samples.spec.t,
            inputs=(samples.spec.name,),
            source=samples.spec.source,
            prompts=samples.spec.prompts,
            completions=samples.completions,
            model=model,
            column=column,
        )

    def _matrix(
        self, folder: str, sets: Sequence[_Sampled], scores: Sequence[StageSpec], *, draft: bool
    ) -> StageSpec:
        read = (*(samples.spec for samples in sets), *scores)
        return StageSpec(
            name=f"{folder}/matrix",
            kind="matrix",
            label=f"{sets[0].label}: score matrix",
            t=sets[0].spec.t,
            draft=draft,
            inputs=tuple(spec.name for spec in read),
            source=sets[0].spec.source,
            prompts=sets[0].spec.prompts,
            completions=sets[0].completions,
        )


def score_columns(parts: MethodParts) -> tuple[str, ...]:
    """Columns beside the log-probabilities: the verdicts always, others as the method says."""
    return tuple(dict.fromkeys((VERIFIER, *parts.score_columns)))


def is_calibrated(parts: MethodParts) -> bool:
    """Whether C comes from counts on held-out seed examples."""
    return parts.agreement is not None and isinstance(parts.agreement.level, Calibrated)


def _with_answers(examples: Sequence[SeedExample], seed_name: tuple[str | int, ...]) -> SampleSet:
    prompts = {example.prompt.prompt_id: example.prompt for example in examples}
    answers: dict[str, list[str]] = {key: [] for key in prompts}
    for example in examples:
        answers[example.prompt.prompt_id].append(example.completion)
    return SampleSet(tuple(prompts.values()), answers, seed_name)


def _refuse_missing_models(recipe: Recipe, stages: Sequence[StageSpec]) -> None:
    """A method that names a model which the run will not have fails now, not after sampling."""
    made = ["M0"]
    for spec in stages:
        if spec.model is not None and spec.model not in made:
            witnesses = ", ".join(recipe.witnesses) or "none"
            raise RecipeError(
                f"method {recipe.method.name} asks {spec.model} at iteration {spec.t}; models "
                f"there: M0 to M{spec.t}, and the witnesses of the recipe ({witnesses}). Add it "
                "under `witnesses`"
            )
        if spec.result is not None:
            made.append(spec.result)
